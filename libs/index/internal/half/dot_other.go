//go:build !amd64

package half

// Dot returns the sum of q[i]*v[i] over len(q) values, in float32. v must be as long and finite.
func Dot(q []float32, v []uint16) float32 { return dotGo(q, v[:len(q)]) }

// Kernel names what Dot runs on.
func Kernel() string { return "go" }
