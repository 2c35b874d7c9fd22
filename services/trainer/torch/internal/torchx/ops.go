package torchx

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

func dims(shape []int64) (*C.int64_t, C.int) {
	if len(shape) == 0 {
		return nil, 0
	}
	return (*C.int64_t)(unsafe.Pointer(&shape[0])), C.int(len(shape))
}

func (s *Scope) fromHost(data unsafe.Pointer, n int64, shape []int64, d DType, dev Device) *Tensor {
	if elements(shape) != n {
		panic(fault{fmt.Errorf("tensor of shape %v from %d elements", shape, n)})
	}
	var h unsafe.Pointer
	p, nd := dims(shape)
	check(C.cx_from_host(data, p, nd, C.int(d), C.int(dev), &h))
	return s.own(h)
}

// FromBytes copies raw little-endian elements into a new tensor.
func (s *Scope) FromBytes(data []byte, d DType, dev Device, shape ...int64) *Tensor {
	return s.fromHost(unsafe.Pointer(unsafe.SliceData(data)), int64(len(data)/d.Size()), shape, d, dev)
}

// Floats copies v into a new float32 tensor.
func (s *Scope) Floats(v []float32, dev Device, shape ...int64) *Tensor {
	return s.fromHost(unsafe.Pointer(unsafe.SliceData(v)), int64(len(v)), shape, Float32, dev)
}

// Ints copies v into a new int64 tensor [n].
func (s *Scope) Ints(v []int64, dev Device) *Tensor {
	return s.fromHost(unsafe.Pointer(unsafe.SliceData(v)), int64(len(v)), []int64{int64(len(v))}, Int64, dev)
}

// View makes a tensor that looks at data (a mapped file), without a copy. The caller keeps data mapped and unchanged.
func (s *Scope) View(data []byte, d DType, shape ...int64) *Tensor {
	if elements(shape)*int64(d.Size()) != int64(len(data)) {
		panic(fault{fmt.Errorf("view of shape %v, %s on %d bytes", shape, d, len(data))})
	}
	var h unsafe.Pointer
	p, nd := dims(shape)
	check(C.cx_view_host(unsafe.Pointer(unsafe.SliceData(data)), p, nd, C.int(d), &h))
	t := s.own(h)
	t.pinned = data
	return t
}

// Zeros makes a tensor of zeros.
func (s *Scope) Zeros(d DType, dev Device, shape ...int64) *Tensor {
	var h lib.Ctensor
	lib.AtgZeros(&h, append(shape, 0), len(shape), int32(d), cuda(dev))
	return s.gotch("zeros", h)
}

// Empty makes a tensor whose elements are whatever was there.
func (s *Scope) Empty(d DType, dev Device, shape ...int64) *Tensor {
	var h unsafe.Pointer
	p, nd := dims(shape)
	check(C.cx_empty(p, nd, C.int(d), C.int(dev), &h))
	return s.own(h)
}

// Bytes returns the elements of a as they lie in memory, uint8 [n]; memory is shared where a is contiguous.
func (s *Scope) Bytes(a *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_bytes(a.p(), &h))
	b := s.own(h)
	b.pinned = a.pinned
	return b
}

// FromRow returns the tensor that lies at byte at of row (uint8 [n]); memory is shared.
func (s *Scope) FromRow(row *Tensor, at int64, d DType, shape ...int64) *Tensor {
	var h unsafe.Pointer
	p, nd := dims(shape)
	check(C.cx_from_row(row.p(), C.int64_t(at), p, nd, C.int(d), &h))
	return s.own(h)
}

// cuda is gotch's number of a device: -1 is the CPU.
func cuda(d Device) int32 { return int32(d) }

// Add returns a + b.
func (s *Scope) Add(a, b *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgAdd(&h, a.c(), b.c())
	return s.gotch("add", h)
}

// Minus returns a - b.
func (s *Scope) Minus(a, b *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgSub(&h, a.c(), b.c())
	return s.gotch("sub", h)
}

// Mul returns a * b, element by element.
func (s *Scope) Mul(a, b *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgMul(&h, a.c(), b.c())
	return s.gotch("mul", h)
}

// Div returns a / b, element by element.
func (s *Scope) Div(a, b *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgDiv(&h, a.c(), b.c())
	return s.gotch("div", h)
}

// Times returns a * f.
func (s *Scope) Times(a *Tensor, f float64) *Tensor {
	var h lib.Ctensor
	x := lib.AtsFloat(f)
	lib.AtgMulScalar(&h, a.c(), x)
	lib.AtsFree(x)
	return s.gotch("mul", h)
}

// Plus returns a + f.
func (s *Scope) Plus(a *Tensor, f float64) *Tensor {
	var h lib.Ctensor
	x := lib.AtsFloat(f)
	lib.AtgAddScalar(&h, a.c(), x)
	lib.AtsFree(x)
	return s.gotch("add", h)
}

