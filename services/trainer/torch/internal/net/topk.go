package net

import (
	"math"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Tau is the temperature of scores in stage 3.
const Tau = 0.02

// Scores returns the cosines between a flattened query q [1, m*H] and documents d [N, m*H], normalised in their own type, as
// float32 [N].
func Scores(s scope, q, d tensor) tensor {
	return s.Sub(func(s scope) tensor {
		a, b := s.To(s.Normalize(q), torchx.Float32), s.To(s.Normalize(d), torchx.Float32)
		return s.Reshape(s.MatMul(b, s.Transpose(a, 0, 1)), -1)
	})
}

// TopK is the differentiable choice of spec §5: W [k, N] is one-hot in value and has the gradient of a sequence of softmaxes
// over scores [N] / tau, each of which leaves out what was picked before.
type TopK struct {
	W, Soft tensor
	Index   []int // the k picks, best first; ties go to the lower index
}

// Choose picks k of N; k > N is an Invalid error.
func Choose(s scope, scores tensor, k int, tau float64) (TopK, error) {
	v := scores.Float32s()
	n := len(v)
	if k < 1 || k > n {
		return TopK{}, clara.Errorf(clara.Invalid, "generation_top_k is %d with %d candidates: lower it or give more candidates", k, n)
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) {
			return TopK{}, clara.Errorf(clara.Invalid, "the score of candidate %d is not a number", i)
		}
	}
	hard, mask := make([]float32, k*n), make([]float32, k*n)
	taken := make([]bool, n)
	index := make([]int, k)
	for j := range k {
		best := -1
		for i := range n {
			if taken[i] {
				mask[j*n+i] = float32(math.Log(1e-8))
			} else if best < 0 || v[i] > v[best] {
				best = i
			}
		}
		taken[best], index[j] = true, best
		hard[j*n+best] = 1
	}
	dev := scores.Info().Device
	t := TopK{Index: index}
	logits := s.Add(s.Times(s.Reshape(scores, 1, int64(n)), 1/tau), s.Floats(mask, dev, int64(k), int64(n)))
	t.Soft = s.Softmax(logits)
	t.W = s.Add(s.Floats(hard, dev, int64(k), int64(n)), s.Minus(t.Soft, s.Leaf(t.Soft, false)))
	return t, nil
}

// Select returns the chosen documents' memories W [k, N] x d [N, m*H] as [k * m, H].
func (n *Net) Select(s scope, t TopK, d tensor) tensor {
	return s.Reshape(s.MatMul(t.W, s.To(d, torchx.Float32)), -1, int64(n.Arch.Hidden))
}

// RetrievalLoss is -(logsumexp over positives - logsumexp over all) of scores [N] / tau; positives must not be empty.
func RetrievalLoss(s scope, scores tensor, positives []int, tau float64) tensor {
	logits := s.Times(scores, 1/tau)
	idx := make([]int64, len(positives))
	for i, p := range positives {
		idx[i] = int64(p)
	}
	pos := s.LogSumExp(s.Rows(logits, s.Ints(idx, scores.Info().Device)))
	return s.Minus(s.LogSumExp(logits), pos)
}
