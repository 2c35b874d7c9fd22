package half

import "golang.org/x/sys/cpu"

func kernels() map[string]func(q []float32, v []uint16) float32 {
	m := map[string]func(q []float32, v []uint16) float32{}
	if cpu.X86.HasAVX512F {
		m["avx512"] = func(q []float32, v []uint16) float32 { return with(dotAVX512, 64, q, v) }
	}
	if cpu.X86.HasAVX2 {
		m["avx2"] = func(q []float32, v []uint16) float32 { return with(dotAVX2, 32, q, v) }
	}
	return m
}
