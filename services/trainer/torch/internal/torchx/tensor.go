package torchx

// #cgo CXXFLAGS: -O2 -fopenmp -I${SRCDIR}/gloodecl
// #cgo nccl CXXFLAGS: -DCLARA_NCCL
// #cgo LDFLAGS: -ltorch_cpu -lc10 -lstdc++ -ldl -fopenmp
// #cgo nccl LDFLAGS: -ltorch_cuda
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// DType is an element type, with libtorch's numbers.
type DType int32

const (
	Uint8    DType = 0
	Int8     DType = 1
	Int64    DType = 4
	Float16  DType = 5
	Float32  DType = 6
	Float64  DType = 7
	Bool     DType = 11
	BFloat16 DType = 15
)

// Size is the number of bytes of one element.
func (d DType) Size() int {
	switch d {
	case Int64, Float64:
		return 8
	case Float32:
		return 4
	case Float16, BFloat16:
		return 2
	}
	return 1
}

// String returns the type's name as PyTorch writes it.
func (d DType) String() string {
	names := map[DType]string{Uint8: "uint8", Int8: "int8", Int64: "int64", Float16: "float16", Float32: "float32",
		Float64: "float64", Bool: "bool", BFloat16: "bfloat16"}
	if n, ok := names[d]; ok {
		return n
	}
	return fmt.Sprintf("dtype(%d)", int32(d))
}

// Device is the CPU or the number of a CUDA device.
type Device int32

// CPU is the host.
const CPU Device = -1

// String returns "cpu" or "cuda:n".
func (d Device) String() string {
	if d < 0 {
		return "cpu"
	}
	return fmt.Sprintf("cuda:%d", int32(d))
}

// Tensor is a handle of a libtorch tensor. It belongs to the scope that made it and is invalid after that scope ended.
type Tensor struct {
	h      unsafe.Pointer
	pinned []byte // host memory that the tensor looks at
}

func (t *Tensor) c() lib.Ctensor {
	if t == nil {
		return nil
	}
	return lib.Ctensor(t.h)
}

func (t *Tensor) p() unsafe.Pointer {
	if t == nil {
		return nil
	}
	return t.h
}

// fault is what unwinds to Do.
type fault struct{ err error }

// check turns an error text of the shim into an unwinding fault.
func check(e *C.char) {
	if err := text(e); err != nil {
		panic(fault{err})
	}
}

// Check ends the enclosing Do with err, where there is one, as libtorch's own faults do.
func Check(err error) {
	if err != nil {
		panic(fault{err})
	}
}

func text(e *C.char) error {
	if e == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(e))
	return errors.New(C.GoString(e))
}

// Info is shape, type and place of a tensor.
type Info struct {
	Shape        []int64
	DType        DType
	Device       Device
	RequiresGrad bool
}

// Info looks at the tensor.
func (t *Tensor) Info() Info {
	var dims [8]C.int64_t
	var nd, dt, dev, rg C.int
	check(C.cx_info(t.p(), &dims[0], &nd, &dt, &dev, &rg))
	in := Info{Shape: make([]int64, int(nd)), DType: DType(dt), Device: Device(dev), RequiresGrad: rg != 0}
	for i := range in.Shape {
		in.Shape[i] = int64(dims[i])
	}
	return in
}

// Shape returns the dimensions.
func (t *Tensor) Shape() []int64 { return t.Info().Shape }

// Dim returns the size of one dimension; negative counts from the end.
func (t *Tensor) Dim(i int) int64 {
	s := t.Shape()
	if i < 0 {
		i += len(s)
	}
	return s[i]
}

// Len is the number of elements.
func (t *Tensor) Len() int64 { return elements(t.Shape()) }

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// Bytes copies the elements to the host, row by row.
func (t *Tensor) Bytes() []byte {
	in := t.Info()
	buf := make([]byte, elements(in.Shape)*int64(in.DType.Size()))
	if len(buf) > 0 {
		check(C.cx_to_host(t.p(), unsafe.Pointer(&buf[0]), C.size_t(len(buf))))
	}
	return buf
}

// Float32s copies the elements to the host as float32, whatever their type.
func (t *Tensor) Float32s() []float32 {
	in := t.Info()
	if in.DType != Float32 {
		s := newScope()
		defer s.close()
		t = s.To(t, Float32)
	}
	out := make([]float32, elements(in.Shape))
	if len(out) > 0 {
		check(C.cx_to_host(t.p(), unsafe.Pointer(&out[0]), C.size_t(4*len(out))))
	}
	return out
}

// Int64s copies the elements of an int64 tensor to the host.
func (t *Tensor) Int64s() []int64 {
	out := make([]int64, t.Len())
	if len(out) > 0 {
		check(C.cx_to_host(t.p(), unsafe.Pointer(&out[0]), C.size_t(8*len(out))))
	}
	return out
}

// Float returns the only element.
func (t *Tensor) Float() float64 { return float64(t.Float32s()[0]) }

// Copy overwrites the elements with those of src, outside autograd.
func (t *Tensor) Copy(src *Tensor) { check(C.cx_copy_(t.p(), src.p())) }

// AddScaled adds alpha * src in place, outside autograd.
func (t *Tensor) AddScaled(src *Tensor, alpha float64) {
	check(C.cx_add_(t.p(), src.p(), C.double(alpha)))
}

// Scale multiplies in place, outside autograd.
func (t *Tensor) Scale(f float64) { check(C.cx_mul_(t.p(), C.double(f))) }

// CopyRows overwrites rows (int64 [n]) with src [n, ...], outside autograd.
func (t *Tensor) CopyRows(rows, src *Tensor) { check(C.cx_index_copy_(t.p(), rows.p(), src.p())) }
