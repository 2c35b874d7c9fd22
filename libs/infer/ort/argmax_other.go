//go:build !(cgo && linux && amd64)

package ort

// ArgMax returns the place of the largest number, the first of equal ones; -1 if it is not finite or one is not a number.
func ArgMax(x []float32) int { return argMax(x) }
