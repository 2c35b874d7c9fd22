package net

import (
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
)

// Read is the forward pass of stages 1 and 2: the documents of all samples, in order, are compressed, and the decoder reads
// them. mse asks for the MSE term of the documents, nil otherwise.
func (n *Net) Read(s scope, docs [][]int32, inputs []prompt.Encoded, encoder, decoder model.Pass, mse bool) (Loss, Compressed, error) {
	c := n.Compress(s, docs, encoder, mse)
	l, err := n.Decode(s, inputs, c.Memory, decoder)
	return l, c, err
}

// Ranking is what a question makes of its candidates.
type Ranking struct {
	Query  tensor // [1, m*H]
	Scores tensor // [N]
	TopK
}

// Rank is the first half of stage 3: questions are compressed by the pass's adapter and score their candidates' memories
// d[i] [N_i, m*H]; k of each are chosen.
func (n *Net) Rank(s scope, questions [][]int32, d []tensor, k int, p model.Pass) ([]Ranking, error) {
	q := n.Compress(s, questions, p, false)
	out := make([]Ranking, len(d))
	for i := range d {
		r := &out[i]
		r.Query = s.Reshape(s.Narrow(q.Memory, 0, int64(i*n.M), int64(n.M)), 1, -1)
		r.Scores = Scores(s, r.Query, d[i])
		var err error
		if r.TopK, err = Choose(s, r.Scores, k, Tau); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Slots are the chosen memories of all questions one after another, [n * k * m, H], as Decode reads them: the second half.
func (n *Net) Slots(s scope, ranked []Ranking, d []tensor) tensor {
	slots := make([]tensor, len(d))
	for i := range d {
		slots[i] = n.Select(s, ranked[i].TopK, d[i])
	}
	return s.Cat(0, slots...)
}
