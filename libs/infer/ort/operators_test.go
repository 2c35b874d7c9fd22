//go:build cgo

package ort_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// sessions of one model: the runtime's operators, ours, and ours in narrower vectors.
func sessions(t *testing.T, g *graph.Builder) map[string]*ort.Session {
	var buf bytes.Buffer
	_, err := g.WriteTo(&buf)
	require.NoError(t, err)
	o := ort.Options{Threads: 2, Provider: ort.CPU}
	plain := o
	plain.Plain = true
	all := map[string]*ort.Session{}
	for name, o := range map[string]ort.Options{"plain": plain, "ours": o, "narrow": ort.Narrow(o)} {
		s, err := ort.OpenBytes(buf.Bytes(), o)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
		all[name] = s
	}
	return all
}

func random(r *rand.Rand, shape ...int64) ort.Tensor {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return ort.Of(x, shape...)
}

func near(t *testing.T, want, got ort.Tensor, what string) {
	t.Helper()
	a, err := ort.Data[float32](want)
	require.NoError(t, err)
	b, err := ort.Data[float32](got)
	require.NoError(t, err)
	require.Equal(t, want.Shape, got.Shape, what)
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i]-b[i])))
	}
	assert.Less(t, worst, 2e-5, what)
}

// TestAttention holds the attention of ours against the runtime's: prompts that are padded, pieces of a prompt, steps of rows
// of different lengths, with the cache in place and apart.
func TestAttention(t *testing.T) {
	for _, form := range []struct{ heads, kv, width, rotated int }{{9, 3, 64, 64}, {4, 4, 16, 16}, {8, 1, 32, 32}, {2, 1, 96, 32}, {4, 2, 256, 256}, {7, 1, 128, 128}} {
		for _, packed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v packed=%v", form, packed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				H, KV, D := int64(form.heads), int64(form.kv), int64(form.width)
				const C, P = 200, 256
				g := graph.New("attention")
				B, T := graph.Named("B"), graph.Named("T")
				a := graph.Attention{Heads: form.heads, KVHeads: form.kv, HeadDim: form.width, Scale: 0.11, Window: 0}
				q := H * D
				if packed {
					q += 2 * KV * D
				}
				a.Query = g.Input("q", graph.Float32, B, T, graph.Fixed(int(q)))
				if !packed {
					a.Key = g.Input("k", graph.Float32, B, T, graph.Fixed(int(KV*D)))
					a.Value = g.Input("v", graph.Float32, B, T, graph.Fixed(int(KV*D)))
				}
				a.PastKey = g.Input("past_key", graph.Float32, B, graph.Fixed(form.kv), graph.Named("C"), graph.Fixed(form.width))
				a.PastValue = g.Input("past_value", graph.Float32, B, graph.Fixed(form.kv), graph.Named("C"), graph.Fixed(form.width))
				a.SeqLens, a.Total = g.Input("lengths", graph.Int32, B), g.Input("longest", graph.Int32, graph.Fixed(1))
				a.Cos, a.Sin = g.Input("cos", graph.Float32, graph.Fixed(P), graph.Fixed(form.rotated/2)), g.Input("sin", graph.Float32, graph.Fixed(P), graph.Fixed(form.rotated/2))
				out, key, value := g.GroupQueryAttention(a, "key", "value")
				g.Output("out", out)
				g.Output("key", key)
				g.Output("value", value)
				all := sessions(t, g)
				cos, sin := random(r, P, int64(form.rotated/2)), random(r, P, int64(form.rotated/2))
				for _, c := range []struct {
					name     string
					tokens   int64
					capacity int64
					lengths  []int32 // with these tokens
				}{
					{"a prompt", 70, C, []int32{70}}, {"prompts of different lengths", 131, 0, []int32{131, 17, 64, 65}},
					{"a prompt of one token", 1, C, []int32{1}}, {"a short one", 5, C, []int32{5}},
					{"a piece", 66, C, []int32{130}}, {"a short piece", 3, C, []int32{133}},
					{"a step", 1, C, []int32{100, 1, 64, 65, 200}},
				} {
					n := int64(len(c.lengths))
					longest, less := int32(0), make([]int32, n)
					for i, l := range c.lengths {
						longest, less[i] = max(longest, l), l-1
					}
					in := map[string]ort.Tensor{"q": random(r, n, c.tokens, q), "past_key": random(r, n, KV, c.capacity, D), "past_value": random(r, n, KV, c.capacity, D),
						"lengths": ort.Of(less, n), "longest": ort.Of([]int32{longest}, 1), "cos": cos, "sin": sin}
					if !packed {
						in["k"], in["v"] = random(r, n, c.tokens, KV*D), random(r, n, c.tokens, KV*D)
					}
					want, err := all["plain"].Run(in)
					require.NoError(t, err)
					for _, name := range []string{"ours", "narrow"} {
						got, err := all[name].Run(in)
						require.NoError(t, err)
						// What lies behind a row's tokens means nothing.
						for i, l := range c.lengths {
							at := fmt.Sprintf("%s, %s, row %d", c.name, name, i)
							w, o := want["out"].Data.([]float32), got["out"].Data.([]float32)
							rows := min(int64(l), c.tokens)
							from, size := int64(i)*c.tokens*H*D, rows*H*D
							near(t, ort.Of(w[from:from+size], size), ort.Of(o[from:from+size], size), at)
							for _, cache := range []string{"key", "value"} {
								w, o := want[cache].Data.([]float32), got[cache].Data.([]float32)
								require.Equal(t, want[cache].Shape, got[cache].Shape)
								for h := range KV {
									from := (int64(i)*KV + h) * want[cache].Shape[2] * D
									size := int64(l) * D
									near(t, ort.Of(w[from:from+size], size), ort.Of(o[from:from+size], size), at+" "+cache)
								}
							}
						}
						if c.capacity == 0 {
							continue
						}
						// In place: the cache is input and output.
						key, value := random(r, 0+n, KV, c.capacity, D), random(r, n, KV, c.capacity, D)
						copy(key.Data.([]float32), in["past_key"].Data.([]float32))
						copy(value.Data.([]float32), in["past_value"].Data.([]float32))
						bind, err := all[name].Bind()
						require.NoError(t, err)
						result := random(r, n, c.tokens, H*D)
						bound := map[string]*ort.Value{}
						for input, tensor := range in {
							switch input {
							case "past_key":
								tensor = key
							case "past_value":
								tensor = value
							}
							v, err := ort.NewValue(tensor)
							require.NoError(t, err)
							bound[input] = v
							require.NoError(t, bind.In(input, v))
						}
						v, err := ort.NewValue(result)
						require.NoError(t, err)
						require.NoError(t, bind.Out("out", v))
						require.NoError(t, bind.Out("key", bound["past_key"]))
						require.NoError(t, bind.Out("value", bound["past_value"]))
						require.NoError(t, bind.Run())
						near(t, want["out"], result, c.name+" in place, "+name)
						bind.Close()
						v.Close()
						for _, v := range bound {
							v.Close()
						}
					}
				}
			})
		}
	}
}

