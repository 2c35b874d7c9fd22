package half_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/index/internal/half"
	"github.com/clara-suite/clara/libs/tensor"
)

// Every finite half survives the way to float32 and back.
func TestRoundTrip(t *testing.T) {
	var all []uint16
	for h := range 1 << 16 {
		if h&0x7c00 != 0x7c00 {
			all = append(all, uint16(h))
		}
	}
	values, back := make([]float32, len(all)), make([]uint16, len(all))
	half.Decode(values, all)
	half.Encode(back, values)
	require.Equal(t, all, back)
	for _, v := range values {
		require.Equal(t, v, half.Round(v))
		// Each half on its own, against the conversion that Dot has inside.
		var h [1]uint16
		half.Encode(h[:], []float32{v})
		require.Equal(t, v, half.Dot([]float32{1}, h[:]))
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
			v[i] = tensor.Float32ToHalf(f[i])
			want += float64(q[i]) * float64(tensor.HalfToFloat32(v[i]))
			size += math.Abs(float64(q[i]) * float64(tensor.HalfToFloat32(v[i])))
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
			q[i], v[i] = float32(i%7), tensor.Float32ToHalf(float32(i%5))
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