// Log returns the natural logarithm.
func (s *Scope) Log(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgLog(&h, a.c())
	return s.gotch("log", h)
}

// MatMul returns the matrix product, batched over leading dimensions.
func (s *Scope) MatMul(a, b *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgMatmul(&h, a.c(), b.c())
	return s.gotch("matmul", h)
}

// Reshape returns the elements in another shape; one dimension may be -1.
func (s *Scope) Reshape(a *Tensor, shape ...int64) *Tensor {
	var h lib.Ctensor
	lib.AtgReshape(&h, a.c(), append(shape, 0), len(shape))
	return s.gotch("reshape", h)
}

// Transpose swaps two dimensions.
func (s *Scope) Transpose(a *Tensor, i, j int64) *Tensor {
	var h lib.Ctensor
	lib.AtgTranspose(&h, a.c(), i, j)
	return s.gotch("transpose", h)
}

// Narrow returns length elements from start of dimension dim.
func (s *Scope) Narrow(a *Tensor, dim, start, length int64) *Tensor {
	var h lib.Ctensor
	lib.AtgNarrow(&h, a.c(), dim, start, length)
	return s.gotch("narrow", h)
}

// Rows returns the rows of a that idx (int64 [n]) names: [n, ...].
func (s *Scope) Rows(a, idx *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgIndexSelect(&h, a.c(), 0, idx.c())
	return s.gotch("index_select", h)
}

// WithRows returns a with rows idx (int64 [n]) replaced by src [n, ...].
func (s *Scope) WithRows(a, idx, src *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgIndexCopy(&h, a.c(), 0, idx.c(), src.c())
	return s.gotch("index_copy", h)
}

// Cat joins along dim.
func (s *Scope) Cat(dim int64, ts ...*Tensor) *Tensor {
	var h lib.Ctensor
	list := make([]lib.Ctensor, len(ts))
	for i, t := range ts {
		list[i] = t.c()
	}
	lib.AtgCat(&h, list, len(list), dim)
	return s.gotch("cat", h)
}

// Softmax over the last dimension.
func (s *Scope) Softmax(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgSoftmax(&h, a.c(), -1, int32(a.Info().DType))
	return s.gotch("softmax", h)
}

// LogSumExp over the last dimension.
func (s *Scope) LogSumExp(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgLogsumexp(&h, a.c(), []int64{-1}, 1, 0)
	return s.gotch("logsumexp", h)
}

// Sum of all elements.
func (s *Scope) Sum(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgSum(&h, a.c(), int32(a.Info().DType))
	return s.gotch("sum", h)
}

// SumLast sums over the last dimension.
func (s *Scope) SumLast(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgSumDimIntlist(&h, a.c(), []int64{-1}, 1, 0, int32(a.Info().DType))
	return s.gotch("sum", h)
}

// Mean of all elements.
func (s *Scope) Mean(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgMean(&h, a.c(), int32(a.Info().DType))
	return s.gotch("mean", h)
}

// Normalize divides each row of a [.., D] by its L2 norm.
func (s *Scope) Normalize(a *Tensor) *Tensor {
	return s.Sub(func(s *Scope) *Tensor {
		var h lib.Ctensor
		two := lib.AtsFloat(2)
		lib.AtgNormScalaroptDim(&h, a.c(), two, []int64{-1}, 1, 1)
		lib.AtsFree(two)
		norm := s.gotch("norm", h)
		var c lib.Ctensor
		tiny := lib.AtsFloat(1e-12)
		lib.AtgClampMin(&c, norm.c(), tiny)
		lib.AtsFree(tiny)
		return s.Div(a, s.gotch("clamp_min", c))
	})
}

// Argmax over the last dimension, int64.
func (s *Scope) Argmax(a *Tensor) *Tensor {
	var h lib.Ctensor
	lib.AtgArgmax(&h, a.c(), -1, 0, 0)
	return s.gotch("argmax", h)
}

// To converts the element type; a tensor of that type is returned as it is.
func (s *Scope) To(a *Tensor, d DType) *Tensor {
	if a.Info().DType == d {
		return a
	}
	var h lib.Ctensor
	lib.AtgTotype(&h, a.c(), int32(d))
	return s.gotch("to", h)
}

// Move copies to a device; a tensor that is there is returned as it is.
func (s *Scope) Move(a *Tensor, dev Device) *Tensor {
	if a.Info().Device == dev {
		return a
	}
	var h lib.Ctensor
	lib.AtgTo(&h, a.c(), cuda(dev))
	return s.gotch("to", h)
}

// Clone copies the elements to new memory.
func (s *Scope) Clone(a *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_clone(a.p(), &h))
	return s.own(h)
}

