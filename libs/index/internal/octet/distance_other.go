//go:build !amd64

package octet

// Distance returns the sum of (a[i]-b[i])² over at most MaxLen bytes. b must be as long as a.
func Distance(a, b []uint8) uint32 { return distanceGo(a, b) }

// Nibbles is Distance for two numbers of 4 bits in each byte.
func Nibbles(a, b []uint8) uint32 { return nibblesGo(a, b) }

// Kernel names what Distance and Nibbles run on.
func Kernel() string { return "go" }
