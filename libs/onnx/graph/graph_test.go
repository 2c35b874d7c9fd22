package graph_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// run writes the graph into dir and runs it.
func run(t *testing.T, b *graph.Builder, dir string, in map[string]ort.Tensor) map[string]ort.Tensor {
	t.Helper()
	var buf bytes.Buffer
	n, err := b.WriteTo(&buf)
	require.NoError(t, err)
	require.EqualValues(t, buf.Len(), n)
	path := filepath.Join(dir, "m.onnx")
	require.NoError(t, os.WriteFile(path, buf.Bytes(), 0o600))
	s, err := ort.Open(path, ort.Options{Threads: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	out, err := s.Run(in)
	require.NoError(t, err)
	return out
}

func f(shape ...int64) func(...float32) ort.Tensor {
	return func(x ...float32) ort.Tensor { return ort.Of(x, shape...) }
}

// TestOps runs each operator: literal in, literal out, all dimensions different.
func TestOps(t *testing.T) {
	type G = *graph.Builder
	sig := func(x float64) float32 { return float32(x / (1 + math.Exp(-x))) }
	in := func(g G, name string, n ...int) graph.Value {
		dims := make([]graph.Dim, len(n))
		for i, d := range n {
			dims[i] = graph.Fixed(d)
		}
		return g.Input(name, graph.Float32, dims...)
	}
	for _, c := range []struct {
		name  string
		build func(g G) graph.Value
		in    map[string]ort.Tensor
		want  ort.Tensor
	}{
		{"MatMul", func(g G) graph.Value { return g.MatMul(in(g, "x", 1, 3), in(g, "w", 3, 2)) },
			map[string]ort.Tensor{"x": f(1, 3)(1, 2, 3), "w": f(3, 2)(1, 0, 0, 1, 2, 2)}, f(1, 2)(7, 8)},
		{"MatMul over rank 0 is zero", func(g G) graph.Value {
			return g.MatMul(g.Input("x", graph.Float32, graph.Fixed(1), graph.Fixed(2), graph.Named("R")), g.Input("w", graph.Float32, graph.Named("R"), graph.Fixed(2)))
		}, map[string]ort.Tensor{"x": f(1, 2, 0)(), "w": f(0, 2)()}, f(1, 2, 2)(0, 0, 0, 0)},
		{"MatMulT", func(g G) graph.Value { return g.MatMulT(in(g, "x", 1, 3), in(g, "w", 2, 3)) },
			map[string]ort.Tensor{"x": f(1, 3)(1, 2, 3), "w": f(2, 3)(1, 0, 2, 0, 1, 2)}, f(1, 2)(7, 8)},
		{"Gram", func(g G) graph.Value { return g.Gram(in(g, "x", 1, 2, 2)) }, map[string]ort.Tensor{"x": f(1, 2, 2)(1, 2, 3, 4)}, f(2, 2)(10, 14, 14, 20)},
		{"GroupSum", func(g G) graph.Value { return g.GroupSum(in(g, "x", 1, 2, 4), 2) },
			map[string]ort.Tensor{"x": f(1, 2, 4)(1, 2, 3, 4, 5, 6, 7, 8)}, f(1, 2, 2)(3, 7, 11, 15)},
		{"Add bias", func(g G) graph.Value { return g.Add(in(g, "x", 2, 3), in(g, "y", 3)) },
			map[string]ort.Tensor{"x": f(2, 3)(1, 2, 3, 4, 5, 6), "y": f(3)(10, 20, 30)}, f(2, 3)(11, 22, 33, 14, 25, 36)},
		{"Mul", func(g G) graph.Value { return g.Mul(in(g, "x", 3), in(g, "y", 3)) },
			map[string]ort.Tensor{"x": f(3)(1, 2, 3), "y": f(3)(4, 5, 6)}, f(3)(4, 10, 18)},
		{"Concat", func(g G) graph.Value { return g.Concat(1, in(g, "x", 2, 1), in(g, "y", 2, 3)) },
			map[string]ort.Tensor{"x": f(2, 1)(1, 5), "y": f(2, 3)(2, 3, 4, 6, 7, 8)}, f(2, 4)(1, 2, 3, 4, 5, 6, 7, 8)},
		{"Split", func(g G) graph.Value { return g.Split(in(g, "x", 2, 3), 1, 2)[1] },
			map[string]ort.Tensor{"x": f(2, 3)(1, 2, 3, 4, 5, 6)}, f(2, 2)(2, 3, 5, 6)},
		{"Reshape", func(g G) graph.Value {
			return g.Reshape(in(g, "x", 2, 3), []int64{0, -1, 1}, graph.Fixed(2), graph.Fixed(3), graph.Fixed(1))
		}, map[string]ort.Tensor{"x": f(2, 3)(1, 2, 3, 4, 5, 6)}, f(2, 3, 1)(1, 2, 3, 4, 5, 6)},
		{"GatherRows", func(g G) graph.Value {
			return g.GatherRows(in(g, "x", 2, 3, 1), g.Input("i", graph.Int64, graph.Fixed(2), graph.Fixed(2), graph.Fixed(1)))
		}, map[string]ort.Tensor{"x": f(2, 3, 1)(1, 2, 3, 4, 5, 6), "i": ort.Of([]int64{2, 0, 1, 1}, 2, 2, 1)}, f(2, 2, 1)(3, 1, 5, 5)},
		{"RMSNorm", func(g G) graph.Value { return g.RMSNorm(in(g, "x", 1, 2), in(g, "w", 2), 0) },
			map[string]ort.Tensor{"x": f(1, 2)(1, 7), "w": f(2)(5, 10)}, f(1, 2)(1, 14)},
		{"SkipRMSNorm", func(g G) graph.Value {
			n, sum := g.SkipRMSNorm(in(g, "s", 1, 1, 2), in(g, "x", 1, 1, 2), in(g, "w", 2), 0)
			return g.Add(n, sum)
		}, map[string]ort.Tensor{"s": f(1, 1, 2)(1, 3), "x": f(1, 1, 2)(0, 4), "w": f(2)(5, 10)}, f(1, 1, 2)(2, 21)},
		{"SiLU", func(g G) graph.Value { return g.SiLU(in(g, "x", 3)) },
			map[string]ort.Tensor{"x": f(3)(-1, 0, 2)}, f(3)(sig(-1), 0, sig(2))},
		{"GELU", func(g G) graph.Value { return g.GELU(in(g, "x", 2), false) },
			map[string]ort.Tensor{"x": f(2)(-1, 2)}, f(2)(float32(-0.5*math.Erfc(math.Sqrt2/2)), float32(2-math.Erfc(math.Sqrt2)))},
		{"GELU by tanh", func(g G) graph.Value { return g.GELU(in(g, "x", 1), true) },
			map[string]ort.Tensor{"x": f(1)(2)}, f(1)(float32(1 + math.Tanh(math.Sqrt(2/math.Pi)*(2+0.044715*8))))},
		{"Tanh", func(g G) graph.Value { return g.Tanh(in(g, "x", 2)) }, map[string]ort.Tensor{"x": f(2)(0, 1)}, f(2)(0, float32(math.Tanh(1)))},
		{"Floats", func(g G) graph.Value { return g.Add(in(g, "x", 2), g.Floats("c", []int64{2}, []float32{1, 2})) },
			map[string]ort.Tensor{"x": f(2)(1, 1)}, f(2)(2, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := graph.New("test")
			g.Output("out", c.build(g))
			got := run(t, g, t.TempDir(), c.in)["out"]
			assert.Equal(t, c.want.Shape, got.Shape)
			assert.InDeltaSlice(t, c.want.Data, got.Data, 1e-5)
		})
	}
}

// TestExternal reads a weight from the middle of another file, unaligned, and joins two of them.
func TestExternal(t *testing.T) {
	dir := t.TempDir()
	raw := []byte("odd")
	for _, x := range []float32{1, 2, 3, 4, 5, 6} {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "w.bin"), raw, 0o600))
	g := graph.New("test")
	x := g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(2))
	a := g.External("a", graph.Float32, []int64{1, 2}, graph.File{Path: "w.bin", Offset: 3, Length: 8})
	b := g.External("b", graph.Float32, []int64{2, 2}, graph.File{Path: "w.bin", Offset: 11, Length: 16})
	g.Output("y", g.MatMulT(x, g.Concat(0, a, b)))
	got := run(t, g, dir, map[string]ort.Tensor{"x": f(1, 2)(1, 10)})["y"]
	assert.Equal(t, []float32{21, 43, 65}, got.Data)
}

