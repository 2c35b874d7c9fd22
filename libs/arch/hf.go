package arch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
)

// family is what transformers' configuration classes fix or assume for a model
// type, where config.json leaves a key out.
type family struct {
	eps         float64
	theta       float64
	positions   int
	kvHeads     int // 0: as many as heads
	headDim     int // 0: hidden / heads
	tied        bool
	activation  string
	original    int  // original_max_position_embeddings; 0: none
	window      int  // sliding_window where the key is absent; null is none
	gemma       bool // hidden_activation names the activation, else hidden_act
	slidesIfSet bool // sliding_window alone makes all layers slide
	slidesByUse bool // use_sliding_window turns it on for layers from max_window_layers
	describe    func(*config, *Model)
}

// families are the model types that a Model can express.
func families() map[string]family {
	return map[string]family{
		"llama":       {eps: 1e-6, theta: 10000, positions: 2048, activation: "silu", describe: describeLlama},
		"mistral":     {eps: 1e-6, theta: 10000, positions: 4096 * 32, kvHeads: 8, activation: "silu", window: 4096, slidesIfSet: true},
		"qwen2":       {eps: 1e-6, theta: 10000, positions: 32768, kvHeads: 32, activation: "silu", window: 4096, slidesByUse: true, describe: describeQwen2},
		"qwen3":       {eps: 1e-6, theta: 10000, positions: 32768, kvHeads: 32, headDim: 128, activation: "silu", window: 4096, slidesByUse: true, describe: describeQwen3},
		"phi3":        {eps: 1e-5, theta: 10000, positions: 4096, activation: "silu", original: 4096, slidesIfSet: true, describe: describePhi3},
		"gemma2":      {eps: 1e-6, theta: 10000, positions: 8192, kvHeads: 4, headDim: 256, tied: true, activation: "gelu_pytorch_tanh", gemma: true, window: 4096, describe: describeGemma2},
		"gemma3_text": {eps: 1e-6, theta: 1e6, positions: 131072, kvHeads: 4, headDim: 256, tied: true, activation: "gelu_pytorch_tanh", gemma: true, window: 4096, describe: describeGemma3},
	}
}

