package torchx_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type (
	scope  = *torchx.Scope
	tensor = *torchx.Tensor
)

// numeric compares autograd's gradient of sum(f(params) * r) with central differences, for fixed random r.
func numeric(t *testing.T, tol float64, shapes [][]int64, f func(s scope, p []tensor) tensor) {
	t.Helper()
	require.NoError(t, torchx.Do(func(s scope) error {
		torchx.Seed(7)
		var p []tensor
		for _, sh := range shapes {
			p = append(p, s.Normal(torchx.CPU, sh...))
		}
		var r tensor
		value := func(s scope) tensor {
			y := f(s, p)
			if r == nil {
				r = s.Keep(y)
				r = s.Normal(torchx.CPU, y.Shape()...)
			}
			return s.Sum(s.Mul(y, r))
		}
		for _, x := range p {
			x.RequireGrad()
		}
		var keep []tensor
		_ = keep
		loss := value(s)
		torchx.Backward([]tensor{loss}, nil)
		for i, x := range p {
			grad := s.Grad(x)
			require.NotNil(t, grad, "parameter %d", i)
			got, at := grad.Float32s(), x.Float32s()
			for j := 0; j < len(at); j += max(1, len(at)/5) {
				const h = 1e-2
				side := func(d float32) float64 {
					v := append([]float32(nil), at...)
					v[j] += d
					x.Copy(s.Floats(v, torchx.CPU, x.Shape()...))
					var out float64
					torchx.NoGrad(func() { out = value(s).Float() })
					x.Copy(s.Floats(at, torchx.CPU, x.Shape()...))
					return out
				}
				want := (side(h) - side(-h)) / (2 * h)
				assert.InDelta(t, want, float64(got[j]), tol*(1+math.Abs(want)), "parameter %d element %d", i, j)
			}
		}
		return nil
	}))
}

func TestGradients(t *testing.T) {
	cosSin := func(s scope) (tensor, tensor) {
		return s.Floats([]float32{.5, .6, .7, .8, .9, 1}, torchx.CPU, 3, 1, 2), s.Floats([]float32{.1, .2, .3, .4, .5, .6}, torchx.CPU, 3, 1, 2)
	}
	for _, c := range []struct {
		name   string
		shapes [][]int64
		f      func(s scope, p []tensor) tensor
	}{
		{"linear with adapter", [][]int64{{5, 4}, {2, 4}, {3, 2}}, func(s scope, p []tensor) tensor {
			w := s.Floats([]float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, torchx.CPU, 3, 4)
			b := s.Floats([]float32{1, 2, 3}, torchx.CPU, 3)
			return s.Linear(p[0], torchx.Weight{W: w, Bias: b}, &torchx.LoRA{A: p[1], B: p[2], Scale: 2})
		}},
		{"linear with dropout", [][]int64{{5, 4}, {2, 4}, {3, 2}}, func(s scope, p []tensor) tensor {
			w := s.Floats([]float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, torchx.CPU, 3, 4)
			return s.Linear(p[0], torchx.Weight{W: w}, &torchx.LoRA{A: p[1], B: p[2], Scale: 2, Dropout: 0.5, Seed: 3})
		}},
		{"linear over 8 bits", [][]int64{{5, 32}}, func(s scope, p []tensor) tensor {
			torchx.Seed(5)
			return s.Linear(p[0], s.Quantize(s.Normal(torchx.CPU, 3, 32), 8), nil)
		}},
		{"linear over 4 bits", [][]int64{{5, 32}}, func(s scope, p []tensor) tensor {
			torchx.Seed(5)
			return s.Linear(p[0], s.Quantize(s.Normal(torchx.CPU, 3, 32), 4), nil)
		}},
		{"rms norm", [][]int64{{4, 3}}, func(s scope, p []tensor) tensor {
			return s.RMSNorm(p[0], s.Floats([]float32{1, 2, .5}, torchx.CPU, 3), 1e-5)
		}},
		{"rope of a part", [][]int64{{3, 2, 5}}, func(s scope, p []tensor) tensor {
			cos, sin := cosSin(s)
			return s.Rope(p[0], cos, sin)
		}},
		{"swiglu", [][]int64{{4, 3}, {4, 3}}, func(s scope, p []tensor) tensor { return s.SwiGLU(p[0], p[1]) }},
		{"attention, one sequence, grouped", [][]int64{{5, 4, 3}, {5, 2, 3}, {5, 2, 3}}, func(s scope, p []tensor) tensor {
			return s.Attention(p[0], p[1], p[2], []int64{5}, 0.7, 0)
		}},
		{"attention, packed", [][]int64{{6, 2, 3}, {6, 1, 3}, {6, 1, 3}}, func(s scope, p []tensor) tensor {
			return s.Attention(p[0], p[1], p[2], []int64{1, 3, 2}, 0.7, 0)
		}},
		{"attention, window", [][]int64{{6, 2, 3}, {6, 1, 3}, {6, 1, 3}}, func(s scope, p []tensor) tensor {
			return s.Attention(p[0], p[1], p[2], []int64{6}, 0.7, 2)
		}},
		{"cross-entropy", [][]int64{{5, 3}}, func(s scope, p []tensor) tensor {
			sum, _ := s.LinearCE(p[0], s.Floats([]float32{1, 2, 3, 4, 5, 6, 1, 0, 1, 0, 1, 0}, torchx.CPU, 4, 3), s.Ints([]int64{0, 3, 2, 1, 0}, torchx.CPU), nil, nil)
			return sum
		}},
		{"normalize", [][]int64{{4, 3}}, func(s scope, p []tensor) tensor { return s.Normalize(p[0]) }},
	} {
		t.Run(c.name, func(t *testing.T) { numeric(t, 2e-2, c.shapes, c.f) })
	}
}

