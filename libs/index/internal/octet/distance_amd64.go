package octet

import "golang.org/x/sys/cpu"

//go:noescape
func distanceAVX512(a, b *uint8, n int) uint32

//go:noescape
func distanceAVX2(a, b *uint8, n int) uint32

//go:noescape
func nibblesAVX512(a, b *uint8, n int) uint32

//go:noescape
func nibblesAVX2(a, b *uint8, n int) uint32

// Distance returns the sum of (a[i]-b[i])² over at most MaxLen bytes. b must be as long as a.
func Distance(a, b []uint8) uint32 {
	b = b[:len(a)]
	switch {
	case cpu.X86.HasAVX512BW:
		return with(distanceAVX512, distanceGo, a, b)
	case cpu.X86.HasAVX2:
		return with(distanceAVX2, distanceGo, a, b)
	}
	return distanceGo(a, b)
}

// Nibbles is Distance for two numbers of 4 bits in each byte.
func Nibbles(a, b []uint8) uint32 {
	b = b[:len(a)]
	switch {
	case cpu.X86.HasAVX512BW:
		return with(nibblesAVX512, nibblesGo, a, b)
	case cpu.X86.HasAVX2:
		return with(nibblesAVX2, nibblesGo, a, b)
	}
	return nibblesGo(a, b)
}

// Kernel names what Distance and Nibbles run on.
func Kernel() string {
	switch {
	case cpu.X86.HasAVX512BW:
		return "avx512"
	case cpu.X86.HasAVX2:
		return "avx2"
	}
	return "go"
}

// with runs a kernel on the multiple of 128 bytes that it takes, and the rest in Go.
func with(kernel func(a, b *uint8, n int) uint32, rest func(a, b []uint8) uint32, a, b []uint8) uint32 {
	n := len(a) &^ 127
	if n == 0 {
		return rest(a, b)
	}
	return kernel(&a[0], &b[0], n) + rest(a[n:], b[n:])
}