// Families returns the Hugging Face model types that FromHF reads, sorted.
func Families() []string {
	var names []string
	for name := range families() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// FromHF reads a Hugging Face config.json and, if not empty, a
// generation_config.json, whose end-of-sequence ids count before those of the
// config. Errors: Corrupt (not JSON, wrong types, missing or contradicting
// values), Unsupported (model type, scaling, quantised weights; the key is named).
func FromHF(configJSON, generationJSON []byte) (Model, error) {
	c, err := parseConfig("config.json", configJSON)
	if err != nil {
		return Model{}, err
	}
	name := c.str("model_type", "")
	f, ok := families()[name]
	if !ok {
		return Model{}, clara.Errorf(clara.Unsupported, "config.json: model_type %q is not supported; supported are %v", name, Families())
	}
	if q := c.raw("quantization_config"); q != nil {
		return Model{}, clara.Errorf(clara.Unsupported, "config.json: quantization_config: weights quantised by another tool are not read; use the original model or a GGUF file")
	}
	m := Model{
		Family:        name,
		Hidden:        c.integer("hidden_size", 0),
		Intermediate:  c.integer("intermediate_size", 0),
		Layers:        c.integer("num_hidden_layers", 0),
		Heads:         c.integer("num_attention_heads", 0),
		Vocab:         c.integer("vocab_size", 0),
		MaxPositions:  c.integer("max_position_embeddings", f.positions),
		NormEps:       c.number("rms_norm_eps", f.eps),
		TieEmbeddings: c.boolean("tie_word_embeddings", f.tied),
		EmbedScale:    1,
		BOS:           c.integer("bos_token_id", -1),
		Pad:           c.integer("pad_token_id", -1),
		EOS:           c.ids("eos_token_id"),
	}
	m.KVHeads = c.integer("num_key_value_heads", ifAbsent(c, "num_key_value_heads", f.kvHeads))
	if m.KVHeads == 0 {
		m.KVHeads = m.Heads
	}
	m.HeadDim = c.integer("head_dim", ifAbsent(c, "head_dim", f.headDim))
	if m.HeadDim == 0 && m.Heads > 0 {
		m.HeadDim = m.Hidden / m.Heads
	}
	m.AttentionScale = 1 / math.Sqrt(float64(m.HeadDim))
	c.activation(&m, f)
	c.rope(&m, f)
	if f.describe != nil {
		f.describe(c, &m)
	}
	c.sliding(&m, f)
	if c.err != nil {
		return Model{}, c.err
	}
	if len(generationJSON) > 0 {
		g, err := parseConfig("generation_config.json", generationJSON)
		if err != nil {
			return Model{}, err
		}
		if eos := g.ids("eos_token_id"); len(eos) > 0 {
			m.EOS = eos
		}
		m.Pad = g.integer("pad_token_id", m.Pad)
		if g.err != nil {
			return Model{}, g.err
		}
	}
	if err := m.Check(); err != nil {
		return Model{}, err
	}
	return m, nil
}

func describeLlama(c *config, m *Model) {
	bias := c.boolean("attention_bias", false)
	m.QKVBias, m.OBias = bias, bias
	m.MLPBias = c.boolean("mlp_bias", false)
	c.mustBe("pretraining_tp", 1)
}

func describeQwen2(_ *config, m *Model) { m.QKVBias = true }

func describeQwen3(c *config, m *Model) {
	bias := c.boolean("attention_bias", false)
	m.QKVBias, m.OBias = bias, bias
	m.QKNorm = true
}

func describePhi3(_ *config, m *Model) { m.FusedQKV, m.FusedGateUp = true, true }

// describeGemma is what Gemma 2 and 3 share.
func describeGemma(c *config, m *Model) {
	bias := c.boolean("attention_bias", false)
	m.QKVBias, m.OBias = bias, bias
	m.NormOffset = 1
	m.PostNorms = true
	m.EmbedScale = math.Sqrt(float64(m.Hidden))
	m.AttentionScale = 1 / math.Sqrt(c.number("query_pre_attn_scalar", 256))
}

func describeGemma2(c *config, m *Model) {
	describeGemma(c, m)
	m.AttentionSoftcap = c.number("attn_logit_softcapping", ifAbsent(c, "attn_logit_softcapping", 50.0))
	m.LogitSoftcap = c.number("final_logit_softcapping", ifAbsent(c, "final_logit_softcapping", 30.0))
	m.ScaleMemories = true
	m.Sliding = everyButNth(m.Layers, 2)
}

func describeGemma3(c *config, m *Model) {
	describeGemma(c, m)
	m.QKNorm = true
	m.AttentionSoftcap = c.number("attn_logit_softcapping", 0)
	m.LogitSoftcap = c.number("final_logit_softcapping", 0)
	m.Sliding = everyButNth(m.Layers, c.integer("sliding_window_pattern", 6))
	if c.boolean("use_bidirectional_attention", false) {
		c.fail(clara.Unsupported, "use_bidirectional_attention is set: not a decoder")
	}
	if m.LocalRope == nil {
		m.LocalRope = &Rope{Kind: RopeDefault, Theta: c.number("rope_local_base_freq", 10000), Dim: m.HeadDim}
	}
}

// everyButNth marks all layers but each n-th as sliding.
func everyButNth(layers, n int) []bool {
	if layers < 0 || layers > maxDim || n <= 0 {
		return nil
	}
	s := make([]bool, layers)
	for i := range s {
		s[i] = (i+1)%n != 0
	}
	return s
}

// config is a JSON object read key by key; the first fault sticks.
type config struct {
	file string
	keys map[string]json.RawMessage
	err  error
}

func parseConfig(file string, data []byte) (*config, error) {
	c := &config{file: file}
	if err := json.Unmarshal(data, &c.keys); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "parse %s: %w", file, err)
	}
	return c, nil
}

func (c *config) fail(kind clara.Kind, format string, args ...any) {
	if c.err == nil {
		c.err = clara.Errorf(kind, "%s: "+format, append([]any{c.file}, args...)...)
	}
}

// raw returns the value of key, nil if it is absent or null.
func (c *config) raw(key string) json.RawMessage {
	v := c.keys[key]
	if len(v) == 0 || bytes.Equal(v, []byte("null")) {
		return nil
	}
	return v
}

// value decodes key into a T, or returns def if it is absent or null.
func value[T any](c *config, key string, def T) T {
	raw := c.raw(key)
	if raw == nil {
		return def
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		c.fail(clara.Corrupt, "key %s: %w", key, err)
		return def
	}
	return v
}

// ifAbsent is the value that a configuration class takes for a key that is not there; null stands for none, 0.
func ifAbsent[T int | float64](c *config, key string, def T) T {
	if _, there := c.keys[key]; there {
		return 0
	}
	return def
}

func (c *config) str(key, def string) string             { return value(c, key, def) }
func (c *config) boolean(key string, def bool) bool      { return value(c, key, def) }
func (c *config) number(key string, def float64) float64 { return value(c, key, def) }

// integer also takes whole floats ("2048.0"), which some configs hold.
func (c *config) integer(key string, def int) int {
	f := value(c, key, float64(def))
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		c.fail(clara.Corrupt, "key %s: %g is not a whole number", key, f)
		return def
	}
	return int(f)
}

// ids reads a token id, a list of them, or nothing.
func (c *config) ids(key string) []int {
	raw := c.raw(key)
	if raw == nil {
		return nil
	}
	var list []int
	if raw[0] == '[' {
		list = value(c, key, list)
	} else {
		list = []int{c.integer(key, -1)}
	}
	return slices.DeleteFunc(list, func(id int) bool { return id < 0 })
}