// Packed sequences do not see each other, and a window forgets.
func TestAttentionEqualsEachAlone(t *testing.T) {
	require.NoError(t, torchx.Do(func(s scope) error {
		torchx.Seed(1)
		q, k, v := s.Normal(torchx.CPU, 7, 4, 8), s.Normal(torchx.CPU, 7, 2, 8), s.Normal(torchx.CPU, 7, 2, 8)
		all := s.Attention(q, k, v, []int64{3, 4}, 0.3, 0)
		part := func(x tensor) tensor { return s.Narrow(x, 0, 3, 4) }
		one := s.Attention(part(q), part(k), part(v), []int64{4}, 0.3, 0)
		assert.InDeltaSlice(t, one.Float32s(), part(all).Float32s(), 1e-6)
		last := s.AttendCache(s.Narrow(q, 0, 6, 1), part(k), part(v), 0.3)
		assert.InDeltaSlice(t, s.Narrow(one, 0, 3, 1).Float32s(), last.Float32s(), 1e-6)
		return nil
	}))
}

func TestFaultsAreErrors(t *testing.T) {
	err := torchx.Do(func(s scope) error {
		s.Add(s.Zeros(torchx.Float32, torchx.CPU, 2), s.Zeros(torchx.Float32, torchx.CPU, 3))
		return nil
	})
	require.ErrorContains(t, err, "add")
	assert.Equal(t, clara.Internal, clara.KindOf(err))
}

func TestScopesFree(t *testing.T) {
	require.NoError(t, torchx.Do(func(s scope) error {
		a := s.Normal(torchx.CPU, 4)
		before := s.Owned()
		b := s.Sub(func(s scope) tensor {
			for range 10 {
				a = s.Add(a, a)
			}
			return a
		})
		assert.Equal(t, before+1, s.Owned())
		assert.Len(t, b.Float32s(), 4)
		return nil
	}))
}

