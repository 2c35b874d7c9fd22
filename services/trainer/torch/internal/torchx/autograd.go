package torchx

// #include "shim.h"
import "C"

import "unsafe"

func handles(ts []*Tensor) (*unsafe.Pointer, C.int) {
	if len(ts) == 0 {
		return nil, 0
	}
	p := make([]unsafe.Pointer, len(ts))
	for i, t := range ts {
		p[i] = t.p()
	}
	return &p[0], C.int(len(p))
}

// Leaf returns a new handle on t's memory that is cut from its graph.
func (s *Scope) Leaf(t *Tensor, requiresGrad bool) *Tensor {
	var h unsafe.Pointer
	rg := C.int(0)
	if requiresGrad {
		rg = 1
	}
	check(C.cx_leaf(t.p(), rg, &h))
	return s.own(h)
}

// RequireGrad marks a leaf as a parameter.
func (t *Tensor) RequireGrad() { check(C.cx_require_grad(t.p())) }

// NoGrad runs f without recording a graph. It may be nested.
func NoGrad(f func()) {
	old := C.cx_set_grad_mode(0)
	defer C.cx_set_grad_mode(old)
	f()
}

func withGrad(f func()) {
	old := C.cx_set_grad_mode(1)
	defer C.cx_set_grad_mode(old)
	f()
}

// GradEnabled reports whether the calling thread records graphs.
func GradEnabled() bool {
	old := C.cx_set_grad_mode(0)
	C.cx_set_grad_mode(old)
	return old != 0
}

// Backward runs autograd from outs; a nil gradient stands for 1 and fits a single number only.
func Backward(outs, grads []*Tensor) {
	o, n := handles(outs)
	g, _ := handles(grads)
	check(C.cx_backward(o, g, n, 0))
}

// Grad returns t's gradient, owned by s, or nil.
func (s *Scope) Grad(t *Tensor) *Tensor {
	var h unsafe.Pointer
	check(C.cx_grad(t.p(), &h))
	if h == nil {
		return nil
	}
	return s.own(h)
}

// SetGrad replaces t's gradient.
func SetGrad(t, grad *Tensor) { check(C.cx_set_grad(t.p(), grad.p())) }

// ZeroGrads drops the gradients.
func ZeroGrads(params []*Tensor) {
	p, n := handles(params)
	check(C.cx_zero_grads(p, n))
}

// Tape is a backward pass in segments: a checkpointed segment keeps its input only and is computed again when its gradient
// is needed. Segments may feed each other through ordinary autograd graphs. A nil Tape records nothing.
type Tape struct {
	scope *Scope
	segs  []segment
}

type segment struct {
	run          func(s *Scope, x *Tensor) *Tensor // nil: a cut
	x, leaf, out *Tensor                           // input in its graph, the same cut off, output as a leaf
}

// NewTape makes a tape whose tensors live as long as s.
func NewTape(s *Scope) *Tape { return &Tape{scope: s} }

// Checkpoint returns run(x), computed without a graph. run must give the same result when called again.
func (t *Tape) Checkpoint(run func(s *Scope, x *Tensor) *Tensor, x *Tensor) *Tensor {
	leaf := t.scope.Leaf(x, x.Info().RequiresGrad)
	var out *Tensor
	NoGrad(func() {
		out = t.scope.Sub(func(s *Scope) *Tensor {
			y := run(s, leaf)
			return s.Leaf(y, true)
		})
	})
	t.segs = append(t.segs, segment{run: run, x: x, leaf: leaf, out: out})
	return out
}

// Cut returns x as a leaf, behind which the graph is walked once and only after everything that uses the leaf. A tensor that
// several segments or the loss use must be cut: graphs between segments are freed as they are walked. On a nil Tape it is x.
func (t *Tape) Cut(x *Tensor) *Tensor {
	if t == nil || !GradEnabled() || !x.Info().RequiresGrad {
		return x
	}
	out := t.scope.Leaf(x, true)
	t.segs = append(t.segs, segment{x: x, out: out})
	return out
}

// Backward runs autograd from loss and then through the segments, last first. Memory of a segment is freed once it is done.
func (t *Tape) Backward(loss *Tensor) {
	Backward([]*Tensor{loss}, nil)
	for i := len(t.segs) - 1; i >= 0; i-- {
		g := t.segs[i]
		s := newScope()
		grad := s.Grad(g.out)
		switch {
		case grad == nil:
		case g.run == nil:
			Backward([]*Tensor{g.x}, []*Tensor{grad})
		default:
			withGrad(func() {
				y := s.Sub(func(s *Scope) *Tensor { return g.run(s, g.leaf) })
				Backward([]*Tensor{y}, []*Tensor{grad})
			})
			if dx := s.Grad(g.leaf); dx != nil && g.x.Info().RequiresGrad {
				Backward([]*Tensor{g.x}, []*Tensor{dx})
			}
		}
		s.close()
		t.scope.Free(g.out)
		if g.leaf != nil {
			t.scope.Free(g.leaf)
		}
	}
	t.segs = nil
}

// AdamW is decoupled AdamW over float32 parameters. Step numbers start at 1.
type AdamW struct {
	Params, M, V      []*Tensor
	Steps             int64
	Beta1, Beta2, Eps float64
	Decay             float64
}

// NewAdamW makes an optimizer whose state is owned by s.
func NewAdamW(s *Scope, params []*Tensor, beta1, beta2, eps, decay float64) *AdamW {
	a := &AdamW{Params: params, Beta1: beta1, Beta2: beta2, Eps: eps, Decay: decay}
	for _, p := range params {
		in := p.Info()
		a.M = append(a.M, s.Zeros(Float32, in.Device, in.Shape...))
		a.V = append(a.V, s.Zeros(Float32, in.Device, in.Shape...))
	}
	return a
}

// Step updates the parameters that have a gradient.
func (a *AdamW) Step(lr float64) {
	a.Steps++
	p, n := handles(a.Params)
	m, _ := handles(a.M)
	v, _ := handles(a.V)
	check(C.cx_adamw(p, m, v, n, C.int64_t(a.Steps), C.double(lr), C.double(a.Beta1), C.double(a.Beta2), C.double(a.Eps), C.double(a.Decay)))
}

// ClipGradNorm returns the L2 norm of all gradients and, where it is above limit > 0, scales them by limit / (norm + 1e-6).
func ClipGradNorm(params []*Tensor, limit float64) float64 {
	var norm C.double
	p, n := handles(params)
	check(C.cx_clip_grad_norm(p, n, C.double(limit), &norm))
	return float64(norm)
}
