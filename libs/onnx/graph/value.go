package graph

import (
	"fmt"
	"strconv"
	"strings"
)

// DType is an ONNX element type (TensorProto.DataType).
type DType int32

// The element types that the operators here take.
const (
	Float32  DType = 1
	Uint8    DType = 2
	Int8     DType = 3
	Int32    DType = 6
	Int64    DType = 7
	Bool     DType = 9
	Float16  DType = 10
	BFloat16 DType = 16
)

// Size returns the bytes of one element, 0 for an unknown type.
func (d DType) Size() int64 {
	switch d {
	case Uint8, Int8, Bool:
		return 1
	case Float16, BFloat16:
		return 2
	case Float32, Int32:
		return 4
	case Int64:
		return 8
	}
	return 0
}

// String returns the type's short name.
func (d DType) String() string {
	switch d {
	case Float32:
		return "f32"
	case Uint8:
		return "u8"
	case Int8:
		return "i8"
	case Int32:
		return "i32"
	case Int64:
		return "i64"
	case Bool:
		return "bool"
	case Float16:
		return "f16"
	case BFloat16:
		return "bf16"
	}
	return "dtype(" + strconv.Itoa(int(d)) + ")"
}

// Dim is one dimension: a size, or the name of a size that is known when the graph runs.
// Two named dimensions are equal if their names are.
type Dim struct {
	Name string
	Size int64
}

// Fixed is a dimension known now.
func Fixed[T ~int | ~int64](n T) Dim { return Dim{Size: int64(n)} }

// Named is a dimension known when the graph runs.
func Named(name string) Dim { return Dim{Name: name} }

// String returns the name or the size.
func (d Dim) String() string {
	if d.Name != "" {
		return d.Name
	}
	return strconv.FormatInt(d.Size, 10)
}

// Value is a tensor of the graph. The zero Value stands for an optional input that is left out.
type Value struct {
	name  string
	dtype DType
	shape []Dim
}

// Name is the tensor's name in the graph; empty for a left-out input.
func (v Value) Name() string { return v.name }

// DType is the element type.
func (v Value) DType() DType { return v.dtype }

// Shape is the shape; do not change it.
func (v Value) Shape() []Dim { return v.shape }

// String returns name, dtype and shape, as "x f32[B, T, 64]".
func (v Value) String() string {
	if v.name == "" {
		return "nothing"
	}
	return fmt.Sprintf("%s %s%s", v.name, v.dtype, shapeString(v.shape))
}

func shapeString(s []Dim) string {
	parts := make([]string, len(s))
	for i, d := range s {
		parts[i] = d.String()
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func sameShape(a, b []Dim) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
