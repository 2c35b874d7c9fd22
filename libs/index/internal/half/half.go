// Package half converts between float32 and IEEE 754 half precision and takes
// dot products of a float32 vector with a half precision one, with AVX-512 or
// AVX2 + F16C where the processor has them.
package half

import "math"

// Max is the largest finite half.
const Max = 65504

// FromFloat32 rounds f to the nearest half, ties to even. What is too large
// becomes an infinity, as IEEE 754 has it; NaN stays NaN.
func FromFloat32(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00
	case b >= 0x477ff000: // rounds to 65520 or more
		return sign | 0x7c00
	case b < 0x38800000: // below the smallest normal half, 2^-14
		// Adding 0.5 puts the bits of a subnormal half at the low end of the
		// mantissa, rounded to nearest even by the addition itself.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	default:
		odd := (b >> 13) & 1
		return sign | uint16((b-0x38000000+0xfff+odd)>>13)
	}
}

// ToFloat32 returns the value of h, exactly. h must be finite.
func ToFloat32(h uint16) float32 {
	// The exponent's bias differs by 112; the product also turns subnormal
	// halves into normal floats.
	f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	return math.Float32frombits(math.Float32bits(f) | uint32(h&0x8000)<<16)
}

// Round returns f as it reads back from half precision. f must be within ±65,519.
func Round(f float32) float32 { return ToFloat32(FromFloat32(f)) }

// Encode writes the halves of src to dst, which must be as long.
func Encode(dst []uint16, src []float32) {
	for i, f := range src {
		dst[i] = FromFloat32(f)
	}
}

// Decode writes the values of src to dst, which must be as long.
func Decode(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = ToFloat32(h)
	}
}

// dotGo is Dot for processors without the vector instructions.
func dotGo(q []float32, v []uint16) float32 {
	var s0, s1, s2, s3 float32
	v = v[:len(q)]
	n := len(q) &^ 3
	for i := 0; i < n; i += 4 {
		s0 += q[i] * ToFloat32(v[i])
		s1 += q[i+1] * ToFloat32(v[i+1])
		s2 += q[i+2] * ToFloat32(v[i+2])
		s3 += q[i+3] * ToFloat32(v[i+3])
	}
	for i := n; i < len(q); i++ {
		s0 += q[i] * ToFloat32(v[i])
	}
	return (s0 + s1) + (s2 + s3)
}
