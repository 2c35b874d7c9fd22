package stage

import (
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// stage2 is end-to-end training (spec clara-model §5, `stage2`): end_to_end_data.jsonl, N candidates a question. The query
// reasoner's vector scores the candidates, a differentiable top-k chooses k of them, the decoder answers from their
// memories. Trained: query-reasoner and decoder adapter; documents are compressed without gradient, each once. Loss:
// cross-entropy.
func stage2(r *Run) error {
	if err := r.trains([]*model.Adapter{r.Reasoner, r.Decoder}, false); err != nil {
		return err
	}
	if err := r.keepMemories(); err != nil {
		return err
	}
	choose := func(s scope, b batch, tape *torchx.Tape) (result, error) {
		d, err := r.candidates(s, b)
		if err != nil {
			return result{}, err
		}
		ranked, err := r.chosen(s, b, d, tape)
		if err != nil {
			return result{}, err
		}
		ce, err := r.ReadChosen(s, ranked, d, b.inputs(), r.pass(s, b, r.Decoder, 1, tape))
		r.spent(inputTokens(b), r.gradFactor())
		return result{ce: &ce, ranked: ranked}, err
	}
	for r.Next() {
		for _, b := range r.Batches() {
			if err := r.Backward(b, choose); err != nil {
				return err
			}
		}
		if err := r.Step(choose); err != nil {
			return err
		}
	}
	return r.Finish(choose)
}

// candidates returns the memories of each sample's candidates, [N_i, m*H]; what is not compressed yet is.
func (r *Run) candidates(s scope, b batch) ([]tensor, error) {
	var all []int
	b.each(func(x *Sample) { all = append(all, x.Docs...) })
	before := r.clock.phase
	r.clock.to("compress")
	n, err := b.mem.compress(all)
	r.clock.to(before)
	if err != nil {
		return nil, err
	}
	r.spent(int(n), 1)
	var d []tensor
	b.each(func(x *Sample) { d = append(d, b.mem.tensor(s, x.Docs)) })
	return d, nil
}

// chosen scores and chooses the candidates of each sample.
func (r *Run) chosen(s scope, b batch, d []tensor, tape *torchx.Tape) ([]net.Ranking, error) {
	queries := b.queries()
	r.spent(tokens(queries), r.gradFactor())
	return r.Rank(s, queries, d, r.plan.TopK, r.pass(s, b, r.Reasoner, 0, tape))
}
