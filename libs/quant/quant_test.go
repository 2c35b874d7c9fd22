package quant_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/gguf"
	"github.com/clara-suite/clara/libs/quant"
	"github.com/clara-suite/clara/libs/tensor"
)

// blocks makes a tensor of random blocks whose half-precision scales are small finite numbers.
func blocks(r *rand.Rand, t gguf.Type, out, in int) gguf.Tensor {
	elements, size := t.Block()
	halves := map[gguf.Type][]int{gguf.Q4_0: {0}, gguf.Q4_1: {0, 2}, gguf.Q5_0: {0}, gguf.Q5_1: {0, 2}, gguf.Q8_0: {0}, gguf.Q4_K: {0, 2}, gguf.Q5_K: {0, 2}, gguf.Q6_K: {208}}
	data := make([]byte, out*in/elements*size)
	for at := 0; at < len(data); at += size {
		for i := range size {
			data[at+i] = byte(r.Uint32())
		}
		for _, h := range halves[t] {
			bits := tensor.Float32ToHalf(float32(r.NormFloat64()) / 8)
			data[at+h], data[at+h+1] = byte(bits), byte(bits>>8)
		}
	}
	return gguf.Tensor{Name: t.String(), Type: t, Shape: tensor.Shape{out, in}, Data: data, Offset: -1}
}

// TestFromGGUF: no weight changes, in any format.
func TestFromGGUF(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		typ     gguf.Type
		bits    int
		group   int
		shifted bool
	}{
		{gguf.Q4_0, 4, 32, false}, {gguf.Q4_1, 4, 32, true}, {gguf.Q5_0, 8, 32, false}, {gguf.Q5_1, 8, 32, true}, {gguf.Q8_0, 8, 32, false},
		{gguf.Q4_K, 4, 32, true}, {gguf.Q5_K, 8, 32, true}, {gguf.Q6_K, 8, 16, false},
	} {
		t.Run(c.typ.String(), func(t *testing.T) {
			const out, in = 37, 512
			b := blocks(r, c.typ, out, in)
			want, err := b.Float32()
			require.NoError(t, err)
			m, ok := quant.FromGGUF(b)
			require.True(t, ok)
			assert.Equal(t, quant.Format{Bits: c.bits, Group: c.group, Shifted: c.shifted}, m.Format)
			assert.Equal(t, c.bits == 8, m.Halve().Halved)
			assert.Len(t, m.Codes, out*in*c.bits/8)
			row := make([]float32, in)
			for n := range out {
				m.Row(row, n)
				// Without shift the very numbers; with one, its rounding and the sum's.
				tolerance := 0.0
				if c.shifted {
					tolerance = 1e-4
				}
				require.InDeltaSlice(t, want[n*in:(n+1)*in], row, tolerance, "row %d", n)
				m.Halve().Row(row, n)
				require.InDeltaSlice(t, want[n*in:(n+1)*in], row, 1e-4, "row %d, halved", n)
			}
		})
	}
	_, ok := quant.FromGGUF(gguf.Tensor{Type: gguf.F16, Shape: tensor.Shape{1, 32}, Data: make([]byte, 64)})
	assert.False(t, ok)
}

func TestRound(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	const out, in = 5, 96
	values := make([]float32, out*in)
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	copy(values[:32], make([]float32, 32)) // a group of zeros
	for i := range 32 {
		values[32+i] = 3 // and one of equal values
	}
	for _, bits := range []int{4, 8} {
		m, ok := quant.Round(values, out, in, bits)
		require.True(t, ok)
		row := make([]float32, in)
		for n := range out {
			m.Row(row, n)
			for k, got := range row {
				step := m.Scale[n*in/32+k/32]
				assert.InDelta(t, values[n*in+k], got, float64(step)/2+1e-5, "%d bits, [%d, %d]", bits, n, k)
			}
		}
	}
	_, ok := quant.Round(values, 10, 48, 4)
	assert.False(t, ok, "rows are no whole groups")
}

