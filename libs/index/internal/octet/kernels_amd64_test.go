package octet

import "golang.org/x/sys/cpu"

func kernels() (distances, nibbles map[string]func(a, b []uint8) uint32) {
	distances, nibbles = map[string]func(a, b []uint8) uint32{}, map[string]func(a, b []uint8) uint32{}
	if cpu.X86.HasAVX512BW {
		distances["avx512"] = func(a, b []uint8) uint32 { return with(distanceAVX512, distanceGo, a, b) }
		nibbles["avx512"] = func(a, b []uint8) uint32 { return with(nibblesAVX512, nibblesGo, a, b) }
	}
	if cpu.X86.HasAVX2 {
		distances["avx2"] = func(a, b []uint8) uint32 { return with(distanceAVX2, distanceGo, a, b) }
		nibbles["avx2"] = func(a, b []uint8) uint32 { return with(nibblesAVX2, nibblesGo, a, b) }
	}
	return distances, nibbles
}
