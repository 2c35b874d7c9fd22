// Package stage runs the training stages of spec clara-model §5, one file each: stage1.go, stage1_2.go, stage2.go,
// stage2_pretrain_retrieval.go, stage2_reasoning.go. A file says what is trained on what, and shows the loop; what the loops
// share is in Run.
//
// A step's batch is weighted by its targets, however it is cut into micro batches and over ranks: the loss is the
// cross-entropy of all targets of the batch over their number, plus 0.1 times the mean over all its documents of the MSE
// term. So micro_train_batch_size, the number of ranks and the order within a batch change rounding and speed, not results.
//
// Everything random follows from the seed, the step and the place in it (order of samples, dropout, paraphrase instructions),
// so a checkpoint needs no generator's state, and a resumed run makes the same steps, bit for bit on one CPU thread.
package stage
