package infer

import (
	"cmp"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
)

// precisions is the precision that each role of a package runs in.
type precisions struct {
	of   map[Role]modelpkg.Precision
	note string // what runs in another than its manifest says, and why
}

// choose takes the precision that o names for all roles, else each role's own. Halves take CUDA: where it lacks, float32
// takes their place if the package has it; it is a State error that says what to do if not. Who asks for CUDA, or names
// a half, gets what the runtime says to it.
func choose(m *modelpkg.Manifest, o Options, lacks func() error) (precisions, error) {
	c := precisions{of: map[Role]modelpkg.Precision{}}
	for _, r := range []Role{Base, Encoder, Reasoner, Decoder} {
		p := cmp.Or(o.Precision, m.Precision(r))
		c.of[r] = p
		if !p.Half() || o.Precision != "" || o.Runtime.Provider == ort.CUDA {
			continue
		}
		reason := lacks()
		if reason == nil {
			continue
		}
		if _, ok := m.Graphs[modelpkg.FP32]; !ok {
			return c, clara.Errorf(clara.State, "model %s runs in %s, which takes CUDA: %w; for this machine import it with --precision fp32, int8 or int4, or with fp32 for one of the roles", m.Name, p, reason)
		}
		c.of[r], c.note = modelpkg.FP32, string(p)+" takes CUDA, fp32 is used in its place"
	}
	return c, nil
}

// hasHalf reports whether a role runs in a half that nobody insisted on.
func (c precisions) hasHalf(o Options) bool {
	for _, p := range c.of {
		if p.Half() {
			return o.Precision == "" && o.Runtime.Provider != ort.CUDA
		}
	}
	return false
}

// dtypeOf is the type of the cache and the adapters of a precision.
func dtypeOf(p modelpkg.Precision) ort.DType {
	switch p {
	case modelpkg.BF16:
		return ort.BFloat16
	case modelpkg.FP16:
		return ort.Float16
	}
	return ort.Float32
}

// tensorAs is numbers of the graph's type of a precision.
func tensorAs(p modelpkg.Precision, x []float32, shape ...int64) ort.Tensor {
	if d := dtypeOf(p); d != ort.Float32 {
		return ort.Tensor{Shape: shape, Data: ort.HalfOf(d, x)}
	}
	return ort.Of(x, shape...)
}
