package model

import (
	"math"
	"math/rand/v2"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	views "github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Source hands out the base model's weights by their Hugging Face name. What it returns must stay mapped while the Model lives.
type Source interface {
	Tensor(name string) (views.View, error)
}

// Options says how the base is held.
type Options struct {
	DType  torchx.DType // Float32 or BFloat16
	Device torchx.Device
	Bits   int // 8 or 4: linear weights of the blocks are held as integers and dequantised a layer at a time; 0: as they are
	Vocab  int // rows of the embedding: the length of the tokenizer with CLaRa's tokens
	Seed   int64
	// Shards, where not nil, are the ranks over which the blocks' linear weights are spread (zero_stage 3).
	Shards *torchx.Group
	// Embedding and Head replace the base's, already resized: those of a checkpoint. Zero views: the base's, resized here.
	Embedding, Head views.View
}

// Load builds the model in owner, which must live as long as it. Weights that have the wanted type already are looked at
// where the source has them, not copied. Errors: NotFound and Corrupt of the source, Unsupported.
func Load(owner *torchx.Scope, a arch.Model, src Source, o Options) (*Model, error) {
	if err := supported(a); err != nil {
		return nil, err
	}
	m := &Model{Arch: a, Vocab: o.Vocab, DType: o.DType, Device: o.Device}
	l := loader{owner: owner, src: src, m: m, o: o, dev: o.Device}
	if o.Shards != nil {
		m.shards = &sharding{group: o.Shards}
	}
	m.embedding = l.table(arch.Embedding, o.Embedding)
	m.head = m.embedding
	if !a.TieEmbeddings {
		m.head = l.table(arch.Head, o.Head)
	}
	m.norm = l.vector(arch.FinalNorm)
	m.blocks = make([]block, a.Layers)
	for i := range m.blocks {
		b := &m.blocks[i]
		b.inputNorm = l.vector(arch.LayerName(i, "input_layernorm.weight"))
		b.postNorm = l.vector(arch.LayerName(i, "post_attention_layernorm.weight"))
		if a.QKNorm {
			b.qNorm = l.vector(arch.LayerName(i, "self_attn.q_norm.weight"))
			b.kNorm = l.vector(arch.LayerName(i, "self_attn.k_norm.weight"))
		}
		into := map[string]*torchx.Weight{
			"self_attn.q_proj": &b.q, "self_attn.k_proj": &b.k, "self_attn.v_proj": &b.v, "self_attn.qkv_proj": &b.qkv,
			"self_attn.o_proj": &b.o, "mlp.gate_proj": &b.gate, "mlp.up_proj": &b.up, "mlp.gate_up_proj": &b.gateUp, "mlp.down_proj": &b.down,
		}
		linears := l
		done := func() {}
		if m.shards != nil { // read on the host, of which only a part stays
			linears.owner, done = torchx.Open()
			linears.dev = torchx.CPU
		}
		for _, lin := range a.Linears() {
			*into[lin.Name] = linears.linear(i, lin)
		}
		if l.err = linears.err; l.err == nil && m.shards != nil {
			m.shards.add(owner, b, o.Device)
		}
		done()
	}
	if l.err != nil {
		return nil, l.err
	}
	return m, nil
}

// loader reads weights one by one; the first fault sticks.
type loader struct {
	owner scope
	src   Source
	m     *Model
	o     Options
	dev   torchx.Device
	err   error
}

func (l *loader) read(name string, shape ...int) views.View {
	if l.err != nil {
		return views.View{}
	}
	v, err := l.src.Tensor(name)
	if err != nil {
		l.err = err
		return views.View{}
	}
	if shape != nil && !v.Shape.Equal(shape) {
		l.err = clara.Errorf(clara.Corrupt, "base model: %s has shape %v, its configuration says %v", name, v.Shape, shape)
		return views.View{}
	}
	return v
}

func (l *loader) vector(name string) tensor { return l.place(l.read(name), true) }

func (l *loader) linear(i int, lin arch.Linear) torchx.Weight {
	v := l.read(arch.LayerName(i, lin.Name+".weight"), lin.Out, lin.In)
	var w torchx.Weight
	if l.o.Bits == 0 {
		w.W = l.place(v, true)
	} else if l.err == nil {
		s, done := torchx.Open()
		inner := *l
		inner.owner = s
		q := s.Quantize(inner.place(v, true), l.o.Bits)
		w = torchx.Weight{W: l.owner.Keep(q.W), Scale: l.owner.Keep(q.Scale), Bits: q.Bits}
		done()
	}
	if lin.Bias {
		w.Bias = l.place(l.read(arch.LayerName(i, lin.Name+".bias"), lin.Out), true)
	}
	return w
}

// place puts a view on the device in the model's type; a host tensor of that type is not copied if share.
func (l *loader) place(v views.View, share bool) tensor {
	if l.err != nil {
		return nil
	}
	shape := make([]int64, len(v.Shape))
	for i, d := range v.Shape {
		shape[i] = int64(d)
	}
	d, ok := torchType(v.DType)
	if !ok {
		l.err = clara.Errorf(clara.Unsupported, "base model: %s has element type %s", v.Name, v.DType)
		return nil
	}
	if share && d == l.m.DType && l.dev == torchx.CPU {
		return l.owner.View(v.Data, d, shape...)
	}
	return l.owner.Sub(func(s scope) tensor {
		return s.To(s.FromBytes(v.Data, d, l.dev, shape...), l.m.DType)
	})
}

func torchType(d views.DType) (torchx.DType, bool) {
	switch d {
	case views.F32:
		return torchx.Float32, true
	case views.BF16:
		return torchx.BFloat16, true
	case views.F16:
		return torchx.Float16, true
	}
	return 0, false
}

// table returns an embedding of o.Vocab rows: the checkpoint's, or the base's shrunk, or grown by rows drawn from a normal
// with the old rows' mean and 1e-9 times their variance (spec clara-model §2).
func (l *loader) table(name string, given views.View) tensor {
	h := l.m.Arch.Hidden
	if given.Data != nil {
		if !given.Shape.Equal(views.Shape{l.o.Vocab, h}) {
			l.err = clara.Errorf(clara.Corrupt, "checkpoint: %s has shape %v, the tokenizer and base want [%d %d]", name, given.Shape, l.o.Vocab, h)
			return nil
		}
		return l.place(given, false) // memory rows may be written to
	}
	v := l.read(name, l.m.Arch.Vocab, h)
	if l.err != nil {
		return nil
	}
	old := l.m.Arch.Vocab
	keep := min(old, l.o.Vocab)
	size := v.DType.Size()
	if size == 0 {
		l.err = clara.Errorf(clara.Unsupported, "base model: %s has element type %s", name, v.DType)
		return nil
	}
	rows := v
	rows.Data, rows.Shape = v.Data[:keep*h*size], views.Shape{keep, h}
	if l.o.Vocab <= old {
		return l.place(rows, false)
	}
	all, err := v.Float32()
	if err != nil {
		l.err = err
		return nil
	}
	mean, dev := columns(all, h)
	rng := rand.New(rand.NewPCG(uint64(l.o.Seed), 1))
	fresh := make([]float32, (l.o.Vocab-old)*h)
	for i := range fresh {
		fresh[i] = float32(mean[i%h] + math.Sqrt(1e-9)*dev[i%h]*rng.NormFloat64())
	}
	return l.owner.Sub(func(s scope) tensor {
		inner := *l
		inner.owner = s
		return s.Cat(0, inner.place(rows, true), s.To(s.Floats(fresh, l.m.Device, int64(l.o.Vocab-old), int64(h)), l.m.DType))
	})
}

// columns returns mean and standard deviation of each of the h columns.
func columns(v []float32, h int) (mean, dev []float64) {
	mean, dev = make([]float64, h), make([]float64, h)
	n := float64(len(v) / h)
	for i, x := range v {
		mean[i%h] += float64(x) / n
	}
	for i, x := range v {
		d := float64(x) - mean[i%h]
		dev[i%h] += d * d / n
	}
	for i := range dev {
		dev[i] = math.Sqrt(dev[i])
	}
	return mean, dev
}
