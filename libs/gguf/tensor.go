package gguf

import (
	"encoding/binary"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Tensor is a tensor as it lies in the file.
type Tensor struct {
	Name   string
	Type   Type
	Shape  tensor.Shape // row-major, outermost first
	Data   []byte       // blocks, row by row
	Offset int64        // of Data in the file; -1 for a tensor that was rearranged
}

// rowBytes returns the bytes of one row (innermost axis).
func (t Tensor) rowBytes() int {
	l, _ := t.Type.layout()
	if len(t.Shape) == 0 {
		return l.bytes
	}
	return t.Shape[len(t.Shape)-1] / l.elements * l.bytes
}

// rows returns the number of rows, all outer axes together.
func (t Tensor) rows() int {
	if b := t.rowBytes(); b > 0 {
		return len(t.Data) / b
	}
	return 0
}

// Rows returns rows [from, to) of a matrix, without copying; bounds as for a slice.
func (t Tensor) Rows(from, to int) Tensor {
	b := t.rowBytes()
	shape := slices.Clone(t.Shape)
	shape[0] = to - from
	offset := t.Offset
	if offset >= 0 {
		offset += int64(from * b)
	}
	return Tensor{Name: t.Name, Type: t.Type, Shape: shape, Data: t.Data[from*b : to*b], Offset: offset}
}

// PermuteRows returns a copy of a matrix whose row i is row order[i] of t.
// Blocks lie within rows, so quantised tensors stay exact.
func (t Tensor) PermuteRows(order []int) Tensor {
	b := t.rowBytes()
	if len(t.Shape) == 1 { // a vector: its elements are the rows
		l, _ := t.Type.layout()
		b = l.bytes
	}
	out := make([]byte, 0, len(t.Data))
	for _, i := range order {
		out = append(out, t.Data[i*b:(i+1)*b]...)
	}
	return Tensor{Name: t.Name, Type: t.Type, Shape: t.Shape, Data: out, Offset: -1}
}

// View returns the tensor as it lies if its format has no blocks.
func (t Tensor) View() (tensor.View, bool) {
	l, ok := t.Type.layout()
	if !ok || l.plain == tensor.Invalid {
		return tensor.View{}, false
	}
	return tensor.View{Name: t.Name, DType: l.plain, Shape: t.Shape, Data: t.Data}, true
}

// Float32 returns the elements as float32, on all cores for large tensors. An
// aligned F32 tensor is not copied, so the result is read-only.
func (t Tensor) Float32() ([]float32, error) {
	if v, ok := t.View(); ok {
		return v.Float32()
	}
	n, ok := t.Shape.Elements()
	l, known := t.Type.layout()
	if !ok || !known || n%l.elements != 0 || n/l.elements*l.bytes != len(t.Data) {
		return nil, clara.Errorf(clara.Corrupt, "tensor %s: %s of shape %s does not fit its %d bytes", t.Name, t.Type, t.Shape, len(t.Data))
	}
	out := make([]float32, n)
	blocks := n / l.elements
	const perWorker = 1 << 12 // blocks; fewer are not worth a goroutine
	step := max((blocks+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0), perWorker)
	var wg sync.WaitGroup
	for from := 0; from < blocks; from += step {
		to := min(from+step, blocks)
		wg.Go(func() { dequantise(t.Type, out[from*l.elements:to*l.elements], t.Data[from*l.bytes:to*l.bytes]) })
	}
	wg.Wait()
	return out, nil
}

// dequantise fills y from whole blocks.
func dequantise(t Type, y []float32, b []byte) {
	elements, size := t.Block()
	f := map[Type]func([]float32, []byte){
		Q4_0: q4_0, Q4_1: q4_1, Q5_0: q5_0, Q5_1: q5_1, Q8_0: q8_0, Q4_K: q4_k, Q5_K: q5_k, Q6_K: q6_k,
	}[t]
	for len(y) > 0 {
		f(y[:elements], b[:size])
		y, b = y[elements:], b[size:]
	}
}

func half(b []byte) float32 { return tensor.HalfToFloat32(binary.LittleEndian.Uint16(b)) }

// q4_0: d, 16 bytes of two 4-bit values; w = d * (q - 8).
func q4_0(y []float32, b []byte) {
	d, qs := half(b), b[2:18]
	for j, q := range qs {
		y[j] = float32(int(q&15)-8) * d
		y[j+16] = float32(int(q>>4)-8) * d
	}
}

// q4_1: d, min, 16 bytes of two 4-bit values; w = d * q + min.
func q4_1(y []float32, b []byte) {
	d, m, qs := half(b), half(b[2:]), b[4:20]
	for j, q := range qs {
		y[j] = float32(float32(q&15)*d) + m // the conversion keeps the compiler from fusing
		y[j+16] = float32(float32(q>>4)*d) + m
	}
}

// q5_0: d, 32 fifth bits, 16 bytes of two low halves; w = d * (q - 16).
func q5_0(y []float32, b []byte) {
	d, high, qs := half(b), binary.LittleEndian.Uint32(b[2:]), b[6:22]
	for j, q := range qs {
		y[j] = float32(int(q&15|byte(high>>j<<4)&16)-16) * d
		y[j+16] = float32(int(q>>4|byte(high>>(j+12))&16)-16) * d
	}
}

// q5_1: d, min, 32 fifth bits, 16 bytes of two low halves; w = d * q + min.
func q5_1(y []float32, b []byte) {
	d, m, high, qs := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:]), b[8:24]
	for j, q := range qs {
		y[j] = float32(float32(q&15|byte(high>>j<<4)&16)*d) + m
		y[j+16] = float32(float32(q>>4|byte(high>>(j+12))&16)*d) + m
	}
}

