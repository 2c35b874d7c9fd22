// Package octet takes squared Euclidean distances between vectors of bytes, or of
// two numbers of 4 bits a byte, with AVX-512 or AVX2 where the processor has them.
package octet

// MaxLen is the longest vector whose distance is certain to fit: 65,536 times 255 squared is below 2^32.
const MaxLen = 65536

// distanceGo is Distance for processors without the vector instructions.
func distanceGo(a, b []uint8) uint32 {
	var s0, s1 uint32
	b = b[:len(a)]
	n := len(a) &^ 1
	for i := 0; i < n; i += 2 {
		d0, d1 := int32(a[i])-int32(b[i]), int32(a[i+1])-int32(b[i+1])
		s0 += uint32(d0 * d0)
		s1 += uint32(d1 * d1)
	}
	if n < len(a) {
		d := int32(a[n]) - int32(b[n])
		s0 += uint32(d * d)
	}
	return s0 + s1
}

// nibblesGo is Nibbles for processors without the vector instructions.
func nibblesGo(a, b []uint8) uint32 {
	var s0, s1 uint32
	b = b[:len(a)]
	for i := range a {
		d0, d1 := int32(a[i]&15)-int32(b[i]&15), int32(a[i]>>4)-int32(b[i]>>4)
		s0 += uint32(d0 * d0)
		s1 += uint32(d1 * d1)
	}
	return s0 + s1
}
