// Package tinymodel makes tiny random models for tests: a Hugging Face folder, a
// CLaRa checkpoint on it, and the model package of both. Equal seeds give equal
// files. A model of the default size runs in a millisecond and says nonsense.
//
// The tokenizer has one token a byte and the special tokens <unk>, <s> and
// </s>, so that every text has as many tokens as bytes.
package tinymodel

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/weights"
)

// Config is config.json of a Hugging Face model; Default is a llama.
type Config map[string]any

// Default returns a llama of two layers with all sizes different. The head is tied.
func Default() Config {
	return Config{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_act": "silu",
		"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
		"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
		"vocab_size": Vocab, "bos_token_id": 1, "eos_token_id": 2,
	}
}

// With returns the config with keys replaced.
func (c Config) With(keys Config) Config {
	out := Config{}
	for k, v := range c {
		out[k] = v
	}
	for k, v := range keys {
		out[k] = v
	}
	return out
}

// Vocab is the number of tokens of the tokenizer: three special ones and the bytes.
const Vocab = 259

const template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"

// Base writes the model of the config into dir.
func Base(t testing.TB, dir string, c Config, seed uint64) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	config := writeJSON(t, dir, "config.json", c)
	m, err := arch.FromHF(config, nil)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(seed, 1))
	var list []tensor.View
	for _, w := range m.Weights() {
		n, _ := w.Shape.Elements()
		data := make([]float32, n)
		// Loud enough that outputs differ clearly from token to token.
		scale, mean := 1.0, 0.0
		if len(w.Shape) == 2 && w.Name != arch.Embedding {
			scale = 1.5 / math.Sqrt(float64(w.Shape[1]))
		} else if len(w.Shape) == 1 {
			scale, mean = 0.1, 1
			if m.NormOffset != 0 || filepath.Ext(w.Name) == ".bias" {
				mean = 0
			}
		}
		for i := range data {
			data[i] = float32(mean + scale*r.NormFloat64())
		}
		list = append(list, tensor.FromFloat32(w.Name, w.Shape, data))
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), map[string]string{"format": "pt"}, list))

	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	for b, name := range byteNames() {
		vocab[name] = b + 3
	}
	var added []map[string]any
	for id, name := range []string{"<unk>", "<s>", "</s>"} {
		added = append(added, map[string]any{"id": id, "content": name, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	writeJSON(t, dir, "tokenizer.json", map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
		"pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []string{}},
	})
	writeJSON(t, dir, "tokenizer_config.json", map[string]any{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"})
	writeJSON(t, dir, "generation_config.json", map[string]any{"bos_token_id": 1, "eos_token_id": 2})
}

// Checkpoint writes a CLaRa checkpoint on the base into dir: m = docMaxLength / rate memory tokens,
// adapters of rank 4 for encoder, query reasoner and decoder, all of them at work.
func Checkpoint(t testing.TB, dir, base string, docMaxLength, rate int, seed uint64) {
	t.Helper()
	CheckpointOf(t, dir, base, docMaxLength, rate, 4, seed)
}

// CheckpointOf writes a random checkpoint on any base, a Hugging Face folder or a GGUF file, for tests
// that need the size of a real model.
func CheckpointOf(t testing.TB, dir, base string, docMaxLength, rate, rank int, seed uint64) {
	t.Helper()
	src, err := weights.Open(base)
	require.NoError(t, err)
	defer src.Close()
	m := src.Arch()
	r := rand.New(rand.NewPCG(seed, 2))
	random := func(name string, scale float64, shape ...int) tensor.View {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(scale * r.NormFloat64())
		}
		return tensor.FromFloat32(name, shape, data)
	}
	c := checkpoint.DefaultConfig()
	c.DecoderModelName, c.DocMaxLength, c.CompressRate, c.GenerationTopK, c.LoraR = base, docMaxLength, rate, 2, rank
	c.Sep, c.DifferentMemTokens, c.OptimizeMemTokens, c.TrainingStage = true, true, true, "stage2"
	k := &checkpoint.Checkpoint{Dir: dir, Config: c, Adapters: map[string]checkpoint.Adapter{}}
	for _, name := range []string{checkpoint.Encoder, checkpoint.QueryReasoner, checkpoint.Decoder} {
		a := checkpoint.Adapter{Name: name, Rank: rank, Tensors: map[string]tensor.View{}}
		for layer := range m.Layers {
			for _, l := range m.Linears() {
				ka, kb := checkpoint.AKey(layer, l.Name), checkpoint.BKey(layer, l.Name)
				a.Tensors[ka] = random(ka, 1/math.Sqrt(float64(l.In)), rank, l.In)
				a.Tensors[kb] = random(kb, 0.3/math.Sqrt(float64(rank)), l.Out, rank)
			}
		}
		k.Adapters[name] = a
	}
	// The tables have exactly as many rows as the tokenizer has tokens with the added ones (spec clara-model §2).
	tok, err := modelpkg.Tokenizer(src, base)
	require.NoError(t, err)
	resize := func(name string) tensor.View {
		v, err := src.Tensor(name)
		require.NoError(t, err)
		old, err := v.Float32()
		require.NoError(t, err)
		out := random(name, 0.1, tok.Len()+c.AddedTokens(), m.Hidden)
		data, err := out.Float32()
		require.NoError(t, err)
		copy(data, old[:min(len(old), len(data))])
		return tensor.FromFloat32(name, out.Shape, data)
	}
	k.Embedding = resize(arch.Embedding)
	if !m.TieEmbeddings {
		head := resize(arch.Head)
		k.Head = &head
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, k.Write(dir, m))
}

// Package makes a model package in a folder of the test and returns its path: of the config, with a
// checkpoint of m memory tokens for documents of up to 40 tokens, or without adapters if m is 0.
func Package(t testing.TB, c Config, m int) string {
	t.Helper()
	dir := t.TempDir()
	o := modelpkg.ImportOptions{Base: filepath.Join(dir, "base"), Name: fmt.Sprintf("tiny-m%d", m)}
	Base(t, o.Base, c, 1)
	if m > 0 {
		o.Checkpoint = filepath.Join(dir, "clara")
		Checkpoint(t, o.Checkpoint, o.Base, 40, 40/m, 1)
	}
	path := filepath.Join(dir, "package")
	_, err := modelpkg.Import(context.Background(), path, o)
	require.NoError(t, err)
	return path
}

// byteNames are the printable stand-ins that byte-level BPE has for bytes.
func byteNames() [256]string {
	var names [256]string
	next := rune(256)
	for b := range names {
		r := rune(b)
		if r < '!' || r > '~' && r < '¡' || r == 0xAD {
			r = next
			next++
		}
		names[b] = string(r)
	}
	return names
}

func writeJSON(t testing.TB, dir, name string, v any) []byte {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o644))
	return raw
}
