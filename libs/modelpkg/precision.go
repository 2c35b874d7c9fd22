package modelpkg

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
	"github.com/clara-suite/clara/libs/tensor"
)

// Precision is how a graph holds its weights.
type Precision string

// The precisions.
const (
	FP32 Precision = "fp32"
	// BF16 and FP16 are for CUDA: products, attention and cache in the half, the stream between blocks, norms and logits
	// in float32. Where there is no CUDA, a package that has FP32 too runs in that.
	BF16 Precision = "bf16"
	FP16 Precision = "fp16"
	// Int8 is blocks of 8 bits; what they are multiplied with is rounded to 8 bits too.
	Int8 Precision = "int8"
	// Int4 is blocks of 4 bits, and of 8 for the head and for what a GGUF file holds in 5 to 8; what they are
	// multiplied with is rounded to 8 bits.
	Int4 Precision = "int4"
	// Int8Float and Int4Float multiply the same blocks with float32: exact, slower than Int8 and Int4, and in no more memory.
	Int8Float Precision = "int8-f32"
	Int4Float Precision = "int4-f32"
)

// AllPrecisions returns the precisions, fp32 first: its files hold floats for those in blocks too.
func AllPrecisions() []Precision {
	return []Precision{FP32, BF16, FP16, Int8, Int8Float, Int4, Int4Float}
}

// Precisions says which precision each role runs in. Decoder's is also that of passes without an adapter.
// Empty ones are chosen by Import.
type Precisions struct {
	Encoder, Reasoner, Decoder Precision
}

// Names of the roles in ParsePrecisions.
const precisionHelp = "fp32, int8, int4, int8-f32 or int4-f32, with CUDA bf16 or fp16, or a list like encoder=fp32,reasoner=fp32,generator=int4; all=int4 for every role"

// ParsePrecisions reads "int4", which is the generator's and leaves the choice for the others to Import, or a list
// of roles with their precisions: "encoder=fp32,reasoner=fp32,generator=int4", "all=int8". Errors are Invalid.
func ParsePrecisions(s string) (p Precisions, err error) {
	for _, item := range strings.Split(s, ",") {
		role, name, named := strings.Cut(strings.TrimSpace(item), "=")
		if !named {
			role, name = "generator", role
		}
		if s == "" {
			return p, nil
		}
		x := Precision(name)
		if !slices.Contains(AllPrecisions(), x) {
			return p, clara.Errorf(clara.Invalid, "precision %q: want %s", name, precisionHelp)
		}
		switch role {
		case "encoder":
			p.Encoder = x
		case "reasoner", string(Reasoner):
			p.Reasoner = x
		case "generator", string(Decoder):
			p.Decoder = x
		case "all":
			p = Precisions{x, x, x}
		default:
			return p, clara.Errorf(clara.Invalid, "precision of %q: want %s", role, precisionHelp)
		}
	}
	return p, nil
}

// String writes what ParsePrecisions reads.
func (p Precisions) String() string {
	var s []string
	for _, x := range []struct {
		role string
		p    Precision
	}{{"encoder", p.Encoder}, {"reasoner", p.Reasoner}, {"generator", p.Decoder}} {
		if x.p != "" {
			s = append(s, fmt.Sprintf("%s=%s", x.role, x.p))
		}
	}
	return strings.Join(s, ",")
}

// list returns the precisions in use, each once, in order.
func (p Precisions) list() []Precision {
	var out []Precision
	for _, x := range AllPrecisions() {
		if p.Encoder == x || p.Reasoner == x || p.Decoder == x {
			out = append(out, x)
		}
	}
	return out
}

// of returns the precision of a role.
func (p Precisions) of(r Role) Precision {
	switch r {
	case Encoder:
		return p.Encoder
	case Reasoner:
		return p.Reasoner
	}
	return p.Decoder
}

// bits of a code; 0 for floats.
func (p Precision) bits() int {
	switch p {
	case Int8, Int8Float:
		return 8
	case Int4, Int4Float:
		return 4
	}
	return 0
}

// Half reports whether a precision is one of the halves, which take CUDA.
func (p Precision) Half() bool { return p == BF16 || p == FP16 }

// dtype is the type of the matrices of a precision that is not in blocks.
func (p Precision) dtype() tensor.DType {
	switch p {
	case BF16:
		return tensor.BF16
	case FP16:
		return tensor.F16
	}
	return tensor.F32
}

// graphType is the type of the graph's products.
func (p Precision) graphType() graph.DType { return graphTypes()[p.dtype()] }

// graphTypes is what graphs call the types of floats.
func graphTypes() map[tensor.DType]graph.DType {
	return map[tensor.DType]graph.DType{tensor.F32: graph.Float32, tensor.F16: graph.Float16, tensor.BF16: graph.BFloat16}
}

// choosePrecisions fills in what the caller left open.
func (im *importer) choosePrecisions() error {
	p := &im.Precision
	im.round = *p != (Precisions{})
	own, err := im.ownPrecision()
	if err != nil {
		return err
	}
	if p.Decoder == "" {
		p.Decoder = own
	}
	// Memories must agree with float32: the base's own blocks, multiplied with float32, do; others may not.
	for _, x := range []*Precision{&p.Encoder, &p.Reasoner} {
		if *x == "" {
			*x = FP32
			if own.bits() != 0 && p.Decoder.bits() != 0 {
				*x = own
			}
		}
	}
	if im.Checkpoint == "" {
		p.Encoder, p.Reasoner = p.Decoder, p.Decoder
	}
	return nil
}

// ownPrecision is that of the base's blocks, if all its matrices are in blocks.
func (im *importer) ownPrecision() (Precision, error) {
	weights, bits := 0, 0
	a := im.src.Arch()
	for i := range a.Layers {
		for _, l := range a.Linears() {
			b, quantised, err := im.src.Blocks(arch.LayerName(i, l.Name+".weight"))
			if err != nil {
				return "", err
			}
			c, known := b.Type.Codes()
			if !quantised || !known {
				return FP32, nil
			}
			weights += l.In * l.Out
			bits += l.In * l.Out * c.Bits
		}
	}
	if bits > 6*weights {
		return Int8Float, nil
	}
	return Int4Float, nil
}

// exact reports whether blocks are multiplied with float32.
func (p Precision) exact() bool { return p == Int8Float || p == Int4Float }

// WeightBytes is the size of the weights that the graph of a precision reads, adapters apart.
func (m *Manifest) WeightBytes(p Precision) int64 {
	var n int64
	// Else the floats are in the base's own files.
	own := slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == weightsOf(p) })
	for _, f := range m.Files {
		switch {
		case !strings.HasSuffix(f.Path, ".safetensors") || isAdapter(m, f.Path):
		case f.Path == weightsOf(p), f.Path == embeddingFile && p.bits() == 0,
			f.Path != embeddingFile && !strings.HasPrefix(f.Path, "weights.") && p.bits() == 0 && !own:
			n += f.Size
		}
	}
	return n
}
