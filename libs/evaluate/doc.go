// Package evaluate measures a model on question answering data (spec clara-model §8)
// through the running services, so that what is measured is what users get: each
// question is answered from memories, from the same passages as text (the baseline
// that has to stand beside every figure) and from nothing.
//
// In the end-to-end mode the model ranks the candidates of a sample and answers from
// the best k; in the instruction mode it answers from all documents of a sample. The
// normal setting takes the documents as they are, the oracle setting the positives
// alone. A model without an encoder ranks by BM25, and the report says so. The
// paraphrase mode asks what is left of a document in its memory, the mse mode how far
// the memory lies from the states of the text (spec clara-model §3), and plots it.
//
// The output folder gets predictions.jsonl (every prediction, as it comes),
// report.json, report.md and report.html. An evaluation that was broken off goes on
// where it was; a folder of another evaluation is refused (Exists).
//
// Errors: Invalid (settings, data), Exists, Unavailable (files), those of the
// services. A Runner is not safe for concurrent use.
package evaluate
