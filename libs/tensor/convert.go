package tensor

import (
	"encoding/binary"
	"math"
	"runtime"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
)

// parallelFrom is the length above which a conversion is split over the cores:
// below it starting goroutines costs more than it saves.
const parallelFrom = 1 << 17

// split calls f on consecutive parts of [0, n), on all cores when n is large.
func split(n int, f func(from, to int)) {
	workers := runtime.GOMAXPROCS(0)
	if n < parallelFrom || workers == 1 {
		f(0, n)
		return
	}
	step := (n/workers + 63) &^ 63
	var wg sync.WaitGroup
	for from := 0; from < n; from += step {
		wg.Go(func() { f(from, min(from+step, n)) })
	}
	wg.Wait()
}

// decode converts v, already checked, to float32.
func decode(dst []float32, v View) error {
	b := v.Data
	switch v.DType {
	case F32:
		copy(bytesOf(dst), b)
	case F16:
		split(len(dst), func(from, to int) { DecodeF16(dst[from:to], b[2*from:]) })
	case BF16:
		split(len(dst), func(from, to int) { DecodeBF16(dst[from:to], b[2*from:]) })
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
	case I64:
		for i := range dst {
			dst[i] = float32(int64(binary.LittleEndian.Uint64(b[8*i:])))
		}
	case I32:
		for i := range dst {
			dst[i] = float32(int32(binary.LittleEndian.Uint32(b[4*i:])))
		}
	case I16:
		for i := range dst {
			dst[i] = float32(int16(binary.LittleEndian.Uint16(b[2*i:])))
		}
	case I8:
		for i := range dst {
			dst[i] = float32(int8(b[i]))
		}
	case U8, Bool:
		for i := range dst {
			dst[i] = float32(b[i])
		}
	default:
		return clara.Errorf(clara.Unsupported, "tensor %s: %s has no conversion to float32", v.Name, v.DType)
	}
	return nil
}

// DecodeBF16 fills dst from bfloat16 in src, which has at least 2*len(dst) bytes.
func DecodeBF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	if in, ok := castSlice[uint16](src); ok { // no bounds checks in this loop
		for i, h := range in[:len(dst)] {
			dst[i] = math.Float32frombits(uint32(h) << 16)
		}
		return
	}
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// DecodeF16 fills dst from IEEE half precision in src, which has at least 2*len(dst) bytes.
func DecodeF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	in, ok := castSlice[uint16](src)
	if !ok {
		for i := range dst {
			dst[i] = HalfToFloat32(binary.LittleEndian.Uint16(src[2*i:]))
		}
		return
	}
	for i, h := range in[:len(dst)] {
		if e := h & 0x7c00; e == 0 || e == 0x7c00 { // zero, subnormal, infinity, NaN
			dst[i] = HalfToFloat32(h)
			continue
		}
		dst[i] = math.Float32frombits(uint32(h&0x8000)<<16 | (uint32(h&0x7fff)<<13 + 112<<23))
	}
}

// HalfToFloat32 converts the bits of a half-precision number, exactly.
func HalfToFloat32(h uint16) float32 {
	// Shifted into float32 fields the exponent is 112 too small; the product
	// repairs it and normalises subnormal numbers in one step.
	f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	bits := math.Float32bits(f)
	if h&0x7c00 == 0x7c00 { // infinity or NaN
		bits |= 0x7f800000
	}
	return math.Float32frombits(bits | uint32(h&0x8000)<<16)
}

// Float32ToHalf rounds to half precision, to nearest, ties to even; what is too
// large becomes infinity.
func Float32ToHalf(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000:
		return sign | 0x7e00
	case bits >= 0x477ff000: // 65520: halfway between the largest half and 2^16
		return sign | 0x7c00
	case bits < 0x38800000: // below 2^-14: the sum's last place is that of a subnormal half
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-0x3f000000)
	}
	bits += 0xfff + bits>>13&1
	return sign | uint16(bits>>13-(112<<10))
}

// Float32ToBF16 rounds to bfloat16, to nearest, ties to even.
func Float32ToBF16(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// EncodeBF16 writes src as bfloat16 to dst, which has at least 2*len(src) bytes.
func EncodeBF16(dst []byte, src []float32) {
	split(len(src), func(from, to int) {
		for i := from; i < to; i++ {
			binary.LittleEndian.PutUint16(dst[2*i:], Float32ToBF16(src[i]))
		}
	})
}

// EncodeF16 writes src in half precision to dst, which has at least 2*len(src) bytes.
func EncodeF16(dst []byte, src []float32) {
	split(len(src), func(from, to int) {
		for i := from; i < to; i++ {
			binary.LittleEndian.PutUint16(dst[2*i:], Float32ToHalf(src[i]))
		}
	})
}