// q8_0: d, 32 signed bytes; w = d * q.
func q8_0(y []float32, b []byte) {
	d, qs := half(b), b[2:34]
	for j, q := range qs {
		y[j] = float32(int8(q)) * d
	}
}

// scaleMin returns the 6-bit scale and minimum of sub-block j of Q4_K and Q5_K.
func scaleMin(j int, s []byte) (scale, minimum float32) {
	if j < 4 {
		return float32(s[j] & 63), float32(s[j+4] & 63)
	}
	return float32(s[j+4]&15 | s[j-4]>>6<<4), float32(s[j+4]>>4 | s[j]>>6<<4)
}

// q4_k: d, dmin, 12 bytes of 6-bit scales and minima for 8 sub-blocks of 32,
// 128 bytes of 4-bit values; w = d*scale * q - dmin*min.
func q4_k(y []float32, b []byte) {
	d, dmin, scales, qs := half(b), half(b[2:]), b[4:16], b[16:144]
	for j := range 4 {
		s1, m1 := scaleMin(2*j, scales)
		s2, m2 := scaleMin(2*j+1, scales)
		d1, d2 := d*s1, d*s2
		m1, m2 = dmin*m1, dmin*m2
		out := y[64*j : 64*j+64]
		for l, q := range qs[32*j : 32*j+32] {
			out[l] = float32(d1*float32(q&15)) - m1
			out[l+32] = float32(d2*float32(q>>4)) - m2
		}
	}
}

// q5_k: as q4_k with 32 bytes of fifth bits before the values.
func q5_k(y []float32, b []byte) {
	d, dmin, scales, high, qs := half(b), half(b[2:]), b[4:16], b[16:48], b[48:176]
	for j := range 4 {
		s1, m1 := scaleMin(2*j, scales)
		s2, m2 := scaleMin(2*j+1, scales)
		d1, d2 := d*s1, d*s2
		m1, m2 = dmin*m1, dmin*m2
		out := y[64*j : 64*j+64]
		for l, q := range qs[32*j : 32*j+32] {
			h := high[l] >> (2 * j)
			out[l] = float32(d1*float32(q&15|h&1<<4)) - m1
			out[l+32] = float32(d2*float32(q>>4|h&2<<3)) - m2
		}
	}
}

// q6_k: 128 bytes of low halves, 64 bytes of high pairs, 16 signed scales, d;
// w = d * scale * (q - 32).
func q6_k(y []float32, b []byte) {
	d := half(b[208:])
	for n := range 2 {
		low, high, scales, out := b[64*n:64*n+64], b[128+32*n:160+32*n], b[192+8*n:200+8*n], y[128*n:128*n+128]
		scale := func(i int) float32 { return d * float32(int8(scales[i])) }
		for l, h := range high {
			i := l / 16
			out[l] = scale(i) * float32(int(low[l]&15|h&3<<4)-32)
			out[l+32] = scale(i+2) * float32(int(low[l+32]&15|h>>2&3<<4)-32)
			out[l+64] = scale(i+4) * float32(int(low[l]>>4|h>>4&3<<4)-32)
			out[l+96] = scale(i+6) * float32(int(low[l+32]>>4|h>>6<<4)-32)
		}
	}
}

// size returns the bytes of a tensor of the format and shape, and false if the
// shape overflows or cuts a block.
func (t Type) size(shape tensor.Shape) (int, bool) {
	l, known := t.layout()
	n, ok := shape.Elements()
	if !known || !ok {
		return 0, false
	}
	if l.elements > 1 && (len(shape) == 0 || shape[len(shape)-1]%l.elements != 0) {
		return 0, false
	}
	if n/l.elements > math.MaxInt/l.bytes {
		return 0, false
	}
	return n / l.elements * l.bytes, true
}
