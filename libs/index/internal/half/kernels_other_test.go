//go:build !amd64

package half

func kernels() map[string]func(q []float32, v []uint16) float32 {
	return map[string]func(q []float32, v []uint16) float32{}
}
