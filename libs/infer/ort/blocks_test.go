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
	"github.com/clara-suite/clara/libs/quant"
)

// blockCase is a matrix as files have it.
type blockCase struct {
	name     string
	bits     int
	group    int
	out, in  int
	shifted  bool
	halved   bool
	rounding bool // scales are halves, as those of files of 4 bits are
}

func (c blockCase) matrix(r *rand.Rand) quant.Matrix {
	groups := c.in / c.group
	m := quant.Matrix{Format: quant.Format{Bits: c.bits, Group: c.group, Shifted: c.shifted}, Out: c.out, In: c.in,
		Codes: make([]byte, c.out*c.in*c.bits/8), Scale: make([]float32, c.out*groups)}
	for i := range m.Codes {
		m.Codes[i] = byte(r.Uint32())
	}
	number := func() float32 {
		x := float32(r.NormFloat64()) / 64
		if c.rounding {
			return float32(int(x*1024)) / 1024 // few places
		}
		return x
	}
	for i := range m.Scale {
		m.Scale[i] = number()
	}
	if c.shifted {
		m.Shift = make([]float32, c.out*groups)
		for i := range m.Shift {
			m.Shift[i] = number()
			if c.rounding {
				m.Shift[i] += float32(int(1)<<(c.bits-1)) * m.Scale[i]
			}
		}
	}
	if c.halved {
		return m.Halve()
	}
	return m
}

// add writes y = x w^T as package decoder does.
func addBlocks(g *graph.Builder, name string, x graph.Value, m quant.Matrix, int8 bool) graph.Value {
	groups, rows := int64(m.In/m.Group), int64(m.Rows(m.Out))
	codes := g.Bytes(name+".codes", []int64{rows, groups, int64(m.Group * m.Bits / 8)}, m.Codes)
	y := g.MatMulBlocks(x, codes, g.Floats(name+".scale", []int64{rows, groups}, m.Scale), m.Bits, m.Group, int8)
	if m.Halved {
		halves := g.Split(y, int64(m.Out), int64(m.Out))
		y = g.Add(halves[0], halves[1])
	}
	if m.Shifted {
		y = g.Add(y, g.MatMulT(g.GroupSum(x, m.Group), g.Floats(name+".shift", []int64{int64(m.Out), groups}, m.Shift)))
	}
	return y
}

// TestBlockProduct holds products with matrices in blocks against sums in float64 of the numbers that the blocks stand for,
// for all forms, and widths and rows that fill nothing.
func TestBlockProduct(t *testing.T) {
	for _, c := range []blockCase{
		{name: "4 bits", bits: 4, group: 32, out: 48, in: 64}, {name: "4 bits, one row of weights", bits: 4, group: 32, out: 1, in: 32},
		{name: "4 bits, halves", bits: 4, group: 32, out: 37, in: 96, rounding: true},
		{name: "4 bits with a shift", bits: 4, group: 32, out: 35, in: 160, shifted: true},
		{name: "4 bits with a shift, halves", bits: 4, group: 32, out: 131, in: 64, shifted: true, rounding: true},
		{name: "4 bits in groups of 16", bits: 4, group: 16, out: 50, in: 80, shifted: true},
		{name: "8 bits", bits: 8, group: 32, out: 49, in: 96}, {name: "8 bits, halves", bits: 8, group: 32, out: 33, in: 64, rounding: true},
		{name: "8 bits with a shift", bits: 8, group: 32, out: 17, in: 32, shifted: true, rounding: true},
		{name: "8 bits in groups of 16", bits: 8, group: 16, out: 40, in: 48},
		{name: "8 bits in two halves", bits: 8, group: 32, out: 21, in: 64, halved: true, rounding: true},
		{name: "8 bits with a shift in two halves", bits: 8, group: 16, out: 19, in: 48, shifted: true, halved: true},
		{name: "many panels", bits: 4, group: 32, out: 300, in: 288, rounding: true},
	} {
		for _, exact := range []bool{true, false} {
			if c.halved && !exact {
				continue // is made for exact products alone
			}
			t.Run(fmt.Sprintf("%s, exact=%v", c.name, exact), func(t *testing.T) {
				r := rand.New(rand.NewPCG(3, 4))
				m := c.matrix(r)
				g := graph.New("blocks")
				x := g.Input("x", graph.Float32, graph.Named("B"), graph.Named("T"), graph.Fixed(c.in))
				g.Output("y", addBlocks(g, "w", x, m, !exact))
				all := sessions(t, g)
				row := make([]float32, c.in)
				for _, n := range []int64{0, 1, 2, 3, 5, 8, 9, 16, 21, 67} {
					in := random(r, 1, n, int64(c.in))
					data := in.Data.([]float32)
					if n > 2 {
						clear(data[c.in : 2*c.in]) // a row of zeros has no scale
					}
					want, sizes := make([]float64, n*int64(c.out)), make([]float64, n*int64(c.out))
					for o := range c.out {
						m.Row(row, o)
						for i := range int(n) {
							for k, w := range row {
								p := float64(w) * float64(data[i*c.in+k])
								want[i*c.out+o] += p
								sizes[i*c.out+o] += math.Abs(p)
							}
						}
					}
					for _, name := range []string{"ours", "narrow"} {
						got, err := all[name].Run(map[string]ort.Tensor{"x": in})
						require.NoError(t, err)
						require.Equal(t, []int64{1, n, int64(c.out)}, got["y"].Shape)
						y := got["y"].Data.([]float32)
						for i := range want {
							bound := 1e-6 * (sizes[i] + 1e-3)
							if !exact { // each number is off by half a step of its group at most
								bound = 0.02 * (sizes[i] + 1e-3)
							}
							require.InDelta(t, want[i], y[i], bound, "%s, %d rows, place %d", name, n, i)
						}
					}
				}
			})
		}
	}
}