// TestAttention runs three tokens at once, then the last one over the cache of the first two.
func TestAttention(t *testing.T) {
	build := func(window int) *graph.Builder {
		g := graph.New("attention")
		B, T, C := graph.Named("B"), graph.Named("T"), graph.Named("C")
		f32, i32, d := graph.Float32, graph.Int32, graph.Fixed[int]
		y, _, _ := g.GroupQueryAttention(graph.Attention{
			Query: g.Input("q", f32, B, T, d(8)), Key: g.Input("k", f32, B, T, d(8)), Value: g.Input("v", f32, B, T, d(8)),
			PastKey: g.Input("pk", f32, B, d(1), C, d(8)), PastValue: g.Input("pv", f32, B, d(1), C, d(8)),
			SeqLens: g.Input("len", i32, B), Total: g.Input("total", i32, d(1)),
			Heads: 1, KVHeads: 1, HeadDim: 8, Scale: 1, Window: window,
		}, "k2", "v2")
		g.Output("y", y)
		return g
	}
	vec := func(a ...float32) []float32 { // each number fills a head of 8 in its first place
		out := make([]float32, 8*len(a))
		for i, x := range a {
			out[8*i] = x
		}
		return out
	}
	q, k, v := []float32{1, 1, 2}, []float32{0.5, -0.5, 0.25}, []float32{1, 2, 4}
	want := func(window int) []float32 {
		out := make([]float32, 3)
		for i := range q {
			var sum, den float64
			for j := max(0, i-window+1); j <= i; j++ {
				w := math.Exp(float64(q[i] * k[j]))
				sum, den = sum+w*float64(v[j]), den+w
			}
			out[i] = float32(sum / den)
		}
		return out
	}
	for _, c := range []struct {
		name           string
		window, effect int
	}{{"all", 0, 3}, {"window of two", 2, 2}} {
		t.Run(c.name, func(t *testing.T) {
			in := map[string]ort.Tensor{
				"q": ort.Of(vec(q...), 1, 3, 8), "k": ort.Of(vec(k...), 1, 3, 8), "v": ort.Of(vec(v...), 1, 3, 8),
				"pk": f(1, 1, 0, 8)(), "pv": f(1, 1, 0, 8)(), "len": ort.Of([]int32{2}, 1), "total": ort.Of([]int32{3}, 1),
			}
			y := run(t, build(c.window), t.TempDir(), in)["y"].Data.([]float32)
			w := want(c.effect)
			for i := range w {
				assert.InDelta(t, w[i], y[8*i], 1e-5)
			}
			in["q"], in["k"], in["v"] = ort.Of(vec(q[2]), 1, 1, 8), ort.Of(vec(k[2]), 1, 1, 8), ort.Of(vec(v[2]), 1, 1, 8)
			in["pk"], in["pv"] = ort.Of(vec(k[0], k[1], 99, 99), 1, 1, 4, 8), ort.Of(vec(v[0], v[1], 99, 99), 1, 1, 4, 8)
			y = run(t, build(c.window), t.TempDir(), in)["y"].Data.([]float32)
			assert.InDelta(t, w[2], y[0], 1e-5)
		})
	}
}

