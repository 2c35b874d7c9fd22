package half

// Kernels are all that this processor can run.
func Kernels() map[string]func(q []float32, v []uint16) float32 {
	m := kernels()
	m["go"] = dotGo
	m["dispatch"] = Dot
	return m
}