// TestAttentionRefuses: a length that the cache or the rotary tables do not hold is an error, not a write elsewhere.
func TestAttentionRefuses(t *testing.T) {
	g := graph.New("attention")
	B, T := graph.Named("B"), graph.Named("T")
	past := func(name string) graph.Value {
		return g.Input(name, graph.Float32, B, graph.Fixed(1), graph.Named("C"), graph.Fixed(16))
	}
	out, key, value := g.GroupQueryAttention(graph.Attention{
		Query: g.Input("q", graph.Float32, B, T, graph.Fixed(48)), PastKey: past("past_key"), PastValue: past("past_value"),
		SeqLens: g.Input("lengths", graph.Int32, B), Total: g.Input("longest", graph.Int32, graph.Fixed(1)),
		Cos: g.Input("cos", graph.Float32, graph.Named("P"), graph.Fixed(8)), Sin: g.Input("sin", graph.Float32, graph.Named("P"), graph.Fixed(8)),
		Heads: 1, KVHeads: 1, HeadDim: 16, Scale: 1,
	}, "key", "value")
	g.Output("out", out)
	g.Output("key", key)
	g.Output("value", value)
	s := sessions(t, g)["ours"]
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name            string
		length, longest int32
		rotary          int64
	}{{"beyond the longest", 20, 9, 32}, {"negative", -1, 9, 32}, {"beyond the tables", 40, 40, 32}, {"fewer than the tokens", 1, 9, 32}} {
		_, err := s.Run(map[string]ort.Tensor{"q": random(r, 1, 2, 48), "past_key": random(r, 1, 1, 8, 16), "past_value": random(r, 1, 1, 8, 16),
			"lengths": ort.Of([]int32{c.length - 1}, 1), "longest": ort.Of([]int32{c.longest}, 1), "cos": random(r, c.rotary, 8), "sin": random(r, c.rotary, 8)})
		assert.Error(t, err, c.name)
	}
}

// TestAdapter holds the adapter of ours against the runtime's products, of any rank and width, for all rows, some and none.
func TestAdapter(t *testing.T) {
	g := graph.New("adapter")
	B, T, K, R, N := graph.Named("B"), graph.Named("T"), graph.Named("K"), graph.Named("R"), graph.Named("N")
	x, w := g.Input("x", graph.Float32, B, T, K), g.Input("w", graph.Float32, K, N)
	a, b := g.Input("a", graph.Float32, K, R), g.Input("b", graph.Float32, R, N)
	rows := g.Input("rows", graph.Float32, B, graph.Fixed(1), graph.Fixed(1))
	g.Output("y", g.Add(g.MatMul(x, w), g.MatMul(g.Mul(g.MatMul(x, a), rows), b)))
	all := sessions(t, g)
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ B, T, K, R, N int64 }{{1, 1, 8, 4, 24}, {2, 70, 33, 48, 160}, {3, 5, 64, 16, 65}, {8, 1, 64, 0, 64}, {1, 13, 16, 3, 7}, {2, 0, 8, 4, 8}} {
		in := map[string]ort.Tensor{"x": random(r, c.B, c.T, c.K), "w": random(r, c.K, c.N), "a": random(r, c.K, c.R), "b": random(r, c.R, c.N)}
		factors := make([]float32, c.B)
		for i := range factors {
			factors[i] = []float32{1, 0, 0.5}[i%3]
		}
		in["rows"] = ort.Of(factors, c.B, 1, 1)
		for _, m := range in { // sums of a few units
			for i, v := range m.Data.([]float32) {
				m.Data.([]float32)[i] = v / 8
			}
		}
		want, err := all["plain"].Run(in)
		require.NoError(t, err)
		for _, name := range []string{"ours", "narrow"} {
			got, err := all[name].Run(in)
			require.NoError(t, err)
			near(t, want["y"], got["y"], fmt.Sprint(name, c))
		}
	}
}
