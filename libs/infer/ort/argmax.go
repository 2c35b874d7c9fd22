package ort

import "math"

// argMax is ArgMax without vectors.
func argMax(x []float32) int {
	best := -1
	top := float32(math.Inf(-1))
	for i, v := range x {
		if !(v <= top) { // greater, or not a number
			if v != v {
				return -1
			}
			best, top = i, v
		}
	}
	if best < 0 || math.IsInf(float64(top), 0) {
		return -1
	}
	return best
}
