package stage

import (
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// stage2PretrainRetrieval is the retrieval warm-up (spec clara-model §5, `stage2_pretrain_retrieval`): end_to_end_data.jsonl
// with pos_index; samples without positives are left out. Trained: the query-reasoner adapter. Loss: the negative share of
// the positives in a softmax over all candidates' cosines / 0.02, averaged over samples.
func stage2PretrainRetrieval(r *Run) error {
	if err := r.trains([]*model.Adapter{r.Reasoner}, false); err != nil {
		return err
	}
	if err := r.keepMemories(); err != nil {
		return err
	}
	rank := func(s scope, b batch, tape *torchx.Tape) (result, error) {
		docs := b.candidates()
		d, err := r.compressed(s, b, docs)
		if err != nil {
			return result{}, err
		}
		ranked, err := r.chosen(s, b, d, tape)
		if err != nil {
			return result{}, err
		}
		var loss tensor
		for i, x := range b.samples {
			one := net.RetrievalLoss(s, ranked[i].Scores, b.data.Samples[x].Positives, net.Tau)
			if loss == nil {
				loss = one
			} else {
				loss = s.Add(loss, one)
			}
		}
		return result{loss: loss, picked: picks(ranked, docs)}, nil
	}
	for r.Next() {
		for _, b := range r.Batches() {
			if err := r.Backward(b, rank); err != nil {
				return err
			}
		}
		if err := r.Step(rank); err != nil {
			return err
		}
	}
	return r.Finish(rank)
}
