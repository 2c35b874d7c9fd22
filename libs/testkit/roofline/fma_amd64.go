package roofline

import "golang.org/x/sys/cpu"

// fma makes loops rounds of multiply-adds and returns the operations of one round.
func fma(loops int) float64 {
	switch {
	case cpu.X86.HasAVX512F:
		fmaAVX512(loops)
		return 2 * 16 * 12
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA:
		fmaAVX2(loops)
		return 2 * 8 * 12
	}
	return fmaScalar(loops)
}

//go:noescape
func fmaAVX512(loops int)

//go:noescape
func fmaAVX2(loops int)