// Computing again gives the gradients of keeping everything, dropout included.
func TestTape(t *testing.T) {
	grads := func(tape bool) (out [][]float32) {
		require.NoError(t, torchx.Do(func(s scope) error {
			torchx.Seed(2)
			w := torchx.Weight{W: s.Normal(torchx.CPU, 4, 4)}
			a, b, x := s.Normal(torchx.CPU, 2, 4), s.Normal(torchx.CPU, 4, 2), s.Normal(torchx.CPU, 3, 4)
			params := []tensor{a, b, x}
			for _, p := range params {
				p.RequireGrad()
			}
			run := func(seed uint64) func(s scope, x tensor) tensor {
				return func(s scope, x tensor) tensor {
					return s.SwiGLU(s.Linear(x, w, &torchx.LoRA{A: a, B: b, Scale: 2, Dropout: 0.3, Seed: seed}), x)
				}
			}
			y := s.Mul(x, x)
			tp := torchx.NewTape(s)
			for i := range uint64(3) {
				if tape {
					y = tp.Checkpoint(run(i), y)
				} else {
					y = run(i)(s, y)
				}
			}
			tp.Backward(s.Sum(s.Mul(y, y)))
			for _, p := range params {
				out = append(out, s.Grad(p).Float32s())
			}
			return nil
		}))
		return out
	}
	assert.Equal(t, grads(false), grads(true))
}

// Dropout drops the share it is told, others with another seed, and scales the rest up.
func TestDropout(t *testing.T) {
	require.NoError(t, torchx.Do(func(s scope) error {
		const n = 40000
		x := s.Plus(s.Zeros(torchx.Float32, torchx.CPU, n, 1), 1)
		zero := torchx.Weight{W: s.Zeros(torchx.Float32, torchx.CPU, 1, 1)}
		one := s.Floats([]float32{1}, torchx.CPU, 1, 1)
		run := func(seed uint64) []float32 {
			return s.Linear(x, zero, &torchx.LoRA{A: one, B: one, Scale: 1, Dropout: 0.25, Seed: seed}).Float32s()
		}
		a, b := run(1), run(2)
		kept, both := 0, 0
		for i := range a {
			if a[i] != 0 {
				assert.InDelta(t, 1/0.75, float64(a[i]), 1e-6)
				if kept++; b[i] != 0 {
					both++
				}
			}
		}
		assert.InDelta(t, 0.75, float64(kept)/n, 0.01)
		assert.InDelta(t, 0.75*0.75, float64(both)/n, 0.01)
		assert.Equal(t, a, run(1))
		return nil
	}))
}

func TestAdamW(t *testing.T) {
	require.NoError(t, torchx.Do(func(s scope) error {
		p := s.Floats([]float32{1, -2}, torchx.CPU, 2)
		p.RequireGrad()
		o := torchx.NewAdamW(s, []tensor{p}, 0.9, 0.95, 1e-8, 0.1)
		g := []float64{0.5, -0.25}
		want, m, v := []float64{1, -2}, []float64{0, 0}, []float64{0, 0}
		for step := 1; step <= 3; step++ {
			torchx.SetGrad(p, s.Floats([]float32{float32(g[0]), float32(g[1])}, torchx.CPU, 2))
			o.Step(0.01)
			for i := range want {
				m[i], v[i] = 0.9*m[i]+0.1*g[i], 0.95*v[i]+0.05*g[i]*g[i]
				c1, c2 := 1-math.Pow(0.9, float64(step)), 1-math.Pow(0.95, float64(step))
				want[i] = want[i]*(1-0.01*0.1) - 0.01*(m[i]/c1)/(math.Sqrt(v[i]/c2)+1e-8)
			}
		}
		for i, x := range p.Float32s() {
			assert.InDelta(t, want[i], float64(x), 1e-6)
		}
		torchx.SetGrad(p, s.Floats([]float32{3, 4}, torchx.CPU, 2))
		assert.InDelta(t, 5, torchx.ClipGradNorm([]tensor{p}, 1), 1e-6)
		assert.InDeltaSlice(t, []float32{.6, .8}, s.Grad(p).Float32s(), 1e-5)
		return nil
	}))
}

func TestRandPerm(t *testing.T) {
	// torch.randperm(8, generator=torch.Generator().manual_seed(42))
	assert.Equal(t, []int64{6, 3, 0, 7, 2, 1, 4, 5}, torchx.RandPerm(42, 8))
}
