package arch

import (
	"math"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/gguf"
)

// FromGGUF reads the architecture from a GGUF file's metadata and from the
// small tensors that hold rotary factors. Supported are llama (Mistral too),
// qwen2, qwen3, phi3, gemma2 and gemma3. Errors: Unsupported (the key is
// named), Corrupt.
func FromGGUF(f *gguf.File) (Model, error) {
	name := f.String("general.architecture", "")
	if !slices.Contains([]string{"llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"}, name) {
		return Model{}, clara.Errorf(clara.Unsupported, "read gguf %s: general.architecture %q is not supported; supported are llama, qwen2, qwen3, phi3, gemma2, gemma3", f.Path(), name)
	}
	if n := f.Int(name+".expert_count", 0); n > 0 {
		return Model{}, clara.Errorf(clara.Unsupported, "read gguf %s: %s.expert_count is %d: mixtures of experts are not supported", f.Path(), name, n)
	}
	key := func(k string) string { return name + "." + k }
	m := Model{
		Family:        name,
		Hidden:        f.Int(key("embedding_length"), 0),
		Intermediate:  f.Int(key("feed_forward_length"), 0),
		Layers:        f.Int(key("block_count"), 0),
		Heads:         f.Int(key("attention.head_count"), 0),
		MaxPositions:  f.Int(key("context_length"), 0),
		NormEps:       float64(float32(f.Float(key("attention.layer_norm_rms_epsilon"), 0))),
		TieEmbeddings: !f.Has("output.weight"),
		Activation:    SiLU,
		EmbedScale:    1,
		QKVBias:       f.Has("blk.0.attn_q.bias") || f.Has("blk.0.attn_qkv.bias"),
		OBias:         f.Has("blk.0.attn_output.bias"),
		MLPBias:       f.Has("blk.0.ffn_down.bias"),
		QKNorm:        f.Has("blk.0.attn_q_norm.weight"),
		FusedQKV:      f.Has("blk.0.attn_qkv.weight"),
		FusedGateUp:   name == "phi3",
		PostNorms:     f.Has("blk.0.post_ffw_norm.weight"),
		BOS:           f.Int("tokenizer.ggml.bos_token_id", -1),
		Pad:           f.Int("tokenizer.ggml.padding_token_id", -1),
	}
	m.KVHeads = f.Int(key("attention.head_count_kv"), m.Heads)
	if m.Heads > 0 {
		m.HeadDim = f.Int(key("attention.key_length"), m.Hidden/m.Heads)
	}
	if v := f.Int(key("attention.value_length"), m.HeadDim); v != m.HeadDim {
		return Model{}, clara.Errorf(clara.Unsupported, "read gguf %s: %s is %d where keys have %d", f.Path(), key("attention.value_length"), v, m.HeadDim)
	}
	embedding, err := f.Tensor("token_embd.weight")
	if err != nil {
		return Model{}, err
	}
	if len(embedding.Shape) == 2 {
		m.Vocab = embedding.Shape[0]
	}
	for _, k := range []string{"eos_token_id", "eot_token_id", "eom_token_id"} {
		if id := f.Int("tokenizer.ggml."+k, -1); id >= 0 && !slices.Contains(m.EOS, id) {
			m.EOS = append(m.EOS, id)
		}
	}
	m.AttentionScale = 1 / math.Sqrt(float64(m.HeadDim))
	if m.Rope, err = ggufRope(f, name, m); err != nil {
		return Model{}, err
	}
	ggufWindow(f, name, &m)
	if strings.HasPrefix(name, "gemma") {
		ggufGemma(f, name, &m)
	}
	if err := m.Check(); err != nil {
		return Model{}, clara.Errorf(clara.KindOf(err), "read gguf %s: %w", f.Path(), err)
	}
	return m, nil
}

