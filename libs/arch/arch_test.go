package arch_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// sizes are keys that every family has, all different.
const sizes = `"hidden_size":48,"intermediate_size":40,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":30,"max_position_embeddings":128`

func fromHF(t *testing.T, family, more string) arch.Model {
	t.Helper()
	m, err := arch.FromHF([]byte(`{"model_type":"`+family+`",`+sizes+more+`}`), nil)
	require.NoError(t, err)
	return m
}

func shapes(m arch.Model) map[string]tensor.Shape {
	s := map[string]tensor.Shape{}
	for _, w := range m.Weights() {
		s[w.Name] = w.Shape
	}
	return s
}

func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		family, more string
		check        func(*testing.T, arch.Model)
	}{
		{"llama", "", func(t *testing.T, m arch.Model) {
			assert.Equal(t, 12, m.HeadDim)
			assert.False(t, m.QKVBias || m.TieEmbeddings || m.QKNorm)
			assert.Len(t, m.Weights(), 3+3*9)
			assert.Equal(t, tensor.Shape{24, 48}, shapes(m)["model.layers.2.self_attn.k_proj.weight"])
			assert.Equal(t, tensor.Shape{30, 48}, shapes(m)[arch.Head])
			assert.InDelta(t, 1/math.Sqrt(12), m.AttentionScale, 1e-15)
		}},
		{"llama", `,"attention_bias":true,"mlp_bias":true,"tie_word_embeddings":true,"head_dim":16`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, tensor.Shape{64}, shapes(m)["model.layers.0.self_attn.q_proj.bias"])
			assert.Equal(t, tensor.Shape{48, 64}, shapes(m)["model.layers.0.self_attn.o_proj.weight"])
			assert.Contains(t, shapes(m), "model.layers.0.mlp.down_proj.bias")
			assert.NotContains(t, shapes(m), arch.Head)
		}},
		{"mistral", `,"sliding_window":16,"head_dim":null`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, 16, m.SlidingWindow)
			assert.True(t, m.IsSliding(0) && m.IsSliding(2))
		}},
		{"mistral", `,"sliding_window":null`, func(t *testing.T, m arch.Model) { assert.False(t, m.IsSliding(0)) }},
		{"qwen2", `,"use_sliding_window":false,"sliding_window":16`, func(t *testing.T, m arch.Model) {
			assert.True(t, m.QKVBias)
			assert.False(t, m.OBias)
			assert.Zero(t, m.SlidingWindow)
		}},
		{"qwen2", `,"use_sliding_window":true,"sliding_window":16,"max_window_layers":1`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, []bool{false, true, true}, m.Sliding)
		}},
		{"qwen3", `,"head_dim":10`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, tensor.Shape{10}, shapes(m)["model.layers.1.self_attn.q_norm.weight"])
			assert.Equal(t, tensor.Shape{40, 48}, shapes(m)["model.layers.0.self_attn.q_proj.weight"])
		}},
		{"phi3", `,"partial_rotary_factor":0.5,"tie_word_embeddings":true`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, 6, m.Rope.Dim)
			assert.Equal(t, tensor.Shape{48 + 2*24, 48}, shapes(m)["model.layers.0.self_attn.qkv_proj.weight"])
			assert.Equal(t, tensor.Shape{80, 48}, shapes(m)["model.layers.0.mlp.gate_up_proj.weight"])
			assert.Len(t, m.Linears(), 4)
		}},
		{"gemma2", `,"head_dim":16,"query_pre_attn_scalar":64,"sliding_window":16`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, []bool{true, false, true}, m.Sliding)
			assert.InDelta(t, 1, m.NormOffset, 0)
			assert.InDelta(t, math.Sqrt(48), m.EmbedScale, 1e-12)
			assert.InDelta(t, 0.125, m.AttentionScale, 1e-15)
			assert.InDelta(t, 50, m.AttentionSoftcap, 0)
			assert.Equal(t, arch.GELUTanh, m.Activation)
			assert.True(t, m.TieEmbeddings)
			assert.Contains(t, shapes(m), "model.layers.0.post_feedforward_layernorm.weight")
		}},
		{"gemma3_text", `,"head_dim":16,"sliding_window":16,"layer_types":["sliding_attention","sliding_attention","full_attention"],"rope_scaling":{"rope_type":"linear","factor":8}`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, arch.RopeLinear, m.LayerRope(2).Kind)
			assert.Equal(t, arch.RopeDefault, m.LayerRope(0).Kind)
			assert.InDelta(t, 10000, m.LayerRope(0).Theta, 0)
			assert.True(t, m.QKNorm)
		}},
		{"gemma3_text", `,"head_dim":16,"rope_parameters":{"full_attention":{"rope_type":"default","rope_theta":5000},"sliding_attention":{"rope_type":"default","rope_theta":70}}`, func(t *testing.T, m arch.Model) {
			assert.InDelta(t, 5000, m.Rope.Theta, 0)
			assert.InDelta(t, 70, m.LocalRope.Theta, 0)
		}},
		{"mistral", `,"num_key_value_heads":null`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, 4, m.KVHeads, "null is as many as heads, where an absent key is 8")
			assert.Equal(t, 4096, m.SlidingWindow, "an absent key is the class's, where null is none")
		}},
		{"qwen2", `,"use_sliding_window":true,"max_window_layers":0`, func(t *testing.T, m arch.Model) { assert.Equal(t, 4096, m.SlidingWindow) }},
		{"gemma2", `,"head_dim":16,"attn_logit_softcapping":null,"final_logit_softcapping":null,"hidden_act":"gelu"`, func(t *testing.T, m arch.Model) {
			assert.Zero(t, m.AttentionSoftcap)
			assert.Zero(t, m.LogitSoftcap)
			assert.Equal(t, arch.GELUTanh, m.Activation, "hidden_activation counts")
			assert.True(t, m.ScaleMemories)
		}},
		{"phi3", `,"rope_scaling":{"type":"longrope","short_factor":[1,1,1,1,1,1],"long_factor":[2,2,2,2,2,2]}`, func(t *testing.T, m arch.Model) {
			assert.Equal(t, 4096, m.Rope.OriginalPositions)
		}},
		{"llama", `,"rope_parameters":{"rope_type":"default","rope_theta":5000}`, func(t *testing.T, m arch.Model) {
			assert.InDelta(t, 5000, m.Rope.Theta, 0)
		}},
	} {
		t.Run(c.family+c.more, func(t *testing.T) { c.check(t, fromHF(t, c.family, c.more)) })
	}
}

