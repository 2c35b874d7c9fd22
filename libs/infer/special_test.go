package infer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// editJSON changes keys of a JSON file; a nil value takes the key away.
func editJSON(t *testing.T, path string, keys map[string]any) {
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(raw, &m))
	for k, v := range keys {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	raw, err = json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}

// TestSpecialCases runs models that are unlike most, from import to an answer out of one memory (spec clara-model §2, §3, §6).
func TestSpecialCases(t *testing.T) {
	for _, c := range []struct {
		name       string
		config     tinymodel.Config
		doc, rate  int
		base       func(t *testing.T, dir string) // changes the base
		checkpoint func(t *testing.T, dir string) // changes the checkpoint
		check      func(t *testing.T, e *infer.Engine)
	}{
		{name: "vocabulary that shrinks", config: tinymodel.Config{"vocab_size": 300}, doc: 40, rate: 10, check: func(t *testing.T, e *infer.Engine) {
			assert.Equal(t, tinymodel.Vocab+7, e.Manifest().Vocab, "fewer rows than the base's 300")
		}},
		{name: "vocabulary that shrinks, untied", config: tinymodel.Config{"vocab_size": 300, "tie_word_embeddings": false}, doc: 40, rate: 10, check: func(t *testing.T, e *infer.Engine) {
			assert.Equal(t, tinymodel.Vocab+7, e.Manifest().Vocab)
		}},
		{name: "no BOS", doc: 40, rate: 10, base: func(t *testing.T, dir string) {
			editJSON(t, filepath.Join(dir, "tokenizer_config.json"), map[string]any{"bos_token": nil, "additional_special_tokens": []string{"<unk>"}})
		}, check: func(t *testing.T, e *infer.Engine) {
			assert.EqualValues(t, 0, e.Clara().BOSID, "the first additional special token")
			assert.EqualValues(t, 0, e.Prompts().Encoder("x", 40)[1])
		}},
		{name: "untied after resize", config: tinymodel.Config{"tie_word_embeddings": false}, doc: 40, rate: 10, checkpoint: func(t *testing.T, dir string) {
			ck, err := checkpoint.Open(dir)
			require.NoError(t, err)
			head, err := ck.Head.Float32()
			require.NoError(t, err)
			table, err := ck.Embedding.Float32()
			require.NoError(t, err)
			assert.NotEqual(t, table[:100], head[:100])
			assert.Equal(t, ck.Embedding.Shape, ck.Head.Shape)
		}},
		{name: "several EOS ids", doc: 40, rate: 10, base: func(t *testing.T, dir string) {
			ids := make([]int, 0, 200) // whichever comes first ends the answer
			for id := 2; id < 202; id++ {
				ids = append(ids, id)
			}
			editJSON(t, filepath.Join(dir, "generation_config.json"), map[string]any{"eos_token_id": ids})
		}, check: func(t *testing.T, e *infer.Engine) {
			assert.Len(t, e.Manifest().EOS, 200)
			out, _, s, err := generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: []int32{1, 50, 60}}, MaxTokens: 100})
			require.NoError(t, err)
			assert.Equal(t, infer.FinishStop, s.Finish)
			for _, id := range out {
				assert.NotContains(t, e.Manifest().EOS, id)
			}
		}},
		{name: "template that refuses a system role", doc: 40, rate: 10, base: func(t *testing.T, dir string) {
			editJSON(t, filepath.Join(dir, "tokenizer_config.json"), map[string]any{"chat_template": "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"})
		}, check: func(t *testing.T, e *infer.Engine) {
			p, err := e.Prompts().Answer("Who?", 1, 0)
			require.NoError(t, err)
			assert.Contains(t, e.Tokenizer().Decode(p.IDs, false), "[user]You are a helpful assistant.")
		}},
		{name: "one repeated <MEM>", doc: 40, rate: 10, checkpoint: func(t *testing.T, dir string) {
			ck, err := checkpoint.Open(dir)
			require.NoError(t, err)
			ck.Config.DifferentMemTokens = false
			ck.Embedding = ck.Embedding.Rows(0, tinymodel.Vocab+4)
			src := tinyArch(t, filepath.Join(filepath.Dir(dir), "base"))
			require.NoError(t, ck.Write(dir, src))
		}, check: func(t *testing.T, e *infer.Engine) {
			mem := e.Clara().Mem
			assert.Equal(t, []int32{mem[0], mem[0], mem[0], mem[0]}, mem)
			assert.Equal(t, tinymodel.Vocab+4, e.Manifest().Vocab)
		}},
		{name: "m that does not divide the length", doc: 43, rate: 10, check: func(t *testing.T, e *infer.Engine) {
			assert.Equal(t, []int{4, 43}, []int{e.Manifest().M, e.Manifest().DocMaxLength})
		}},
		{name: "one memory token", doc: 40, rate: 40},
		{name: "sizes that are multiples of nothing", config: tinymodel.Config{"hidden_size": 42, "intermediate_size": 50, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 14}, doc: 40, rate: 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
			tinymodel.Base(t, base, tinymodel.Default().With(c.config), 1)
			if c.base != nil {
				c.base(t, base)
			}
			tinymodel.Checkpoint(t, ck, base, c.doc, c.rate, 1)
			if c.checkpoint != nil {
				c.checkpoint(t, ck)
			}
			for _, p := range []modelpkg.Precisions{{}, {Encoder: modelpkg.Int8, Reasoner: modelpkg.Int8Float, Decoder: modelpkg.Int4}} {
				pkg := filepath.Join(dir, "pkg"+p.String())
				_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck, Precision: p})
				require.NoError(t, err)
				e := open(t, pkg, infer.Options{Context: 400})
				if c.check != nil {
					c.check(t, e)
				}
				m := e.Manifest()
				memories, err := e.CompressTexts(t.Context(), []string{"", "x", string(make([]byte, 100))}) // empty, short and cut
				require.NoError(t, err)
				for _, x := range memories {
					assert.Equal(t, []int{m.M, m.H}, []int{x.M, x.H})
				}
				in, err := e.Prompts().Answer("Who?", 1, 0)
				require.NoError(t, err)
				filled, err := infer.Fill(in, []clara.Memory{memories[0]})
				require.NoError(t, err)
				ids, _, _, err := generate(t.Context(), e, infer.Request{Prompt: filled, Adapter: true, MaxTokens: 5, StopIDs: []int32{}})
				require.NoError(t, err)
				assert.Len(t, ids, 5)
			}
		})
	}
}

func tinyArch(t *testing.T, base string) arch.Model {
	raw, err := os.ReadFile(filepath.Join(base, "config.json"))
	require.NoError(t, err)
	m, err := arch.FromHF(raw, nil)
	require.NoError(t, err)
	return m
}