// TestFaults checks that the first mistake sticks and names the place.
func TestFaults(t *testing.T) {
	f32, d := graph.Float32, graph.Fixed[int]
	for _, c := range []struct {
		name, text string
		build      func(g *graph.Builder)
	}{
		{"inner dimensions", "layer/MatMul: inner dimensions 3 and 4 differ", func(g *graph.Builder) {
			g.In("layer", func() { g.MatMul(g.Input("x", f32, d(2), d(3)), g.Input("w", f32, d(4), d(5))) })
		}},
		{"dtype", "Add: takes one type", func(g *graph.Builder) { g.Add(g.Input("x", f32, d(2)), g.Input("y", graph.Int64, d(2))) }},
		{"name twice", `Input: name "x"`, func(g *graph.Builder) { g.Input("x", f32); g.Input("x", f32) }},
		{"file size", "takes 16 bytes, the file part has 12", func(g *graph.Builder) {
			g.External("w", f32, []int64{2, 2}, graph.File{Path: "w", Length: 12})
		}},
		{"file outside", "leaves the model's folder", func(g *graph.Builder) {
			g.External("w", f32, []int64{1}, graph.File{Path: "a/../../w", Length: 4})
		}},
		{"norm width", "SimplifiedLayerNormalization: takes", func(g *graph.Builder) { g.RMSNorm(g.Input("x", f32, d(2), d(3)), g.Input("w", f32, d(2)), 0) }},
		{"heads", "does not hold", func(g *graph.Builder) {
			g.GroupQueryAttention(graph.Attention{Query: g.Input("q", f32, d(1), d(1), d(7)), Heads: 2, KVHeads: 1, HeadDim: 4}, "k", "v")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := graph.New("g")
			c.build(g)
			g.Output("y", g.Add(graph.Value{}, graph.Value{})) // changes nothing
			_, err := g.WriteTo(&bytes.Buffer{})
			require.ErrorContains(t, err, c.text)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
		})
	}
}

