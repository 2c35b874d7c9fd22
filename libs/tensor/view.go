package tensor

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/clara-suite/clara/libs/clara"
)

// Shape is the length of each axis, outermost first. A scalar has none.
type Shape []int

// Elements returns the product of the axes, 1 for a scalar, and false if an
// axis is negative or the product does not fit an int.
func (s Shape) Elements() (int, bool) {
	n := 1
	for _, d := range s {
		if d < 0 {
			return 0, false
		}
		if d != 0 && n > math.MaxInt/d {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// Equal reports whether both shapes have the same axes.
func (s Shape) Equal(o Shape) bool { return slices.Equal(s, o) }

// String returns the shape as "[2, 3]".
func (s Shape) String() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, d := range s {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(d))
	}
	b.WriteByte(']')
	return b.String()
}

// View is a named tensor over bytes that something else may own.
type View struct {
	Name  string
	DType DType
	Shape Shape
	// Data has Elements()*DType.Size() bytes, row-major, little endian.
	Data []byte
}

// FromFloat32 returns an F32 view over values, without copying them.
func FromFloat32(name string, shape Shape, values []float32) View {
	return View{Name: name, DType: F32, Shape: shape, Data: bytesOf(values)}
}

// Elements returns the number of elements of a checked view.
func (v View) Elements() int {
	n, _ := v.Shape.Elements()
	return n
}

// Check returns a Corrupt error unless Data has the length that shape and type ask for.
func (v View) Check() error {
	n, ok := v.Shape.Elements()
	size := v.DType.Size()
	if !ok || size == 0 || n > math.MaxInt/size || n*size != len(v.Data) {
		return clara.Errorf(clara.Corrupt, "tensor %s: %s of shape %s does not fit its %d bytes", v.Name, v.DType, v.Shape, len(v.Data))
	}
	return nil
}

// Rows returns rows [from, to) of the outermost axis, without copying.
// The bounds must lie in the view, as for a slice.
func (v View) Rows(from, to int) View {
	stride := 0
	if v.Shape[0] > 0 {
		stride = len(v.Data) / v.Shape[0]
	}
	shape := slices.Clone(v.Shape)
	shape[0] = to - from
	return View{Name: v.Name, DType: v.DType, Shape: shape, Data: v.Data[from*stride : to*stride]}
}

// Float32 returns the elements as float32. An aligned F32 view is returned as
// it lies, without a copy, so the result is read-only. Integers are converted;
// it is an Unsupported error for types without a conversion and Corrupt for a
// view that fails Check.
func (v View) Float32() ([]float32, error) {
	if err := v.Check(); err != nil {
		return nil, err
	}
	if v.DType == F32 {
		if s, ok := castSlice[float32](v.Data); ok {
			return s, nil
		}
	}
	out := make([]float32, v.Elements())
	return out, v.CopyFloat32(out)
}

// CopyFloat32 converts the elements into dst, which has Elements() values.
func (v View) CopyFloat32(dst []float32) error {
	if err := v.Check(); err != nil {
		return err
	}
	if len(dst) != v.Elements() {
		return clara.Errorf(clara.Invalid, "convert tensor %s of %d elements into %d places", v.Name, v.Elements(), len(dst))
	}
	return decode(dst, v)
}

// Convert returns the tensor in another float type; the same type returns v
// itself. Rounding is to nearest, ties to even, as in torch.
func (v View) Convert(to DType) (View, error) {
	if v.DType == to {
		return v, v.Check()
	}
	f, err := v.Float32()
	if err != nil {
		return View{}, err
	}
	out := View{Name: v.Name, DType: to, Shape: v.Shape}
	switch to {
	case F32:
		out.Data = bytesOf(f)
	case F16:
		out.Data = make([]byte, 2*len(f))
		EncodeF16(out.Data, f)
	case BF16:
		out.Data = make([]byte, 2*len(f))
		EncodeBF16(out.Data, f)
	default:
		return View{}, clara.Errorf(clara.Unsupported, "convert tensor %s from %s to %s: only F32, F16 and BF16 can be written", v.Name, v.DType, to)
	}
	return out, nil
}

// castSlice reinterprets bytes as values of T if they are aligned for T.
func castSlice[T any](b []byte) ([]T, bool) {
	var t T
	size := int(unsafe.Sizeof(t))
	if len(b) == 0 {
		return []T{}, true
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%unsafe.Alignof(t) != 0 || len(b)%size != 0 {
		return nil, false
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/size), true
}

// bytesOf reinterprets float32 values as their bytes.
func bytesOf(f []float32) []byte {
	if len(f) == 0 {
		return []byte{}
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
