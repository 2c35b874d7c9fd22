package stage

import "github.com/clara-suite/clara/services/trainer/torch/internal/model"

// stage12 is compression instruction tuning (spec clara-model §5, `stage1_2`): instruction_data.jsonl, up to
// generation_top_k documents a sample, of which the decoder answers a question. Trained: the encoder adapter as stage 1 left
// it and a decoder adapter that starts anew; memory rows are frozen. Loss: cross-entropy + 0.1 MSE.
func stage12(r *Run) error {
	if err := r.trains([]*model.Adapter{r.Encoder, r.Decoder}, false); err != nil {
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
