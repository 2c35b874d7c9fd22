package gguf

import (
	"fmt"

	"github.com/clara-suite/clara/libs/tensor"
)

// Type is the storage format of a tensor, by ggml's number.
type Type uint32

// The formats that are read.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q4_1 Type = 3
	Q5_0 Type = 6
	Q5_1 Type = 7
	Q8_0 Type = 8
	Q4_K Type = 12
	Q5_K Type = 13
	Q6_K Type = 14
	I8   Type = 24
	I16  Type = 25
	I32  Type = 26
	I64  Type = 27
	F64  Type = 28
	BF16 Type = 30
)

// layout is how elements lie in bytes: elements to a block and bytes of one.
type layout struct {
	name            string
	elements, bytes int
	plain           tensor.DType // of formats without blocks
}

func (t Type) layout() (layout, bool) {
	switch t {
	case F32:
		return layout{"F32", 1, 4, tensor.F32}, true
	case F16:
		return layout{"F16", 1, 2, tensor.F16}, true
	case BF16:
		return layout{"BF16", 1, 2, tensor.BF16}, true
	case F64:
		return layout{"F64", 1, 8, tensor.F64}, true
	case I8:
		return layout{"I8", 1, 1, tensor.I8}, true
	case I16:
		return layout{"I16", 1, 2, tensor.I16}, true
	case I32:
		return layout{"I32", 1, 4, tensor.I32}, true
	case I64:
		return layout{"I64", 1, 8, tensor.I64}, true
	case Q4_0:
		return layout{"Q4_0", 32, 18, tensor.Invalid}, true
	case Q4_1:
		return layout{"Q4_1", 32, 20, tensor.Invalid}, true
	case Q5_0:
		return layout{"Q5_0", 32, 22, tensor.Invalid}, true
	case Q5_1:
		return layout{"Q5_1", 32, 24, tensor.Invalid}, true
	case Q8_0:
		return layout{"Q8_0", 32, 34, tensor.Invalid}, true
	case Q4_K:
		return layout{"Q4_K", 256, 144, tensor.Invalid}, true
	case Q5_K:
		return layout{"Q5_K", 256, 176, tensor.Invalid}, true
	case Q6_K:
		return layout{"Q6_K", 256, 210, tensor.Invalid}, true
	}
	return layout{}, false
}

// String returns the format's name, "Q4_K".
func (t Type) String() string {
	if l, ok := t.layout(); ok {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Quantised reports whether the format has blocks.
func (t Type) Quantised() bool {
	l, ok := t.layout()
	return ok && l.plain == tensor.Invalid
}

// Block returns how many elements a block has and how many bytes it takes; 1
// element for formats without blocks.
func (t Type) Block() (elements, bytes int) {
	l, _ := t.layout()
	return l.elements, l.bytes
}
