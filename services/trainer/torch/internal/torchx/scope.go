package torchx

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"unsafe"

	"github.com/clara-suite/clara/libs/clara"
	lib "github.com/sugarme/gotch/libtch"
)

// Scope owns tensors. It is for one goroutine.
type Scope struct{ owned []*Tensor }

func newScope() *Scope { return &Scope{} }

func (s *Scope) close() {
	for i := len(s.owned) - 1; i >= 0; i-- {
		t := s.owned[i]
		if t.h != nil {
			C.cx_free(t.h)
			t.h, t.pinned = nil, nil
		}
	}
	s.owned = nil
}

func (s *Scope) own(h unsafe.Pointer) *Tensor {
	t := &Tensor{h: h}
	s.owned = append(s.owned, t)
	return t
}

// gotch owns the result of a libtch call, whose error waits in the thread.
func (s *Scope) gotch(op string, h lib.Ctensor) *Tensor {
	if h == nil {
		err := text((*C.char)(unsafe.Pointer(lib.GetAndResetLastErr())))
		panic(fault{fmt.Errorf("%s: %w", op, err)})
	}
	return s.own(unsafe.Pointer(h))
}

// Do runs f with a scope of its own on a locked OS thread and frees what f made. Faults of libtorch come back as errors:
// Busy where memory ran out, Internal otherwise. A scope may be kept for longer with Open.
func Do(f func(s *Scope) error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := newScope()
	defer s.close()
	defer recovered(&err)
	return f(s)
}

// Open returns a scope that lives until the returned function is called: for weights and optimizer state.
func Open() (*Scope, func()) {
	s := newScope()
	return s, s.close
}

func recovered(err *error) {
	switch p := recover().(type) {
	case nil:
	case fault:
		if known := new(clara.Error); errors.As(p.err, &known) {
			*err = p.err
			return
		}
		msg := p.err.Error()
		if strings.Contains(msg, "out of memory") || strings.Contains(msg, "can't allocate memory") {
			*err = clara.Errorf(clara.Busy, "libtorch is out of memory: %s: lower micro_train_batch_size, or set gradient_checkpointing or quantization", msg)
			return
		}
		*err = clara.Errorf(clara.Internal, "libtorch: %s", msg)
	default:
		*err = clara.Errorf(clara.Internal, "panic: %v\n%s", p, debug.Stack())
	}
}

// Sub runs f with a scope of its own and frees what f made, except the result, which goes to s.
// This is what keeps a pass from holding every layer's intermediates: autograd keeps those it needs.
func (s *Scope) Sub(f func(s *Scope) *Tensor) *Tensor {
	inner := newScope()
	defer inner.close()
	return s.adopt(inner, f(inner))
}

// adopt moves t from inner to s; a tensor that inner does not own stays with its owner.
func (s *Scope) adopt(inner *Scope, t *Tensor) *Tensor {
	for i, o := range inner.owned {
		if o == t {
			inner.owned = append(inner.owned[:i], inner.owned[i+1:]...)
			s.owned = append(s.owned, t)
			break
		}
	}
	return t
}

// Free releases tensors of this scope before its end.
func (s *Scope) Free(ts ...*Tensor) {
	for _, t := range ts {
		for i := len(s.owned) - 1; i >= 0; i-- {
			if s.owned[i] == t {
				s.owned = append(s.owned[:i], s.owned[i+1:]...)
				C.cx_free(t.h)
				t.h, t.pinned = nil, nil
				break
			}
		}
	}
}

// Keep makes a second handle of t, owned by s, that outlives the scope of t. The elements are shared.
func (s *Scope) Keep(t *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_alias(t.p(), &h))
	k := s.own(h)
	k.pinned = t.pinned
	return k
}

// Owned is the number of live tensors, for tests of leaks.
func (s *Scope) Owned() int { return len(s.owned) }
