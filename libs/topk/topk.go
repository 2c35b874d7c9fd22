package topk

import (
	"math"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
)

// takenEps is what log sees of a pick that earlier slots have taken.
const takenEps = 1e-8

// Select returns the indices of the k largest scores, best first, ties to the
// lower index. NaN ranks below everything. It is an Invalid error if k is not
// in 1..len(scores).
func Select(scores []float64, k int) ([]int, error) {
	if k < 1 || k > len(scores) {
		return nil, clara.Errorf(clara.Invalid, "take the top %d of %d candidates: k must lie between 1 and the number of candidates", k, len(scores))
	}
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := scores[a], scores[b]
		switch {
		case x > y || math.IsNaN(y) && !math.IsNaN(x):
			return -1
		case y > x || math.IsNaN(x) && !math.IsNaN(y):
			return 1
		}
		return 0
	})
	return order[:k], nil
}

// Result is the outcome of one top-k.
type Result struct {
	Index []int // k picks, best first
	N     int
	soft  []float64 // [k, N]
	tau   float64
}

// Compute selects the top k of scores and keeps what Gradient needs.
func Compute(scores []float64, k int, tau float64) (Result, error) {
	if !(tau > 0) {
		return Result{}, clara.Errorf(clara.Invalid, "top-k at temperature %g: it must be positive", tau)
	}
	index, err := Select(scores, k)
	if err != nil {
		return Result{}, err
	}
	n := len(scores)
	r := Result{Index: index, N: n, soft: make([]float64, k*n), tau: tau}
	taken := make([]bool, n)
	for j, pick := range index {
		row := r.soft[j*n : (j+1)*n]
		for i, s := range scores {
			row[i] = s / tau
			if taken[i] {
				row[i] += math.Log(takenEps)
			} else {
				row[i] += math.Log(1 + takenEps)
			}
		}
		softmax(row)
		taken[pick] = true
	}
	return r, nil
}

func softmax(x []float64) {
	top := slices.Max(x)
	sum := 0.0
	for i := range x {
		x[i] = math.Exp(x[i] - top)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
}

// W returns the straight-through weights [k, N] in value: one-hot rows.
func (r Result) W() []float64 {
	w := make([]float64, len(r.Index)*r.N)
	for j, i := range r.Index {
		w[j*r.N+i] = 1
	}
	return w
}

// Soft returns K_soft [k, N], whose gradient W has.
func (r Result) Soft() []float64 { return slices.Clone(r.soft) }

// Gradient returns dL/dscores [N] for dL/dW [k, N].
func (r Result) Gradient(dW []float64) []float64 {
	g := make([]float64, r.N)
	for j := range r.Index {
		p, d := r.soft[j*r.N:(j+1)*r.N], dW[j*r.N:(j+1)*r.N]
		mean := 0.0
		for i := range p {
			mean += p[i] * d[i]
		}
		for i := range p {
			g[i] += p[i] * (d[i] - mean) / r.tau
		}
	}
	return g
}
