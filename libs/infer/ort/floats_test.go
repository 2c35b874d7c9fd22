//go:build cgo

package ort_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// TestFloatProduct: products with matrices of floats are exact but for the order of sums, whatever the number of rows, and where
// neither side is a multiple of a panel or a slice.
func TestFloatProduct(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, shape := range [][2]int{{1, 1}, {47, 33}, {96, 256}, {130, 577}, {500, 300}} {
		out, in := shape[0], shape[1]
		w := random(r, int64(out), int64(in)).Data.([]float32)
		g := graph.New("floats")
		g.Output("y", g.MatMulT(g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(in)), g.Floats("w", []int64{int64(out), int64(in)}, w)))
		all := sessions(t, g)
		holds, can := ort.HoldsProducts(all["narrow"])
		require.Equal(t, can, holds, "the products were moved to ours")
		for _, n := range []int{0, 1, 2, 3, 4, 5, 8, 9, 10, 19, 150} {
			x := random(r, int64(n), int64(in))
			data := x.Data.([]float32)
			for name, s := range all {
				got, err := s.Run(map[string]ort.Tensor{"x": x})
				require.NoError(t, err)
				require.Equal(t, []int64{int64(n), int64(out)}, got["y"].Shape)
				y := got["y"].Data.([]float32)
				for i := range y {
					want, size := 0.0, 0.0
					for k := range in {
						p := float64(w[i%out*in+k]) * float64(data[i/out*in+k])
						want, size = want+p, size+math.Abs(p)
					}
					require.InDelta(t, want, y[i], 1e-6*(size+1), "%s, %d x %d, %d rows, place %d", name, out, in, n, i)
				}
			}
		}
	}
}
