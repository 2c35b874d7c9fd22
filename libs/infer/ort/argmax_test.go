package ort_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/libs/infer/ort"
)

func TestArgMax(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negative := math.Float32frombits(math.Float32bits(nan) | 1<<31)
	filled := func(n, at int, x float32) []float32 {
		list := make([]float32, n)
		for i := range list {
			list[i] = -float32(i%7) - 1
		}
		if at >= 0 {
			list[at] = x
		}
		return list
	}
	for _, c := range []struct {
		name string
		x    []float32
		want int
	}{
		{"nothing", nil, -1}, {"one", []float32{-3}, 0}, {"the first of equal ones", []float32{1, 2, 2}, 1}, {"the first of equal ones among many", filled(200, -1, 0), 0},
		{"among many", filled(200, 130, 1), 130}, {"the last", filled(133, 132, 1), 132}, {"zeros of both signs", filled(100, 70, float32(math.Copysign(0, -1))), 70},
		{"not a number", filled(200, 3, nan), -1}, {"not a number at the end", filled(131, 130, nan), -1}, {"negative not a number", filled(200, 90, negative), -1},
		{"infinite", filled(200, 3, inf), -1}, {"banned ones", filled(200, 0, -inf), 7}, {"all banned", []float32{-inf, -inf}, -1},
	} {
		assert.Equal(t, c.want, ort.ArgMax(c.x), c.name)
		assert.Equal(t, c.want, ort.PlainArgMax(c.x), c.name)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		x := make([]float32, 1+r.IntN(500))
		for i := range x {
			x[i] = float32(r.IntN(40)) - 20
		}
		assert.Equal(t, ort.PlainArgMax(x), ort.ArgMax(x))
	}
}

func BenchmarkArgMax(b *testing.B) {
	x := make([]float32, 49152)
	for i := range x {
		x[i] = float32(i % 1000)
	}
	for b.Loop() {
		ort.ArgMax(x)
	}
}
