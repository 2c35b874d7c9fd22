package stage

import (
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// stage1 is compression pretraining (spec clara-model §5, `stage1`): pretrain_data.jsonl, one document a sample. The encoder
// compresses it, the decoder answers questions about it or says it again. Trained: encoder and decoder adapter, and the
// memory rows where the model is fresh. Loss: cross-entropy + 0.1 MSE.
func stage1(r *Run) error {
	if err := r.trains([]*model.Adapter{r.Encoder, r.Decoder}, r.Fresh); err != nil {
		return err
	}
	read := r.read
	for r.Next() {
		for _, b := range r.Batches() {
			if err := r.Backward(b, read); err != nil {
				return err
			}
		}
		if err := r.Step(read); err != nil {
			return err
		}
	}
	return r.Finish(read)
}

// read is the forward pass of stages 1 and 2: all documents of the micro batch are compressed with gradient, then read.
func (r *Run) read(s scope, b batch, tape *torchx.Tape) (result, error) {
	docs, inputs := b.docs(), b.inputs()
	ce, c, err := r.Net.Read(s, docs, inputs, r.pass(s, b, r.Encoder, 0, tape), r.pass(s, b, r.Decoder, 1, tape), r.plan.MSE)
	r.spent(tokens(docs)+inputTokens(b), true)
	return result{ce: &ce, mse: c.MSE, memory: c.Memory}, err
}

func tokens(in [][]int32) (n int) {
	for _, x := range in {
		n += len(x)
	}
	return n
}

func inputTokens(b batch) (n int) {
	b.each(func(s *Sample) { n += len(s.Input.IDs) })
	return n
}
