package ort

import (
	"unsafe"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Element is a type of tensor element.
type Element interface {
	float32 | int64 | int32 | uint8
}

// Tensor is a dense array, row by row. Data is a []float32, []int64, []int32, []uint8 or Half.
type Tensor struct {
	Shape []int64
	Data  any
}

// Half is data in half precision: the bits of numbers of Float16 or BFloat16. Tensors of it can be bound, not read.
type Half struct {
	Type DType
	Bits []uint16
}

// BitsOf is the memory of words as numbers of two bytes.
func BitsOf(words []float32) []uint16 {
	if len(words) == 0 {
		return nil
	}
	return unsafe.Slice((*uint16)(unsafe.Pointer(&words[0])), 2*len(words))
}

// HalfOf rounds numbers to the nearest of a half's.
func HalfOf(d DType, x []float32) Half {
	h := Half{Type: d, Bits: make([]uint16, len(x))}
	round := tensor.Float32ToHalf
	if d == BFloat16 {
		round = tensor.Float32ToBF16
	}
	for i, v := range x {
		h.Bits[i] = round(v)
	}
	return h
}

// Of makes a tensor over data, without copying.
func Of[T Element](data []T, shape ...int64) Tensor { return Tensor{Shape: shape, Data: data} }

// Data returns the tensor's elements, an Invalid error if they are of another type.
func Data[T Element](t Tensor) ([]T, error) {
	if d, ok := t.Data.([]T); ok {
		return d, nil
	}
	var want []T
	return nil, clara.Errorf(clara.Invalid, "read tensor: holds %T, asked for %T", t.Data, want)
}

// check verifies that the data fills the shape.
func (t Tensor) check() error {
	n := int64(1)
	for _, d := range t.Shape {
		if d < 0 {
			return clara.Errorf(clara.Invalid, "tensor of shape %v: negative dimension", t.Shape)
		}
		n *= d
	}
	var have int
	switch d := t.Data.(type) {
	case []float32:
		have = len(d)
	case []int64:
		have = len(d)
	case []int32:
		have = len(d)
	case []uint8:
		have = len(d)
	case Half:
		have = len(d.Bits)
	default:
		return clara.Errorf(clara.Unsupported, "tensor of %T", t.Data)
	}
	if len(t.Shape) == 0 || int64(have) != n {
		return clara.Errorf(clara.Invalid, "tensor of shape %v holds %d elements", t.Shape, have)
	}
	return nil
}

// DType is a type of the elements of Memory.
type DType uint8

// The types.
const (
	Float32 DType = iota
	Float16
	BFloat16
)

// size is the bytes of an element.
func (d DType) size() int64 { return [...]int64{4, 2, 2}[d] }

// Provider is what computes.
type Provider string

// The providers.
const (
	Auto Provider = "auto" // CUDA where the library has it and a device answers, else CPU; "" is the same
	CPU  Provider = "cpu"  // always there
	CUDA Provider = "cuda" // an error if it cannot be had
)

// Options of a session; the zero value is good.
type Options struct {
	// Library is the runtime's shared library; empty: see Library.
	// The first session of the process decides, later ones must agree or leave it empty.
	Library string
	// Threads of one run; 0: one for each core.
	Threads  int
	Provider Provider
	Device   int // of CUDA
	// SharePages leaves weights in the mapped file instead of a packed copy of
	// this session's own: sessions and processes over one file then share them,
	// at 7 to 50 percent of the speed.
	SharePages bool
	// Plain takes the runtime's operators alone, where others of ours would take their place on this processor.
	Plain bool
	// Matrices are shared with other sessions that are given them; nil: the session's own.
	Matrices *Matrices

	narrow bool // the narrower vectors; tests set it
}

// IO describes an input or output of a model. A dimension that only a run knows is -1.
type IO struct {
	Name  string
	Shape []int64
	Type  string // f32, i64, i32, u8, ...
}
