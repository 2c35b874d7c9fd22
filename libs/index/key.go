package index

import (
	"math"
	"math/bits"
)

// projection is a Key for vectors of a given length; see Key for its definition.
type projection struct {
	size  int      // length of the padded vector, a power of two
	signs []uint64 // bit i%64 of word i/64 set: value i changes sign
	keep  []int    // positions kept
}

// padded is the smallest power of two that is at least n.
func padded(n int) int {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len(uint(n-1))
}

func newProjection(k Key, values int) *projection {
	n := padded(values)
	p := &projection{size: n, signs: make([]uint64, (n+63)/64), keep: make([]int, k.Dims)}
	next := splitMix64(k.Seed)
	for i := range p.signs {
		p.signs[i] = next()
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	for i := range p.keep {
		j := i + int(next()%uint64(n-i))
		order[i], order[j] = order[j], order[i]
		p.keep[i] = order[i]
	}
	return p
}

// splitMix64 is the stream of a seed.
func splitMix64(state uint64) func() uint64 {
	return func() uint64 {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb
		return z ^ (z >> 31)
	}
}

// walshHadamard transforms x, of a power of two numbers, in place; it multiplies lengths by sqrt(len(x)).
func walshHadamard(x []float32) {
	for half := 1; half < len(x); half *= 2 {
		for i := 0; i < len(x); i += 2 * half {
			a, b := x[i:i+half], x[i+half:i+2*half]
			for j := range a {
				a[j], b[j] = a[j]+b[j], a[j]-b[j]
			}
		}
	}
}

// apply returns the key of v, with the length that v has in expectation.
func (p *projection) apply(v []float32) []float32 {
	x := make([]float32, p.size)
	for i, f := range v {
		if p.signs[i/64]>>(i%64)&1 == 1 {
			f = -f
		}
		x[i] = f
	}
	walshHadamard(x)
	// The transform multiplies lengths by sqrt(size); keeping Dims of size values divides them by sqrt(size/Dims).
	scale := float32(1 / math.Sqrt(float64(len(p.keep))))
	key := make([]float32, len(p.keep))
	for i, at := range p.keep {
		key[i] = x[at] * scale
	}
	return key
}