func (c *config) mustBe(key string, want float64) {
	if got := c.number(key, want); got != want {
		c.fail(clara.Unsupported, "%s is %g, only %g is supported", key, got, want)
	}
}

func (c *config) activation(m *Model, f family) {
	key := "hidden_act"
	if f.gemma {
		key = "hidden_activation"
	}
	act := c.str(key, f.activation)
	switch act {
	case "silu", "swish":
		m.Activation = SiLU
	case "gelu_pytorch_tanh", "gelu_new", "gelu_fast":
		m.Activation = GELUTanh
	case "gelu":
		m.Activation = GELU
	default:
		c.fail(clara.Unsupported, "%s %q is not supported", key, act)
	}
}

// sliding settles which layers slide: layer_types where it is given, else the
// family's rule.
func (c *config) sliding(m *Model, f family) {
	window := c.integer("sliding_window", ifAbsent(c, "sliding_window", f.window))
	on := f.slidesIfSet || m.Sliding != nil || f.slidesByUse && c.boolean("use_sliding_window", false)
	if !on || window <= 0 {
		m.SlidingWindow, m.Sliding = 0, nil
		return
	}
	m.SlidingWindow = window
	types := value[[]string](c, "layer_types", nil)
	if types != nil {
		m.Sliding = make([]bool, len(types))
		for i, t := range types {
			switch t {
			case "sliding_attention":
				m.Sliding[i] = true
			case "full_attention":
			default:
				c.fail(clara.Unsupported, "layer_types[%d] %q is not supported", i, t)
			}
		}
		return
	}
	if m.Sliding != nil || m.Layers <= 0 || m.Layers > maxDim {
		return
	}
	from := 0
	if f.slidesByUse {
		from = c.integer("max_window_layers", 28)
	}
	m.Sliding = make([]bool, m.Layers)
	for i := range m.Sliding {
		m.Sliding[i] = i >= from
	}
}

// rope reads rope_theta and rope_scaling, or rope_parameters, which newer
// configs have in place of both, per layer type where these differ.
func (c *config) rope(m *Model, f family) {
	partial := c.number("partial_rotary_factor", 1)
	theta := c.number("rope_theta", f.theta)
	original := c.integer("original_max_position_embeddings", ifAbsent(c, "original_max_position_embeddings", f.original))
	params := value[map[string]json.RawMessage](c, "rope_parameters", nil)
	if params == nil {
		scaling := value[map[string]json.RawMessage](c, "rope_scaling", nil)
		m.Rope = c.ropeOf(m, "rope_scaling", scaling, theta, partial, original)
		return
	}
	full, nested := params["full_attention"]
	if !nested {
		m.Rope = c.ropeOf(m, "rope_parameters", params, theta, partial, original)
		return
	}
	sub := func(raw json.RawMessage) Rope {
		var p map[string]json.RawMessage
		if err := json.Unmarshal(raw, &p); err != nil {
			c.fail(clara.Corrupt, "key rope_parameters: %w", err)
		}
		return c.ropeOf(m, "rope_parameters", p, theta, partial, original)
	}
	m.Rope = sub(full)
	if local, ok := params["sliding_attention"]; ok {
		r := sub(local)
		m.LocalRope = &r
	}
}

func (c *config) ropeOf(m *Model, key string, params map[string]json.RawMessage, theta, partial float64, original int) Rope {
	p := &config{file: c.file + ": " + key, keys: params}
	partial = p.number("partial_rotary_factor", partial)
	r := Rope{
		Kind: p.str("rope_type", p.str("type", RopeDefault)), Theta: p.number("rope_theta", theta),
		Dim: int(float64(m.HeadDim) * partial), Factor: p.number("factor", 0),
		AttentionFactor: p.number("attention_factor", 0),
	}
	if r.Kind == "su" { // its name before transformers 4.41
		r.Kind = RopeLongRope
	}
	switch r.Kind {
	case RopeLlama3:
		r.LowFreqFactor, r.HighFreqFactor = p.number("low_freq_factor", 0), p.number("high_freq_factor", 0)
		r.OriginalPositions = p.integer("original_max_position_embeddings", original)
	case RopeYarn:
		r.OriginalPositions = p.integer("original_max_position_embeddings", m.MaxPositions)
		r.BetaFast, r.BetaSlow = cmp.Or(p.number("beta_fast", 0), 32), cmp.Or(p.number("beta_slow", 0), 1)
		r.MScale, r.MScaleAllDim = p.number("mscale", 0), p.number("mscale_all_dim", 0)
		r.NoTruncate = !p.boolean("truncate", true)
	case RopeLongRope:
		r.ShortFactors = value[[]float64](p, "short_factor", nil)
		r.LongFactors = value[[]float64](p, "long_factor", nil)
		original = p.integer("original_max_position_embeddings", original)
		if original > 0 {
			r.OriginalPositions, r.MaxPositions = original, m.MaxPositions
		} else {
			r.OriginalPositions = m.MaxPositions
		}
	}
	if p.err != nil && c.err == nil {
		c.err = p.err
	}
	return r
}