// TestRoundGivesBlocksBack: floats that come from Q8_0 blocks become those blocks again.
func TestRoundGivesBlocksBack(t *testing.T) {
	b := blocks(rand.New(rand.NewPCG(3, 1)), gguf.Q8_0, 3, 64)
	for at := 0; at < len(b.Data); at += 34 { // as writers of the format do: the largest magnitude is at 127
		for i := 2; i < 34; i++ {
			if b.Data[at+i] == 0x80 {
				b.Data[at+i] = 0
			}
		}
		b.Data[at+2] = 127
	}
	values, err := b.Float32()
	require.NoError(t, err)
	want, ok := quant.FromGGUF(b)
	require.True(t, ok)
	got, ok := quant.Round(values, 3, 64, 8)
	require.True(t, ok)
	got32, want32 := make([]float32, 64), make([]float32, 64)
	for n := range 3 {
		got.Row(got32, n)
		want.Row(want32, n)
		assert.InDeltaSlice(t, want32, got32, 1e-6)
	}
}

func TestStack(t *testing.T) {
	values := make([]float32, 64)
	for i := range values {
		values[i] = float32(i)
	}
	a, _ := quant.Round(values[:32], 1, 32, 4)
	b, _ := quant.Round(values[32:], 1, 32, 4)
	c, _ := quant.Round(values, 2, 32, 4)
	m, ok := quant.Stack(a, b)
	require.True(t, ok)
	assert.Equal(t, c, m)
	d, _ := quant.Round(values, 2, 32, 8)
	_, ok = quant.Stack(a, d)
	assert.False(t, ok)
}

func ExampleRound() {
	values := make([]float32, 32)
	values[0], values[1] = -1.27, 0.64
	m, ok := quant.Round(values, 1, 32, 8)
	fmt.Println(ok, m.Codes[:3])
	// Output: true [1 192 128]
}

// TestRoundWith: on inputs that go together, rounding that knows them loses much less of the product than rounding to the
// nearest, and on inputs that do not, it is rounding to the nearest.
func TestRoundWith(t *testing.T) {
	const out, in, samples = 40, 160, 600
	r := rand.New(rand.NewPCG(3, 4))
	values, mix := make([]float32, out*in), make([]float32, in*in)
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	for i := range mix {
		mix[i] = float32(r.NormFloat64()) * float32(math.Exp(-float64(i/in)/20)) // few directions matter
	}
	inputs := make([][]float32, samples)
	gram := make([]float32, in*in)
	for s := range inputs {
		x := make([]float32, in)
		for k := range in {
			z := float32(r.NormFloat64())
			for j := range in {
				x[j] += z * mix[k*in+j]
			}
		}
		inputs[s] = x
		for i := range in {
			for j := range in {
				gram[i*in+j] += x[i] * x[j]
			}
		}
	}
	lost := func(m quant.Matrix) (sum float64) {
		row := make([]float32, in)
		for n := range out {
			m.Row(row, n)
			for _, x := range inputs {
				d := 0.0
				for k := range in {
					d += float64(x[k]) * float64(row[k]-values[n*in+k])
				}
				sum += d * d
			}
		}
		return sum
	}
	near, ok := quant.Round(values, out, in, 4)
	require.True(t, ok)
	known, ok, err := quant.RoundWith(t.Context(), values, out, in, gram)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, near.Format, known.Format)
	assert.Less(t, lost(known), 0.4*lost(near))

	for i := range gram {
		gram[i] = 0
	}
	for i := range in {
		gram[i*in+i] = 2
	}
	apart, _, err := quant.RoundWith(t.Context(), values, out, in, gram)
	require.NoError(t, err)
	assert.Equal(t, near.Codes, apart.Codes)
	assert.Equal(t, near.Scale, apart.Scale)

	_, ok, _ = quant.RoundWith(t.Context(), values[:out*48], out, 48, gram[:48*48])
	assert.False(t, ok, "48 is no multiple of 32")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, _, err = quant.RoundWith(ctx, values, out, in, gram)
	assert.ErrorIs(t, err, context.Canceled)
}
