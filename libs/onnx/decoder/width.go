package decoder

import (
	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// The runtime's attention takes heads, and rotated parts of them, of multiples of 16. Others are padded with zeros,
// which add nothing to any product: the rotated part so that its halves stay halves, then the rest.

func up16(n int) int { return (n + 15) / 16 * 16 }

// RotaryWidth is twice the columns of the rotary tables: the rotated part of a head, padded.
func RotaryWidth(r arch.Rope) int { return up16(r.Dim) }

// HeadWidth is the width of a head in the cache: HeadDim, padded.
func HeadWidth(m arch.Model) int { return up16(RotaryWidth(m.Rope) + m.HeadDim - m.Rope.Dim) }

func padded(m arch.Model) bool { return HeadWidth(m) != m.HeadDim }

// padding is the matrix [HeadDim, HeadWidth] that moves the numbers of a head to their places, or its transpose.
func (d *decoder) padding(back bool) graph.Value {
	m, width := d.m, HeadWidth(d.m)
	rotated, half := RotaryWidth(m.Rope), m.Rope.Dim/2
	place := func(i int) int {
		switch {
		case i < half:
			return i
		case i < m.Rope.Dim:
			return rotated/2 + i - half
		}
		return rotated + i - m.Rope.Dim
	}
	values, shape := make([]float32, m.HeadDim*width), []int64{int64(m.HeadDim), int64(width)}
	name, at := "pad", func(i int) int { return i*width + place(i) }
	if back {
		name, shape, at = "unpad", []int64{shape[1], shape[0]}, func(i int) int { return place(i)*m.HeadDim + i }
	}
	for i := range m.HeadDim {
		values[at(i)] = 1
	}
	return d.constant(name, shape, values)
}

// constant is a small weight in the graph itself, once.
func (d *decoder) constant(name string, shape []int64, values []float32) graph.Value {
	v, ok := d.constants[name]
	if !ok {
		v = d.Cast(d.Floats(name, shape, values), d.Type)
		d.constants[name] = v
	}
	return v
}

// pad: x [B, T, heads*HeadDim] -> [B, T, heads*HeadWidth].
func (d *decoder) pad(x graph.Value, heads int) graph.Value {
	return d.eachHead(x, heads, d.padding(false))
}

// unpad: x [B, T, heads*HeadWidth] -> [B, T, heads*HeadDim].
func (d *decoder) unpad(x graph.Value, heads int) graph.Value {
	return d.eachHead(x, heads, d.padding(true))
}

// eachHead multiplies each head of x with w [from, to]: [B, T, heads*from] -> [B, T, heads*to].
func (d *decoder) eachHead(x graph.Value, heads int, w graph.Value) graph.Value {
	shape := x.Shape()
	if len(shape) != 3 || len(w.Shape()) != 2 {
		return graph.Value{} // a fault is kept already
	}
	from, to := w.Shape()[0], w.Shape()[1]
	y := d.Reshape(x, []int64{0, -1, from.Size}, shape[0], graph.Named("T*heads"), from)
	y = d.MatMul(y, w)
	wide := int64(heads) * to.Size
	return d.Reshape(y, []int64{0, -1, wide}, shape[0], shape[1], graph.Fixed(wide))
}
