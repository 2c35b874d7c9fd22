// Package half takes dot products of a float32 vector with one of half
// precision, with AVX-512 or AVX2 + F16C where the processor has them, and
// converts whole vectors.
package half

import (
	"math"

	"github.com/clara-suite/clara/libs/tensor"
)

// Max is the largest finite half.
const Max = 65504

// Round returns f as it reads back from half precision; beyond ±65,519 that is an infinity.
func Round(f float32) float32 { return tensor.HalfToFloat32(tensor.Float32ToHalf(f)) }

// Encode writes the halves of src, rounded to nearest even, to dst, which must be as long.
func Encode(dst []uint16, src []float32) {
	for i, f := range src {
		dst[i] = tensor.Float32ToHalf(f)
	}
}

// Decode writes the values of src to dst, which must be as long.
func Decode(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = tensor.HalfToFloat32(h)
	}
}

// dotGo is Dot for processors without the vector instructions. Halves are
// converted as in tensor.HalfToFloat32, without its care for infinities: there are none.
func dotGo(q []float32, v []uint16) float32 {
	var s0, s1, s2, s3 float32
	v = v[:len(q)]
	n := len(q) &^ 3
	for i := 0; i < n; i += 4 {
		s0 += q[i] * finite(v[i])
		s1 += q[i+1] * finite(v[i+1])
		s2 += q[i+2] * finite(v[i+2])
		s3 += q[i+3] * finite(v[i+3])
	}
	for i := n; i < len(q); i++ {
		s0 += q[i] * finite(v[i])
	}
	return (s0 + s1) + (s2 + s3)
}

func finite(h uint16) float32 {
	f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	return math.Float32frombits(math.Float32bits(f) | uint32(h&0x8000)<<16)
}