func TestEndOfSequence(t *testing.T) {
	config := `{"model_type":"llama",` + sizes + `,"eos_token_id":[3,4],"bos_token_id":1}`
	for _, c := range []struct {
		name, generation string
		want             []int
	}{
		{"config", "", []int{3, 4}},
		{"generation config wins", `{"eos_token_id":[5,6]}`, []int{5, 6}},
		{"one id", `{"eos_token_id":7}`, []int{7}},
		{"null", `{"eos_token_id":null}`, []int{3, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := arch.FromHF([]byte(config), []byte(c.generation))
			require.NoError(t, err)
			assert.Equal(t, c.want, m.EOS)
			assert.Equal(t, 1, m.BOS)
			assert.Equal(t, -1, m.Pad)
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, config string
		kind         clara.Kind
		text         string
	}{
		{"not json", `x`, clara.Corrupt, "config.json"},
		{"family", `{"model_type":"mamba"}`, clara.Unsupported, `"mamba"`},
		{"quantised", `{"model_type":"llama",` + sizes + `,"quantization_config":{}}`, clara.Unsupported, "quantization_config"},
		{"activation", `{"model_type":"llama",` + sizes + `,"hidden_act":"relu2"}`, clara.Unsupported, "relu2"},
		{"rope", `{"model_type":"llama",` + sizes + `,"rope_scaling":{"type":"dynamic","factor":2}}`, clara.Unsupported, "dynamic"},
		{"layer type", `{"model_type":"mistral",` + sizes + `,"sliding_window":4,"layer_types":["linear_attention"]}`, clara.Unsupported, "linear_attention"},
		{"missing", `{"model_type":"llama"}`, clara.Corrupt, "hidden_size"},
		{"negative", `{"model_type":"llama",` + sizes + `,"head_dim":-2}`, clara.Corrupt, "head_dim"},
		{"fraction", `{"model_type":"llama",` + sizes + `,"head_dim":1.5}`, clara.Corrupt, "head_dim"},
		{"text", `{"model_type":"llama",` + sizes + `,"rope_theta":"x"}`, clara.Corrupt, "rope_theta"},
		{"odd head", `{"model_type":"llama",` + sizes + `,"head_dim":7}`, clara.Corrupt, "7 rotated"},
		{"long factors", `{"model_type":"phi3",` + sizes + `,"original_max_position_embeddings":64,"rope_scaling":{"type":"longrope","short_factor":[1],"long_factor":[1]}}`, clara.Corrupt, "6 frequencies"},
		{"layers", `{"model_type":"llama",` + sizes + `,"num_hidden_layers":1e15}`, clara.Corrupt, "num_hidden_layers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := arch.FromHF([]byte(c.config), nil)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
			assert.ErrorContains(t, err, c.text)
		})
	}
}

// The expected figures were computed apart, in float32, from the published formulas.
func TestFrequencies(t *testing.T) {
	for _, c := range []struct {
		name   string
		rope   arch.Rope
		length int
		want   map[int]float32
		scale  float64
	}{
		{"default", arch.Rope{Kind: arch.RopeDefault, Theta: 10000, Dim: 8}, 1, map[int]float32{0: 1, 1: 0.1, 2: 0.01, 3: 0.001}, 1},
		{"linear", arch.Rope{Kind: arch.RopeLinear, Theta: 10000, Dim: 8, Factor: 4}, 1, map[int]float32{0: 0.25, 3: 0.00025}, 1},
		{"factors", arch.Rope{Kind: arch.RopeFactors, Theta: 10000, Dim: 4, ShortFactors: []float64{1, 2}}, 1, map[int]float32{0: 1, 1: 0.005}, 1},
		{"llama3", arch.Rope{Kind: arch.RopeLlama3, Theta: 500000, Dim: 64, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 8192}, 1, map[int]float32{0: 1, 1: 0.66360122, 14: 0.0032114461, 15: 0.0013718937, 16: 0.00052484602, 17: 0.00017850779, 18: 7.7846555e-05, 31: 3.7673229e-07}, 1},
		{"yarn", arch.Rope{Kind: arch.RopeYarn, Theta: 1e6, Dim: 32, Factor: 4, OriginalPositions: 32768, BetaFast: 32, BetaSlow: 1}, 1, map[int]float32{0: 1, 5: 0.013335215, 6: 0.0047799014, 7: 0.0016599617, 8: 0.00055, 9: 0.00016867861, 10: 4.4456985e-05, 15: 5.9284343e-07}, 1.138629436111989},
		{"longrope, short", arch.Rope{Kind: arch.RopeLongRope, Theta: 10000, Dim: 4, ShortFactors: []float64{1, 2}, LongFactors: []float64{4, 5}, OriginalPositions: 4096, MaxPositions: 131072}, 4096, map[int]float32{0: 1, 1: 0.005}, math.Sqrt(1 + math.Log(32)/math.Log(4096))},
		{"longrope, long", arch.Rope{Kind: arch.RopeLongRope, Theta: 10000, Dim: 4, ShortFactors: []float64{1, 2}, LongFactors: []float64{4, 5}, OriginalPositions: 4096, MaxPositions: 131072}, 4097, map[int]float32{0: 0.25, 1: 0.002}, math.Sqrt(1 + math.Log(32)/math.Log(4096))},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv, scale := c.rope.Frequencies(c.length)
			assert.Len(t, inv, c.rope.Dim/2)
			for i, want := range c.want {
				assert.InEpsilon(t, want, inv[i], 3e-7, fmt.Sprint(i))
			}
			assert.InDelta(t, c.scale, float64(scale), 1e-7)
		})
	}
}

func ExampleFromHF() {
	m, err := arch.FromHF([]byte(`{"model_type":"llama",`+sizes+`}`), nil)
	fmt.Println(m.HeadDim, m.Parameters(), err)
	// Output: 12 41232 <nil>
}
