package model

import (
	"math"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type (
	scope  = *torchx.Scope
	tensor = *torchx.Tensor
)

// Model is a base model on one device. H, V and the other sizes are those of Arch, except that Vocab rows are held, which is
// the length of the tokenizer with CLaRa's tokens (spec clara-model §2).
type Model struct {
	Arch   arch.Model
	Vocab  int
	DType  torchx.DType
	Device torchx.Device

	embedding tensor // [V, H]
	head      tensor // [V, H]; the embedding if tied
	norm      tensor // [H]
	blocks    []block
	angles    angles
	shards    *sharding // nil: the base is whole

	// Memory is the trainable part of the embedding, nil if none is trained.
	Memory *MemoryRows
}

// block holds the weights of one layer. Projections that the family fuses are one Weight each.
type block struct {
	inputNorm, postNorm tensor // [H]
	qNorm, kNorm        tensor // [D] or nil
	q, k, v, qkv        torchx.Weight
	o                   torchx.Weight
	gate, up, gateUp    torchx.Weight
	down                torchx.Weight
}

// Pass says how a forward pass runs.
type Pass struct {
	Adapter *Adapter // nil: the bare base model
	// Train turns dropout on; Seed then fixes what is dropped, so that a layer computed again drops the same.
	Train bool
	Seed  uint64
	// Tape, where not nil, makes every layer a checkpointed segment: only its input is kept.
	Tape *torchx.Tape
	// Watch, where not nil, sees the output of every layer.
	Watch func(layer int, x *torchx.Tensor)
}

// attend is attention over what came before: in the batch itself, or in a cache. q [T, heads, D], k and v [T, kv heads, D] -> [T, heads * D].
type attend func(s scope, layer int, q, k, v tensor) tensor

// Embed looks up token ids: [T] -> [T, H]. Trainable memory rows are looked up where they are kept in float32.
func (m *Model) Embed(s scope, ids []int64) tensor {
	x := s.Rows(m.embedding, s.Ints(ids, m.Device))
	if m.Memory == nil {
		return x
	}
	at, row := m.Memory.find(ids)
	if len(at) == 0 {
		return x
	}
	return s.Sub(func(s scope) tensor {
		rows := s.To(s.Rows(m.Memory.Rows, s.Ints(row, m.Device)), m.DType)
		return s.WithRows(x, s.Ints(at, m.Device), rows)
	})
}

// Hidden runs all layers over packed sequences: x [T, H], lens [n] with sum T -> [T, H] before the final norm.
func (m *Model) Hidden(s scope, x tensor, lens []int64, p Pass) tensor {
	cos, sin := m.angles.packed(s, m, lens, nil)
	att := func(s scope, layer int, q, k, v tensor) tensor {
		return s.Attention(q, k, v, lens, m.Arch.AttentionScale, m.window(layer))
	}
	for i := range m.blocks {
		run := func(s scope, x tensor) tensor { return m.layer(s, i, x, cos, sin, p, att) }
		if p.Tape != nil && torchx.GradEnabled() {
			x = p.Tape.Checkpoint(run, x)
		} else {
			in := x
			x = s.Sub(func(s scope) tensor { return run(s, in) })
			if i > 0 {
				s.Free(in) // autograd holds on to what it needs
			}
		}
		if p.Watch != nil {
			p.Watch(i, x)
		}
	}
	return x
}

// layer is one transformer block: x [T, H] -> [T, H].
func (m *Model) layer(s scope, i int, x, cos, sin tensor, p Pass, att attend) tensor {
	b, eps := m.whole(s, i), m.Arch.NormEps
	lora := func(name string) *torchx.LoRA { return p.Adapter.lora(i, name, p.Train, p.Seed) }

	h := s.RMSNorm(x, b.inputNorm, eps)
	q, k, v := m.project(s, b, h, lora)
	if b.qNorm != nil {
		q, k = s.RMSNorm(q, b.qNorm, eps), s.RMSNorm(k, b.kNorm, eps)
	}
	a := att(s, i, s.Rope(q, cos, sin), s.Rope(k, cos, sin), v)
	x = s.Add(x, s.Linear(a, b.o, lora("self_attn.o_proj")))

	h = s.RMSNorm(x, b.postNorm, eps)
	var gate, up tensor
	if m.Arch.FusedGateUp {
		f := s.Linear(h, b.gateUp, lora("mlp.gate_up_proj"))
		n := int64(m.Arch.Intermediate)
		gate, up = s.Narrow(f, 1, 0, n), s.Narrow(f, 1, n, n)
	} else {
		gate, up = s.Linear(h, b.gate, lora("mlp.gate_proj")), s.Linear(h, b.up, lora("mlp.up_proj"))
	}
	return s.Add(x, s.Linear(s.SwiGLU(gate, up), b.down, lora("mlp.down_proj")))
}

// project computes queries [T, heads, D], keys and values [T, kv heads, D] of h [T, H].
func (m *Model) project(s scope, b *block, h tensor, lora func(string) *torchx.LoRA) (q, k, v tensor) {
	d, n, kv := int64(m.Arch.HeadDim), int64(m.Arch.Heads), int64(m.Arch.KVHeads)
	if m.Arch.FusedQKV {
		f := s.Linear(h, b.qkv, lora("self_attn.qkv_proj"))
		q, k, v = s.Narrow(f, 1, 0, n*d), s.Narrow(f, 1, n*d, kv*d), s.Narrow(f, 1, (n+kv)*d, kv*d)
	} else {
		q = s.Linear(h, b.q, lora("self_attn.q_proj"))
		k = s.Linear(h, b.k, lora("self_attn.k_proj"))
		v = s.Linear(h, b.v, lora("self_attn.v_proj"))
	}
	return s.Reshape(q, -1, n, d), s.Reshape(k, -1, kv, d), s.Reshape(v, -1, kv, d)
}

// Norm is the final norm: [n, H] -> [n, H]. It is apart from Hidden because most rows are never looked at.
func (m *Model) Norm(s scope, x tensor) tensor { return s.RMSNorm(x, m.norm, m.Arch.NormEps) }

// Logits of normed rows: [n, H] -> [n, V].
func (m *Model) Logits(s scope, h tensor) tensor {
	return s.Linear(h, torchx.Weight{W: m.head}, nil)
}

// CrossEntropy returns the sum over normed rows h [n, H] of the cross-entropy against labels [n], and each of them without a
// graph. The logits of all rows never exist at once. Trained memory rows of a tied embedding get the head's gradient too.
func (m *Model) CrossEntropy(s scope, h tensor, labels []int64) (sum, each tensor) {
	var rows, ids tensor
	if m.Memory != nil && m.Arch.TieEmbeddings {
		rows, ids = m.Memory.Rows, m.Memory.ids
	}
	return s.LinearCE(h, m.head, s.Ints(labels, m.Device), rows, ids)
}

func (m *Model) window(layer int) int64 {
	if m.Arch.IsSliding(layer) {
		return int64(m.Arch.SlidingWindow)
	}
	return 0
}

// angles holds cos and sin of every position, computed on the host in float32 as the families do.
type angles struct {
	cos, sin  tensor // [2 or 1 times positions, 1, R/2]
	positions int64
	long      int64 // sequences longer than this use the second half; 0: there is none
}

// grow makes the tables long enough for n positions. They live in the scope of the model.
func (a *angles) grow(owner scope, m *Model, n int64) {
	if n <= a.positions {
		return
	}
	n = max(n, 2*a.positions, 64)
	r := m.Arch.Rope
	half := int64(r.Dim / 2)
	lengths := []int64{n}
	if r.Kind == arch.RopeLongRope {
		a.long = int64(r.OriginalPositions)
		lengths = []int64{min(n, a.long), a.long + 1}
	}
	var cos, sin []float32
	for _, length := range lengths {
		inv, scale := r.Frequencies(int(length))
		for p := range n {
			for _, f := range inv {
				angle := float64(float32(p) * f)
				cos = append(cos, float32(math.Cos(angle))*scale)
				sin = append(sin, float32(math.Sin(angle))*scale)
			}
		}
	}
	old := []tensor{a.cos, a.sin}
	rows := n * int64(len(lengths))
	a.cos = owner.Sub(func(s scope) tensor { return s.To(s.Floats(cos, m.Device, rows, 1, half), m.DType) })
	a.sin = owner.Sub(func(s scope) tensor { return s.To(s.Floats(sin, m.Device, rows, 1, half), m.DType) })
	if old[0] != nil {
		owner.Free(old...)
	}
	a.positions = n
}

// packed returns cos and sin [T, 1, R/2] for sequences of these lengths; start, where given, is the position each begins at.
func (a *angles) packed(s scope, m *Model, lens, start []int64) (cos, sin tensor) {
	var idx []int64
	for i, n := range lens {
		from := int64(0)
		if start != nil {
			from = start[i]
		}
		shift := int64(0)
		if a.long > 0 && from+n > a.long {
			shift = a.positions
		}
		for p := range n {
			idx = append(idx, shift+from+p)
		}
	}
	at := s.Ints(idx, m.Device)
	return s.Rows(a.cos, at), s.Rows(a.sin, at)
}

// Reserve prepares for sequences of up to n tokens; longer ones are an error of libtorch.
func (m *Model) Reserve(owner scope, n int) { m.angles.grow(owner, m, int64(n)) }

// mix spreads a seed over layers (the finaliser of splitmix64).
func mix(seed, n uint64) uint64 {
	z := seed + (n+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// supported returns an Unsupported error, naming the feature, for what this model does not compute.
func supported(a arch.Model) error {
	switch {
	case a.PostNorms, a.NormOffset != 0, a.EmbedScale != 1:
		return clara.Errorf(clara.Unsupported, "%s: training supports the llama, mistral, qwen2, qwen3 and phi3 families", a.Family)
	case a.AttentionSoftcap != 0 || a.LogitSoftcap != 0:
		return clara.Errorf(clara.Unsupported, "%s: capped attention scores or logits cannot be trained", a.Family)
	case a.Activation != arch.SiLU:
		return clara.Errorf(clara.Unsupported, "%s: activation %q cannot be trained", a.Family, a.Activation)
	case a.LocalRope != nil:
		return clara.Errorf(clara.Unsupported, "%s: a rotary embedding of the sliding layers' own cannot be trained", a.Family)
	}
	return nil
}