// ggufWindow reads the sliding window; llama.cpp applies it to all layers of
// Phi-3 and alternates on Gemma.
func ggufWindow(f *gguf.File, name string, m *Model) {
	window := f.Int(name+".attention.sliding_window", 0)
	if window <= 0 || window >= m.MaxPositions || m.Layers <= 0 || m.Layers > maxDim {
		return
	}
	m.SlidingWindow = window
	switch name {
	case "gemma2":
		m.Sliding = everyButNth(m.Layers, 2)
	case "gemma3":
		m.Sliding = everyButNth(m.Layers, 6)
	default:
		m.Sliding = everyButNth(m.Layers, m.Layers+1)
	}
}

// ggufGemma settles what GGUF leaves to the reader for Gemma. Its norm weights
// are stored with the offset added.
func ggufGemma(f *gguf.File, name string, m *Model) {
	m.Family = map[string]string{"gemma2": "gemma2", "gemma3": "gemma3_text"}[name]
	m.Activation = GELUTanh
	m.EmbedScale = math.Sqrt(float64(m.Hidden))
	if name == "gemma3" {
		m.LocalRope = &Rope{Kind: RopeDefault, Theta: f.Float(name+".rope.freq_base_swa", 10000), Dim: m.HeadDim}
		if m.Layers == 62 && m.Heads > 0 { // the 27B model scales by hidden / heads
			m.AttentionScale = 1 / math.Sqrt(float64(m.Hidden/m.Heads))
		}
		return
	}
	m.ScaleMemories = true
	m.AttentionSoftcap = f.Float(name+".attn_logit_softcapping", 50)
	m.LogitSoftcap = f.Float(name+".final_logit_softcapping", 30)
	if m.Layers == 46 && m.Heads > 0 { // the 27B model scales by hidden / heads
		m.AttentionScale = 1 / math.Sqrt(float64(m.Hidden/m.Heads))
	}
}

func ggufRope(f *gguf.File, name string, m Model) (Rope, error) {
	key := func(k string) string { return name + ".rope." + k }
	r := Rope{
		Kind: RopeDefault, Theta: f.Float(key("freq_base"), 10000), Dim: f.Int(key("dimension_count"), m.HeadDim),
		Factor: f.Float(key("scaling.factor"), 0), AttentionFactor: f.Float(key("scaling.attn_factor"), 0),
		OriginalPositions: f.Int(key("scaling.original_context_length"), 0),
	}
	if f.Has("rope_factors_long.weight") {
		var err error
		if r.LongFactors, err = ggufFactors(f, "rope_factors_long.weight"); err != nil {
			return Rope{}, err
		}
		if r.ShortFactors, err = ggufFactors(f, "rope_factors_short.weight"); err != nil {
			return Rope{}, err
		}
		r.Kind, r.MaxPositions = RopeLongRope, m.MaxPositions
		return r, nil
	}
	if f.Has("rope_freqs.weight") {
		var err error
		r.Kind = RopeFactors
		r.ShortFactors, err = ggufFactors(f, "rope_freqs.weight")
		return r, err
	}
	switch kind := f.String(key("scaling.type"), "none"); kind {
	case "none":
	case "linear":
		r.Kind = RopeLinear
	case "yarn":
		r.Kind = RopeYarn
		if r.AttentionFactor != 0 { // on top of what yarn computes
			given := r.AttentionFactor
			r.AttentionFactor = 0
			r.AttentionFactor = given * r.yarnScale()
		}
		r.BetaFast, r.BetaSlow = f.Float(key("scaling.yarn_beta_fast"), 32), f.Float(key("scaling.yarn_beta_slow"), 1)
	default:
		return Rope{}, clara.Errorf(clara.Unsupported, "read gguf %s: %s %q is not supported", f.Path(), key("scaling.type"), kind)
	}
	return r, nil
}

// ggufFactors reads one factor a frequency.
func ggufFactors(f *gguf.File, name string) ([]float64, error) {
	t, err := f.Tensor(name)
	if err != nil {
		return nil, err
	}
	values, err := t.Float32()
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out, nil
}
