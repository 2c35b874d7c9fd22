//go:build cgo

package ort

/*
#cgo LDFLAGS: -lm
#include "operators.h"
*/
import "C"

import (
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/cpu"

	"github.com/clara-suite/clara/libs/clara"
)

var _ [unsafe.Sizeof(uintptr(0))]byte = [unsafe.Sizeof(onnx.SessionOptions{})]byte{}

// operatorsDomain is where the graph finds the operators of ours; empty where the processor lacks what they take.
func operatorsDomain() string {
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		return C.OPERATORS_DOMAIN
	}
	return ""
}

// ArgMax returns the place of the largest number, the first of equal ones; -1 if it is not finite or one is not a number.
func ArgMax(x []float32) int {
	switch {
	case len(x) == 0:
		return -1
	case wide():
		return int(C.arg_max_avx512((*C.float)(&x[0]), C.int64_t(len(x))))
	case operatorsDomain() != "":
		return int(C.arg_max_avx2((*C.float)(&x[0]), C.int64_t(len(x))))
	}
	return argMax(x)
}

// wide reports whether the processor has the wider vectors.
func wide() bool { return cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasFMA }

// addOperators makes the operators known to a session that is to be opened.
func (s *Session) addOperators(so *onnx.SessionOptions, narrow bool) error {
	width := C.int(0)
	if !narrow && wide() {
		width = 1
	}
	if s.domain = C.make_domain(s.api.t, width); s.domain == nil {
		return clara.Errorf(clara.State, "open %s: ONNX Runtime takes no operators", s.path)
	}
	return s.api.status(C.add_domain(s.api.t, *(*unsafe.Pointer)(unsafe.Pointer(so)), s.domain))
}

// dropOperators forgets them and what they hold, once the session is closed.
func (s *Session) dropOperators() {
	if s.matrices != nil {
		_ = s.matrices.Close() // unmaps what it mapped
		s.matrices = nil
	}
	if s.domain != nil {
		C.drop_domain(s.api.t, s.domain)
		s.domain = nil
	}
}
