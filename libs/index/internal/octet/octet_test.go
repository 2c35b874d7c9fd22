package octet_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/libs/index/internal/octet"
)

func TestDistance(t *testing.T) {
	t.Logf("kernel %s", octet.Kernel())
	distances, nibbles := octet.Kernels()
	square := func(a, b uint8) uint64 { d := int64(a) - int64(b); return uint64(d * d) }
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{0, 1, 3, 31, 63, 64, 65, 127, 128, 129, 191, 288, 4608, 9217, octet.MaxLen} {
		a, b := make([]uint8, n), make([]uint8, n)
		var want, want4 uint64
		for i := range a {
			a[i], b[i] = uint8(rng.UintN(256)), uint8(rng.UintN(256))
			want += square(a[i], b[i])
			want4 += square(a[i]&15, b[i]&15) + square(a[i]>>4, b[i]>>4)
		}
		for name, distance := range distances {
			assert.EqualValues(t, want, distance(a, b), "%s, n = %d", name, n)
		}
		for name, distance := range nibbles {
			assert.EqualValues(t, want4, distance(a, b), "nibbles, %s, n = %d", name, n)
		}
	}
	// The largest there is fits, in either order.
	low, high := make([]uint8, octet.MaxLen), bytes.Repeat([]byte{255}, octet.MaxLen)
	for name, distance := range distances {
		assert.EqualValues(t, uint64(octet.MaxLen)*255*255, distance(low, high), name)
		assert.EqualValues(t, uint64(octet.MaxLen)*255*255, distance(high, low), name)
	}
	for name, distance := range nibbles {
		assert.EqualValues(t, octet.MaxLen*2*15*15, distance(low, high), name)
		assert.EqualValues(t, octet.MaxLen*2*15*15, distance(high, low), name)
	}
}

func BenchmarkDistance(b *testing.B) {
	distances, nibbles := octet.Kernels()
	for _, n := range []int{4608, 9216, 65536} {
		x, y := make([]uint8, n), make([]uint8, n)
		for i := range x {
			x[i], y[i] = uint8(i*7), uint8(i*5)
		}
		for kind, kernels := range map[string]map[string]func(a, b []uint8) uint32{"bytes": distances, "nibbles": nibbles} {
			for name, distance := range kernels {
				b.Run(fmt.Sprintf("%s/%s/%d", kind, name, n), func(b *testing.B) {
					b.SetBytes(int64(n))
					for b.Loop() {
						distance(x, y)
					}
				})
			}
		}
	}
}
