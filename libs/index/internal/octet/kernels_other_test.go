//go:build !amd64

package octet

func kernels() (distances, nibbles map[string]func(a, b []uint8) uint32) {
	return map[string]func(a, b []uint8) uint32{}, map[string]func(a, b []uint8) uint32{}
}
