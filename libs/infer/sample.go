package infer

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
)

// Sampling says how the next token is drawn from its logits. The zero value is greedy: the
// largest logit, of equal ones the lowest id.
type Sampling struct {
	// Temperature divides the logits; 0 is greedy and ignores the rest.
	Temperature float64
	// TopK keeps the k largest logits; 0 keeps all.
	TopK int
	// TopP keeps the fewest tokens whose probability reaches p; 0 and 1 keep all.
	TopP float64
	// Seed makes a request repeatable: equal seeds and equal logits draw equal tokens.
	Seed uint64
}

// Check returns an Invalid error that names what is out of range.
func (s Sampling) Check() error {
	switch {
	case !(s.Temperature >= 0 && s.Temperature <= 100):
		return clara.Errorf(clara.Invalid, "sampling: temperature %g is not between 0 and 100", s.Temperature)
	case s.TopK < 0:
		return clara.Errorf(clara.Invalid, "sampling: top k %d is negative", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return clara.Errorf(clara.Invalid, "sampling: top p %g is not between 0 and 1", s.TopP)
	}
	return nil
}

// sampler draws one request's tokens.
type sampler struct {
	Sampling
	rng  *rand.Rand
	heap []choice // reused
}

type choice struct {
	id int32
	p  float64 // logit, then probability
}

func newSampler(s Sampling) *sampler {
	return &sampler{Sampling: s, rng: rand.New(rand.NewPCG(s.Seed, 0x9e3779b97f4a7c15))}
}

// next draws a token id, false if the logits hold no finite maximum.
func (s *sampler) next(logits []float32) (int32, bool) {
	best := int32(ort.ArgMax(logits))
	if best < 0 {
		return 0, false
	}
	if s.Temperature == 0 || s.TopK == 1 {
		return best, true
	}
	top := float64(logits[best])
	c := s.heap[:0]
	for i, x := range logits {
		// What is 40 e-folds below the best one is never drawn.
		if d := (float64(x) - top) / s.Temperature; d > -40 {
			c = append(c, choice{int32(i), d})
		}
	}
	s.heap = c
	slices.SortFunc(c, func(a, b choice) int {
		switch {
		case a.p > b.p:
			return -1
		case a.p < b.p:
			return 1
		}
		return int(a.id - b.id)
	})
	if s.TopK > 0 && s.TopK < len(c) {
		c = c[:s.TopK]
	}
	sum := 0.0
	for i := range c {
		c[i].p = math.Exp(c[i].p)
		sum += c[i].p
	}
	if s.TopP > 0 && s.TopP < 1 {
		kept := 0.0
		for i := range c {
			if kept += c[i].p; kept >= s.TopP*sum {
				c, sum = c[:i+1], kept
				break
			}
		}
	}
	u := s.rng.Float64() * sum
	for _, x := range c {
		if u -= x.p; u < 0 {
			return x.id, true
		}
	}
	return c[len(c)-1].id, true
}
