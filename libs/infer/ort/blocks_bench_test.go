//go:build cgo

package ort_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// BenchmarkBlockProduct multiplies with matrices of the shapes of a small model, with the runtime's kernels (plain) and ours, on one
// thread. It reports the best of many runs over several matrices, which together do not fit near caches, in microseconds a product.
func BenchmarkBlockProduct(b *testing.B) {
	for _, form := range []blockCase{
		{name: "4bit", bits: 4, group: 32, rounding: true}, {name: "4bit-shift", bits: 4, group: 32, shifted: true, rounding: true}, {name: "8bit", bits: 8, group: 32, rounding: true},
	} {
		for _, shape := range [][2]int{{960, 576}, {576, 576}, {1536, 576}, {576, 1536}, {49152, 576}} {
			for _, exact := range []bool{false, true} {
				form.out, form.in = shape[0], shape[1]
				head := form.out > 10000
				form.halved = exact && form.bits == 8
				if head && form.bits == 4 {
					continue // heads have 8 bits
				}
				copies := 1
				if !head {
					copies = 12
				}
				g := graph.New("blocks")
				x := g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(form.in))
				r := rand.New(rand.NewPCG(3, 4))
				for i := range copies {
					g.Output(fmt.Sprint("y", i), addBlocks(g, fmt.Sprint("w", i), x, form.matrix(r), !exact))
				}
				var model bytes.Buffer
				_, err := g.WriteTo(&model)
				require.NoError(b, err)
				for _, plain := range []bool{true, false} {
					s, err := ort.OpenBytes(model.Bytes(), ort.Options{Threads: 1, Provider: ort.CPU, Plain: plain})
					require.NoError(b, err)
					for _, rows := range []int64{1, 8, 64, 256} {
						if head && rows > 8 {
							continue
						}
						b.Run(fmt.Sprintf("%s/%dx%d/exact=%v/rows=%d/plain=%v", form.name, form.out, form.in, exact, rows, plain), func(b *testing.B) {
							bind, err := s.Bind()
							require.NoError(b, err)
							defer bind.Close()
							in, err := ort.NewValue(random(r, rows, int64(form.in)))
							require.NoError(b, err)
							defer in.Close()
							require.NoError(b, bind.In("x", in))
							for i := range copies {
								out, err := ort.NewValue(random(r, rows, int64(form.out)))
								require.NoError(b, err)
								defer out.Close()
								require.NoError(b, bind.Out(fmt.Sprint("y", i), out))
							}
							best := time.Hour
							for b.Loop() {
								start := time.Now()
								require.NoError(b, bind.Run())
								best = min(best, time.Since(start))
							}
							us := float64(best.Microseconds()) / float64(copies)
							b.ReportMetric(0, "ns/op")
							b.ReportMetric(us, "us")
							b.ReportMetric(2*float64(rows)*float64(form.out*form.in)/us/1e3, "GFLOP/s")
						})
					}
					require.NoError(b, s.Close())
				}
			}
		}
	}
}
