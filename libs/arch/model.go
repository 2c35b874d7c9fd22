package arch

import (
	"fmt"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Activation is the non-linearity of the MLP.
type Activation string

const (
	SiLU     Activation = "silu"      // x * sigmoid(x)
	GELUTanh Activation = "gelu_tanh" // GELU by its tanh approximation
	GELU     Activation = "gelu"      // GELU by erf
)

// Model is a decoder-only architecture.
type Model struct {
	Family       string // "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"
	Hidden       int    // H
	Intermediate int
	Layers       int
	Heads        int // query heads
	KVHeads      int
	HeadDim      int
	Vocab        int // V, rows of the embedding as stored
	MaxPositions int

	NormEps    float64
	NormOffset float64 // added to every norm weight (Gemma: 1)
	Activation Activation
	EmbedScale float64 // embeddings are multiplied by it (Gemma: sqrt(H)); 1 otherwise
	// ScaleMemories: so are memories in their slots, as the model scales whatever it is given (Gemma 2, not 3, which
	// scales rows of its table).
	ScaleMemories bool `json:",omitempty"`

	TieEmbeddings bool // the head is the embedding table
	QKVBias       bool
	OBias         bool
	MLPBias       bool
	QKNorm        bool // RMSNorm over each head of q and k before rotation
	FusedQKV      bool // one qkv_proj, rows q then k then v
	FusedGateUp   bool // one gate_up_proj, rows gate then up
	PostNorms     bool // norms after attention and MLP too (Gemma)

	AttentionScale   float64 // factor on q.k, HeadDim^-0.5 unless the model says otherwise
	AttentionSoftcap float64 // s -> cap*tanh(s/cap) on attention scores; 0 is none
	LogitSoftcap     float64 // the same on logits

	// SlidingWindow is how many positions, its own included, a token of a
	// sliding layer sees; 0 is all. Sliding says which layers slide; nil is none.
	SlidingWindow int
	Sliding       []bool

	Rope Rope
	// LocalRope is that of the sliding layers where they have their own (Gemma 3).
	LocalRope *Rope

	BOS int   // -1 if the model names none; the tokenizer has the last word (spec clara-model §2)
	EOS []int // any of them ends generation; empty if the model names none
	Pad int   // -1 if none
}

// IsSliding reports whether layer i attends over the sliding window only.
func (m Model) IsSliding(i int) bool {
	return m.SlidingWindow > 0 && i < len(m.Sliding) && m.Sliding[i]
}

// LayerRope returns the rotary embedding of layer i.
func (m Model) LayerRope(i int) Rope {
	if m.LocalRope != nil && m.IsSliding(i) {
		return *m.LocalRope
	}
	return m.Rope
}

// Names of the weights outside the blocks.
const (
	Embedding = "model.embed_tokens.weight"
	FinalNorm = "model.norm.weight"
	Head      = "lm_head.weight"
)

// LayerName returns the Hugging Face name of a part of block i:
// LayerName(0, "self_attn.q_proj.weight") is "model.layers.0.self_attn.q_proj.weight".
func LayerName(i int, part string) string { return fmt.Sprintf("model.layers.%d.%s", i, part) }

// Linear is a matrix product of a block: y [T, Out] = x [T, In] W^T.
type Linear struct {
	Name string // inside the block, without ".weight": "self_attn.q_proj"
	In   int
	Out  int
	Bias bool
}

// Linears returns the linear layers of a block, which are the ones that carry
// LoRA (spec clara-model §1), in the order q, k, v, o, gate, up, down.
func (m Model) Linears() []Linear {
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	var l []Linear
	if m.FusedQKV {
		l = append(l, Linear{"self_attn.qkv_proj", m.Hidden, q + 2*kv, m.QKVBias})
	} else {
		l = append(l,
			Linear{"self_attn.q_proj", m.Hidden, q, m.QKVBias},
			Linear{"self_attn.k_proj", m.Hidden, kv, m.QKVBias},
			Linear{"self_attn.v_proj", m.Hidden, kv, m.QKVBias})
	}
	l = append(l, Linear{"self_attn.o_proj", q, m.Hidden, m.OBias})
	if m.FusedGateUp {
		l = append(l, Linear{"mlp.gate_up_proj", m.Hidden, 2 * m.Intermediate, m.MLPBias})
	} else {
		l = append(l,
			Linear{"mlp.gate_proj", m.Hidden, m.Intermediate, m.MLPBias},
			Linear{"mlp.up_proj", m.Hidden, m.Intermediate, m.MLPBias})
	}
	return append(l, Linear{"mlp.down_proj", m.Intermediate, m.Hidden, m.MLPBias})
}

// Norms returns the names of a block's norms over H, without ".weight", in the order of use.
func (m Model) Norms() []string {
	if m.PostNorms {
		return []string{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
	}
	return []string{"input_layernorm", "post_attention_layernorm"}
}

// Weight is a tensor that the model is made of.
type Weight struct {
	Name  string // Hugging Face name
	Shape tensor.Shape
}

// Weights returns every tensor that the model needs, embedding first, head
// last and only if it is not tied.
func (m Model) Weights() []Weight {
	w := []Weight{{Embedding, tensor.Shape{m.Vocab, m.Hidden}}}
	linears, norms := m.Linears(), m.Norms()
	for i := range m.Layers {
		for _, n := range norms {
			w = append(w, Weight{LayerName(i, n+".weight"), tensor.Shape{m.Hidden}})
		}
		if m.QKNorm {
			w = append(w,
				Weight{LayerName(i, "self_attn.q_norm.weight"), tensor.Shape{m.HeadDim}},
				Weight{LayerName(i, "self_attn.k_norm.weight"), tensor.Shape{m.HeadDim}})
		}
		for _, l := range linears {
			w = append(w, Weight{LayerName(i, l.Name+".weight"), tensor.Shape{l.Out, l.In}})
			if l.Bias {
				w = append(w, Weight{LayerName(i, l.Name+".bias"), tensor.Shape{l.Out}})
			}
		}
	}
	w = append(w, Weight{FinalNorm, tensor.Shape{m.Hidden}})
	if !m.TieEmbeddings {
		w = append(w, Weight{Head, tensor.Shape{m.Vocab, m.Hidden}})
	}
	return w
}

// Parameters returns how many numbers the weights hold.
func (m Model) Parameters() int64 {
	total := int64(0)
	for _, w := range m.Weights() {
		n, _ := w.Shape.Elements()
		total += int64(n)
	}
	return total
}

// maxDim bounds every size of a model, so that products of two stay in range
// and a hostile description cannot ask for absurd allocations.
const maxDim = 1 << 24

// Check returns a Corrupt error for sizes that are missing, absurd or contradict each other.
func (m Model) Check() error {
	for _, d := range []struct {
		key   string
		value int
	}{
		{"hidden_size", m.Hidden}, {"intermediate_size", m.Intermediate}, {"num_hidden_layers", m.Layers},
		{"num_attention_heads", m.Heads}, {"num_key_value_heads", m.KVHeads}, {"head_dim", m.HeadDim},
		{"vocab_size", m.Vocab}, {"max_position_embeddings", m.MaxPositions},
	} {
		if d.value <= 0 || d.value > maxDim {
			return clara.Errorf(clara.Corrupt, "model description: %s is %d", d.key, d.value)
		}
	}
	switch {
	case m.Layers > 1<<12:
		return clara.Errorf(clara.Corrupt, "model description: num_hidden_layers is %d", m.Layers)
	case m.Heads%m.KVHeads != 0:
		return clara.Errorf(clara.Corrupt, "model description: num_attention_heads %d is not a multiple of num_key_value_heads %d", m.Heads, m.KVHeads)
	case m.NormEps <= 0:
		return clara.Errorf(clara.Corrupt, "model description: rms_norm_eps is %g", m.NormEps)
	case m.Sliding != nil && len(m.Sliding) != m.Layers:
		return clara.Errorf(clara.Corrupt, "model description: layer_types has %d entries for %d layers", len(m.Sliding), m.Layers)
	}
	if m.LocalRope != nil {
		if err := m.LocalRope.check(m.HeadDim); err != nil {
			return err
		}
	}
	return m.Rope.check(m.HeadDim)
}