// TestInspect reads back what was written, and refuses what is no model.
func TestInspect(t *testing.T) {
	g := graph.New("g")
	g.Output("y", g.Add(g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(3)), g.Floats("w", []int64{3}, make([]float32, 3))))
	var buf bytes.Buffer
	_, err := g.WriteTo(&buf)
	require.NoError(t, err)
	in, out, err := graph.Inspect(buf.Bytes())
	require.NoError(t, err)
	require.Len(t, in, 1)
	assert.Equal(t, "x f32[B, 3]", in[0].String())
	assert.Equal(t, "y f32[B, 3]", out[0].String())
	for _, bad := range [][]byte{nil, []byte("not a model"), buf.Bytes()[:20]} {
		_, _, err := graph.Inspect(bad)
		assert.Equal(t, clara.Corrupt, clara.KindOf(err))
	}
}

// TestMatMulBlocks multiplies with a matrix in blocks, whose weights are 0.5 * (code - 8) and 0.5 * (code - 128).
func TestMatMulBlocks(t *testing.T) {
	const K, N = 64, 2
	for _, bits := range []int{4, 8} {
		for _, int8 := range []bool{false, true} {
			codes, x := make([]byte, N*K*bits/8), make([]float32, K)
			want := [N]float32{}
			for k := range K {
				x[k] = float32(k%5) - 2
				for n := range N {
					q := (3*k + n) % 16
					if bits == 4 {
						codes[(n*K+k)/2] |= byte(q) << (4 * (k % 2))
						want[n] += x[k] * 0.5 * float32(q-8)
					} else {
						codes[n*K+k] = byte(q + 120)
						want[n] += x[k] * 0.5 * float32(q-8)
					}
				}
			}
			dir := t.TempDir()
			raw := append([]byte{}, codes...)
			for range N * K / 32 {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(0.5))
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "w.bin"), raw, 0o600))
			g := graph.New("test")
			size := int64(len(codes))
			c := g.External("c", graph.Uint8, []int64{N, K / 32, int64(4 * bits)}, graph.File{Path: "w.bin", Length: size})
			s := g.External("s", graph.Float32, []int64{N, K / 32}, graph.File{Path: "w.bin", Offset: size, Length: N * K / 32 * 4})
			g.Output("y", g.MatMulBlocks(g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(K)), c, s, bits, 32, int8))
			got := run(t, g, dir, map[string]ort.Tensor{"x": f(1, K)(x...)})["y"]
			assert.InDeltaSlice(t, want[:], got.Data, 0.5, "%d bits, int8 %v", bits, int8)
		}
	}
	g := graph.New("test")
	u8 := g.Input("c", graph.Uint8, graph.Fixed(2), graph.Fixed(1), graph.Fixed(32))
	g.MatMulBlocks(g.Input("x", graph.Float32, graph.Fixed(1), graph.Fixed(48)), u8, g.Input("s", graph.Float32, graph.Fixed(2), graph.Fixed(1)), 8, 32, false)
	assert.Equal(t, clara.Invalid, clara.KindOf(g.Err()), "48 is no multiple of 32")
}
