package stage

import (
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// stage2Reasoning trains the decoder on reasoning traces (spec clara-model §5, `stage2_reasoning`): answers that hold
// <think>, <search>, <information> and <answer> spans; what a search put between <information> tags is no target. A sample's
// first generation_top_k documents are in its slots. Trained: the decoder adapter; documents are compressed without
// gradient, each once. Loss: cross-entropy.
func stage2Reasoning(r *Run) error {
	if err := r.trains([]*model.Adapter{r.Decoder}, false); err != nil {
		return err
	}
	if err := r.keepMemories(); err != nil {
		return err
	}
	follow := func(s scope, b batch, tape *torchx.Tape) (result, error) {
		docs := b.candidates()
		d, err := r.compressed(s, b, docs)
		if err != nil {
			return result{}, err
		}
		for i, x := range b.inputs() {
			d[i] = s.Reshape(s.Narrow(d[i], 0, 0, int64(len(x.Slots))), -1, int64(r.Arch.Hidden))
		}
		memory := s.Cat(0, d...)
		ce, err := r.Decode(s, b.inputs(), memory, r.pass(s, b, r.Decoder, 1, tape))
		r.spent(inputTokens(b), true)
		return result{ce: &ce, memory: memory}, err
	}
	for r.Next() {
		for _, b := range r.Batches() {
			if err := r.Backward(b, follow); err != nil {
				return err
			}
		}
		if err := r.Step(follow); err != nil {
			return err
		}
	}
	return r.Finish(follow)
}
