package octet

// Kernels are all that this processor can run: for distances of bytes, and of nibbles.
func Kernels() (distances, nibbles map[string]func(a, b []uint8) uint32) {
	distances, nibbles = kernels()
	distances["go"], nibbles["go"] = distanceGo, nibblesGo
	distances["dispatch"], nibbles["dispatch"] = Distance, Nibbles
	return distances, nibbles
}
