package tensor_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

func TestHalfRoundTripsEveryValue(t *testing.T) {
	for h := range 1 << 16 {
		f := tensor.HalfToFloat32(uint16(h))
		if f != f {
			assert.True(t, h&0x7c00 == 0x7c00 && h&0x3ff != 0)
			back := tensor.Float32ToHalf(f)
			require.True(t, back&0x7c00 == 0x7c00 && back&0x3ff != 0)
			continue
		}
		require.Equal(t, uint16(h), tensor.Float32ToHalf(f), "%04x", h)
	}
}

func TestDecodeF16EveryValue(t *testing.T) {
	raw := []byte{0}
	for h := range 1 << 16 {
		raw = binary.LittleEndian.AppendUint16(raw, uint16(h))
	}
	aligned, odd := make([]float32, 1<<16), make([]float32, 1<<16)
	tensor.DecodeF16(odd, raw[1:])
	tensor.DecodeF16(aligned, append([]byte(nil), raw[1:]...))
	for h := range aligned {
		want := math.Float32bits(tensor.HalfToFloat32(uint16(h)))
		require.Equal(t, want, math.Float32bits(aligned[h]))
		require.Equal(t, want, math.Float32bits(odd[h]))
	}
}

func TestRounding(t *testing.T) {
	for _, c := range []struct {
		name string
		f    float32
		half uint16
		bf   uint16
	}{
		{"one", 1, 0x3c00, 0x3f80},
		{"tie to even, down", 1 + 0x1p-11, 0x3c00, 0x3f80},
		{"tie to even, up", 1 + 3*0x1p-11, 0x3c02, 0x3f80},
		{"bf16 tie", 1 + 0x1p-8, 0x3c04, 0x3f80},
		{"bf16 tie up", 1 + 3*0x1p-8, 0x3c0c, 0x3f82},
		{"largest half", 65504, 0x7bff, 0x4780},
		{"too large", 65520, 0x7c00, 0x4780},
		{"smallest subnormal", 0x1p-24, 0x0001, 0x3380},
		{"half of it", 0x1p-25, 0x0000, 0x3300},
		{"negative zero", float32(math.Copysign(0, -1)), 0x8000, 0x8000},
		{"infinity", float32(math.Inf(-1)), 0xfc00, 0xff80},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.half, tensor.Float32ToHalf(c.f))
			assert.Equal(t, c.bf, tensor.Float32ToBF16(c.f))
		})
	}
}

func TestViewConverts(t *testing.T) {
	want := []float32{1, -2, 0, 3, 4, 5}
	for _, d := range []tensor.DType{tensor.F16, tensor.BF16, tensor.F32} {
		v, err := tensor.FromFloat32("w", tensor.Shape{2, 3}, want).Convert(d)
		require.NoError(t, err)
		assert.Equal(t, d, v.DType)
		got, err := v.Float32()
		require.NoError(t, err)
		assert.Equal(t, want, got)
		row, err := v.Rows(1, 2).Float32()
		require.NoError(t, err)
		assert.Equal(t, want[3:], row)
	}
	ints := tensor.View{Name: "i", DType: tensor.I32, Shape: tensor.Shape{1}, Data: binary.LittleEndian.AppendUint32(nil, 0xffffffff)}
	got, err := ints.Float32()
	require.NoError(t, err)
	assert.Equal(t, []float32{-1}, got)
}

func TestUnalignedViewIsCopied(t *testing.T) {
	b := make([]byte, 9)
	binary.LittleEndian.PutUint32(b[1:], math.Float32bits(7))
	v := tensor.View{Name: "w", DType: tensor.F32, Shape: tensor.Shape{2}, Data: b[1:]}
	got, err := v.Float32()
	require.NoError(t, err)
	assert.Equal(t, []float32{7, 0}, got)
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		v    tensor.View
	}{
		{"short", tensor.View{DType: tensor.F32, Shape: tensor.Shape{2}, Data: make([]byte, 7)}},
		{"negative", tensor.View{DType: tensor.F32, Shape: tensor.Shape{-1}}},
		{"overflow", tensor.View{DType: tensor.F32, Shape: tensor.Shape{math.MaxInt, 4}}},
		{"no type", tensor.View{Shape: tensor.Shape{0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.v.Float32()
			assert.Equal(t, clara.Corrupt, clara.KindOf(err))
		})
	}
}

func TestLargeConversionIsSplitRight(t *testing.T) {
	f := make([]float32, 300_001)
	for i := range f {
		f[i] = float32(i % 2048)
	}
	v, err := tensor.FromFloat32("w", tensor.Shape{len(f)}, f).Convert(tensor.F16)
	require.NoError(t, err)
	got, err := v.Float32()
	require.NoError(t, err)
	assert.Equal(t, f, got)
}