// TestBlockProductRounds: rounded products are those of the runtime, but for the order of sums.
func TestBlockProductRounds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, bits := range []int{4, 8} {
		g := graph.New("blocks")
		x := g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(128))
		g.Output("y", addBlocks(g, "w", x, blockCase{bits: bits, group: 32, out: 70, in: 128}.matrix(r), true))
		all := sessions(t, g)
		in := map[string]ort.Tensor{"x": random(r, 5, 128)}
		want, err := all["plain"].Run(in)
		require.NoError(t, err)
		for _, name := range []string{"ours", "narrow"} {
			got, err := all[name].Run(in)
			require.NoError(t, err)
			w, y := want["y"].Data.([]float32), got["y"].Data.([]float32)
			for i := range w {
				require.InDelta(t, w[i], y[i], 2e-3*float64(int(1)<<bits)/16, "%d bits, %s, %d", bits, name, i)
			}
		}
	}
}

// TestMatrices: sessions that share matrices hold equal ones once, in whichever form they came, and each may go first.
func TestMatrices(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	whole := blockCase{bits: 8, group: 32, out: 32, in: 64, rounding: true}.matrix(r)
	other := blockCase{bits: 8, group: 32, out: 32, in: 64, rounding: true}.matrix(r)
	shared := ort.NewMatrices()
	in := map[string]ort.Tensor{"x": random(r, 3, 64)}
	var sums []ort.Tensor
	var last *ort.Session
	for _, x := range []struct {
		name string
		m    quant.Matrix
		int8 bool
		held int64
	}{{"first", whole, true, 1}, {"again", whole, true, 1}, {"in two halves", whole.Halve(), false, 1}, {"another", other, false, 2}} {
		g := graph.New("blocks")
		g.Output("y", addBlocks(g, "w", g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(64)), x.m, x.int8))
		var buf bytes.Buffer
		_, err := g.WriteTo(&buf)
		require.NoError(t, err)
		s, err := ort.OpenBytes(buf.Bytes(), ort.Options{Threads: 1, Provider: ort.CPU, Matrices: shared})
		require.NoError(t, err)
		if last != nil {
			require.NoError(t, last.Close())
		}
		last = s
		if n := shared.Bytes(); n > 0 { // where there are products of ours
			assert.Equal(t, x.held*32*64*17/16, n, x.name)
		}
		out, err := s.Run(in)
		require.NoError(t, err)
		sums = append(sums, out["y"])
	}
	near(t, sums[0], sums[1], "the same")
	require.NoError(t, last.Close())
	require.NoError(t, shared.Close())
}
