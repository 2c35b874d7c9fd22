package stage

import (
	"slices"

	"github.com/clara-suite/clara/libs/clara"
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
	if r.plan.MIPS {
		if err := r.fillIndexes(); err != nil {
			return err
		}
	}
	choose := func(s scope, b batch, tape *torchx.Tape) (result, error) {
		docs := b.candidates()
		if r.plan.MIPS {
			docs = r.search(b)
		}
		d, err := r.compressed(s, b, docs)
		if err != nil {
			return result{}, err
		}
		ranked, err := r.chosen(s, b, d, tape)
		if err != nil {
			return result{}, err
		}
		memory := r.Slots(s, ranked, d)
		ce, err := r.Decode(s, b.inputs(), memory, r.pass(s, b, r.Decoder, 1, tape))
		r.spent(inputTokens(b), true)
		return result{ce: &ce, picked: picks(ranked, docs), memory: memory}, err
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

// candidates are the documents of each sample.
func (b batch) candidates() (docs [][]int) {
	b.each(func(x *Sample) { docs = append(docs, x.Docs) })
	return docs
}

// compressed returns the memories of each sample's documents, [N_i, m*H]; what is not compressed yet is.
func (r *Run) compressed(s scope, b batch, docs [][]int) ([]tensor, error) {
	before := r.clock.phase
	r.clock.to("compress")
	n, err := b.mem.compress(slices.Concat(docs...))
	r.clock.to(before)
	if err != nil {
		return nil, err
	}
	r.spent(int(n), false)
	var d []tensor
	for _, x := range docs {
		d = append(d, b.mem.tensor(s, x))
	}
	return d, nil
}

// picks are the documents that were chosen, best first.
func picks(ranked []net.Ranking, docs [][]int) [][]int {
	out := make([][]int, len(ranked))
	for i, x := range ranked {
		for _, k := range x.Index {
			out[i] = append(out[i], docs[i][k])
		}
	}
	return out
}

// fillIndexes compresses every document before the first step: with stage2_mips each of them is a candidate of any question.
func (r *Run) fillIndexes() error {
	r.phase("compressing the documents")
	for _, m := range []*memories{r.memories, r.evalMem} {
		if m == nil {
			continue
		}
		all := make([]int, len(m.docs))
		for i := range all {
			all[i] = i
		}
		if _, err := m.compress(all); err != nil {
			return err
		}
		if len(all) < r.plan.Candidates {
			return clara.Errorf(clara.Invalid, "stage2_retrieval_top_n is %d and the data has %d documents: lower it", r.plan.Candidates, len(all))
		}
	}
	return nil
}

// search finds each question's candidates among all documents, by the cosine that ranks them later.
func (r *Run) search(b batch) (docs [][]int) {
	before := r.clock.phase
	r.clock.to("search")
	defer r.clock.to(before)
	queries := b.queries()
	r.spent(tokens(queries), false)
	torchx.NoGrad(func() {
		inner, done := torchx.Open()
		defer done()
		q := r.Compress(inner, queries, r.pass(inner, b, r.Reasoner, 0, nil), false)
		docs = b.mem.nearest(inner, inner.Reshape(q.Memory, int64(len(queries)), -1), r.plan.Candidates)
	})
	return docs
}

// chosen scores and chooses the candidates of each sample.
func (r *Run) chosen(s scope, b batch, d []tensor, tape *torchx.Tape) ([]net.Ranking, error) {
	queries := b.queries()
	r.spent(tokens(queries), true)
	return r.Rank(s, queries, d, r.plan.TopK, r.pass(s, b, r.Reasoner, 0, tape))
}
