package half

import "golang.org/x/sys/cpu"

//go:noescape
func dotAVX512(q *float32, v *uint16, n int) float32

//go:noescape
func dotAVX2(q *float32, v *uint16, n int) float32

// Dot returns the sum of q[i]*v[i] over len(q) values, in float32. v must be as
// long and finite. The order of the additions depends on the processor.
func Dot(q []float32, v []uint16) float32 {
	v = v[:len(q)]
	switch {
	case cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ:
		return with(dotAVX512, 64, q, v)
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA && hasF16C:
		return with(dotAVX2, 32, q, v)
	}
	return dotGo(q, v)
}

func cpuidFeatures() uint32

// hasF16C is read once, as x/sys/cpu has no flag for it and the instruction is slow in virtual machines.
var hasF16C = cpuidFeatures()>>29&1 == 1

// Kernel names what Dot runs on.
func Kernel() string {
	switch {
	case cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ:
		return "avx512"
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA && hasF16C:
		return "avx2"
	}
	return "go"
}

// with runs a kernel on the multiple of step values that it takes, and the rest in Go.
func with(kernel func(q *float32, v *uint16, n int) float32, step int, q []float32, v []uint16) float32 {
	n := len(q) &^ (step - 1)
	if n == 0 {
		return dotGo(q, v)
	}
	return kernel(&q[0], &v[0], n) + dotGo(q[n:], v[n:])
}