// Uniform makes a float32 tensor of numbers drawn from [-bound, bound).
func (s *Scope) Uniform(bound float64, dev Device, shape ...int64) *Tensor {
	t := s.Zeros(Float32, dev, shape...)
	var h lib.Ctensor
	lib.AtgUniform_(&h, t.c(), -bound, bound)
	s.gotch("uniform", h)
	return t
}

// Normal makes a float32 tensor of standard normal numbers.
func (s *Scope) Normal(dev Device, shape ...int64) *Tensor {
	t := s.Zeros(Float32, dev, shape...)
	var h lib.Ctensor
	lib.AtgNormal_(&h, t.c(), 0, 1)
	s.gotch("normal", h)
	return t
}

// Weight is a frozen matrix [out, in]: in floating point, or in 8 or 4 bit integers with one scale for every 32 columns.
type Weight struct {
	W, Scale *Tensor
	Bits     int // 0, 8 or 4
	Bias     *Tensor
}

// Quantize returns w [out, in] in 8 or 4 bit integers; in must be a multiple of 32.
func (s *Scope) Quantize(w *Tensor, bits int) Weight {
	var q, scale unsafe.Pointer
	check(C.cx_quantize(w.p(), C.int(bits), &q, &scale))
	return Weight{W: s.own(q), Scale: s.own(scale), Bits: bits}
}

// LoRA is one adapter of a linear layer: A [r, in], B [out, r], float32 whatever the type of the layer. Nil is none.
type LoRA struct {
	A, B    *Tensor
	Scale   float64 // alpha / r
	Dropout float64 // 0 outside training
	Seed    uint64  // fixes what is dropped
}

// Linear returns x W' + bias + scale (drop(x) A') B'. x [T, in] -> [T, out]. Of x, only what the gradient of A needs is kept.
func (s *Scope) Linear(x *Tensor, w Weight, l *LoRA) *Tensor {
	var h unsafe.Pointer
	var a, b unsafe.Pointer
	var scale, p C.double
	var seed C.uint64_t
	if l != nil {
		a, b, scale, p, seed = l.A.p(), l.B.p(), C.double(l.Scale), C.double(l.Dropout), C.uint64_t(l.Seed)
	}
	check(C.cx_linear(x.p(), w.W.p(), w.Scale.p(), C.int(w.Bits), w.Bias.p(), a, b, scale, p, seed, &h))
	return s.own(h)
}

// RMSNorm of rows x [T, H] with frozen weight w [H]; computed in float32.
func (s *Scope) RMSNorm(x, w *Tensor, eps float64) *Tensor {
	var h unsafe.Pointer
	check(C.cx_rms_norm(x.p(), w.p(), C.double(eps), &h))
	return s.own(h)
}

// Rope rotates the first R columns of x [T, heads, D] by halves; cos and sin are [T, 1, R/2] in the type of x.
func (s *Scope) Rope(x, cos, sin *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_rope(x.p(), cos.p(), sin.p(), &h))
	return s.own(h)
}

// SwiGLU returns silu(gate) * up.
func (s *Scope) SwiGLU(gate, up *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_swiglu(gate.p(), up.p(), &h))
	return s.own(h)
}

// Attention is causal attention inside each of the sequences that lie one after another in q [T, heads, D], k and v
// [T, kv heads, D]; lens are their lengths. scale is the factor on q.k. A window > 0 limits how far back a position looks.
// -> [T, heads * D].
func (s *Scope) Attention(q, k, v *Tensor, lens []int64, scale float64, window int64) *Tensor {
	var h unsafe.Pointer
	p, n := dims(lens)
	check(C.cx_attention(q.p(), k.p(), v.p(), p, n, C.double(scale), C.int64_t(window), &h))
	return s.own(h)
}

// AttendCache lets one new query q [1, heads, D] look at k and v [T, kv heads, D]. -> [1, heads * D].
func (s *Scope) AttendCache(q, k, v *Tensor, scale float64) *Tensor {
	var h unsafe.Pointer
	check(C.cx_attend_cache(q.p(), k.p(), v.p(), C.double(scale), &h))
	return s.own(h)
}

// LinearCE returns the sum of cross-entropies of h W' [n, V] against labels (int64 [n]), and each of them without gradient.
// W is frozen; rows, where not nil, are the trainable rows rowIDs of a tied W and get their gradient through the head.
func (s *Scope) LinearCE(h, w, labels, rows, rowIDs *Tensor) (sum, each *Tensor) {
	const logitBytes = 32 << 20 // of logits that exist at a time
	chunk := max(8, logitBytes/4/w.Dim(0))
	var a, b unsafe.Pointer
	check(C.cx_linear_ce(h.p(), w.p(), labels.p(), rows.p(), rowIDs.p(), C.int64_t(chunk), &a, &b))
	return s.own(a), s.own(b)
}
