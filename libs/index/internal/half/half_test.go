package half_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/index/internal/half"
)

func TestFromFloat32(t *testing.T) {
	for _, c := range []struct {
		name string
		in   float32
		want uint16
	}{
		{"zero", 0, 0},
		{"minus zero", float32(math.Copysign(0, -1)), 0x8000},
		{"one", 1, 0x3c00},
		{"minus two", -2, 0xc000},
		{"largest", 65504, 0x7bff},
		{"rounds down to largest", 65519, 0x7bff},
		{"overflow", 65520, 0x7c00},
		{"minus overflow", -1e9, 0xfc00},
		{"infinity", float32(math.Inf(1)), 0x7c00},
		{"nan", float32(math.NaN()), 0x7e00},
		{"smallest normal", 0x1p-14, 0x0400},
		{"largest subnormal", 0x1p-14 - 0x1p-24, 0x03ff},
		{"smallest subnormal", 0x1p-24, 0x0001},
		{"tie to zero", 0x1p-25, 0x0000},
		{"above the tie", 0x1.1p-25, 0x0001},
		{"tie to even up", 0x1.8p-24, 0x0002},
		{"tie down", 1 + 0x1p-11, 0x3c00},
		{"tie up", 1 + 3*0x1p-11, 0x3c02},
		{"carries into the exponent", 1.99999, 0x4000},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, half.FromFloat32(c.in)) })
	}
}

// Every finite half survives the way to float32 and back.
func TestRoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		if h&0x7c00 == 0x7c00 {
			continue
		}
		require.Equal(t, uint16(h), half.FromFloat32(half.ToFloat32(uint16(h))), "half %#x", h)
	}
}

// Rounding is to the nearest: no neighbour is closer.
func TestRoundNearest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		f := float32(math.Exp(rng.Float64()*30-18)) * float32(1-2*rng.IntN(2))
		h := half.FromFloat32(f)
		if h&0x7fff >= 0x7bff {
			continue
		}
		d := math.Abs(float64(half.ToFloat32(h)) - float64(f))
		assert.LessOrEqual(t, d, math.Abs(float64(half.ToFloat32(h+1))-float64(f)))
		if h&0x7fff > 0 {
			assert.LessOrEqual(t, d, math.Abs(float64(half.ToFloat32(h-1))-float64(f)))
		}
	}
}

func TestDot(t *testing.T) {
	t.Logf("kernel %s", half.Kernel())
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 576, 9216, 20481} {
		q, f, v := make([]float32, n), make([]float32, n), make([]uint16, n)
		var want, size float64
		for i := range q {
			q[i], f[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())*0.01
			v[i] = half.FromFloat32(f[i])
			want += float64(q[i]) * float64(half.ToFloat32(v[i]))
			size += math.Abs(float64(q[i]) * float64(half.ToFloat32(v[i])))
		}
		for name, dot := range half.Kernels() {
			assert.InDelta(t, want, dot(q, v), 1e-6*size+1e-12, "%s, n = %d", name, n)
		}
	}
}

func BenchmarkDot(b *testing.B) {
	for _, n := range []int{9216, 65536} {
		q, v := make([]float32, n), make([]uint16, n)
		for i := range q {
			q[i], v[i] = float32(i%7), half.FromFloat32(float32(i%5))
		}
		for name, dot := range half.Kernels() {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(2 * n))
				for b.Loop() {
					dot(q, v)
				}
			})
		}
	}
}
