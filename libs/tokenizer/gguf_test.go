package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// vocab writes a fixture's tokenizer the way GGUF files do.
func vocab(t *testing.T, name, model, pre string) (tokenizer.Vocab, map[string]bool) {
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	var j struct {
		Tokenizer struct {
			AddedTokens []struct {
				ID      int
				Content string
				Special bool
			} `json:"added_tokens"`
			Model struct {
				Vocab  map[string]int
				Merges [][2]string
			}
		}
	}
	require.NoError(t, json.Unmarshal(b, &j))
	v := tokenizer.Vocab{Model: model, Pre: pre, BOS: tokenizer.None, EOS: tokenizer.None, Unk: tokenizer.None, Pad: tokenizer.None}
	n := len(j.Tokenizer.Model.Vocab)
	for _, a := range j.Tokenizer.AddedTokens {
		n = max(n, a.ID+1)
	}
	v.Tokens, v.Types, v.Scores = make([]string, n), make([]int32, n), make([]float32, n)
	for s, id := range j.Tokenizer.Model.Vocab {
		v.Tokens[id], v.Types[id] = s, 1
		if s == "<unk>" {
			v.Unk = int32(id)
		}
	}
	special := map[string]bool{}
	for _, a := range j.Tokenizer.AddedTokens {
		v.Tokens[a.ID], v.Types[a.ID] = a.Content, 4
		special[a.Content] = true
		if a.Special {
			v.Types[a.ID] = 3
		}
	}
	for i, m := range j.Tokenizer.Model.Merges {
		v.Merges = append(v.Merges, m[0]+" "+m[1])
		for id, s := range v.Tokens {
			if s == m[0]+m[1] {
				v.Scores[id] = -float32(i) - 1
			}
		}
	}
	return v, special
}

func TestFromVocabEqualsTheOriginal(t *testing.T) {
	for _, c := range []struct{ fixture, model, pre string }{
		{"gpt2", "gpt2", "default"}, {"smollm", "gpt2", "smollm"}, {"llama3", "gpt2", "llama-bpe"}, {"qwen", "gpt2", "qwen2"},
		{"phi4mini", "gpt2", "gpt-4o"}, {"tekken", "gpt2", "tekken"}, {"mistral", "llama", ""},
	} {
		t.Run(c.fixture, func(t *testing.T) {
			v, special := vocab(t, c.fixture, c.model, c.pre)
			tok, err := tokenizer.FromVocab(v)
			require.NoError(t, err)
			want := one(t, c.fixture)
			assert.Equal(t, want.Len(), tok.Len())
			for _, x := range fixturesOf(t, c.fixture)[0].cases {
				assert.Equal(t, want.Encode(x.text), tok.Encode(x.text), "%q", x.text)
			}
			assert.Len(t, tok.EncodeTrusted("<s></s>"), 2)
			assert.True(t, special["<s>"] && tok.IsSpecial(tok.ID("<s>")))
			assert.False(t, tok.IsSpecial(tok.ID("<think>")))
		})
	}
}

func TestFromVocabRefuses(t *testing.T) {
	v, _ := vocab(t, "gpt2", "gpt2", "klingon")
	_, err := tokenizer.FromVocab(v)
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
	assert.ErrorContains(t, err, "klingon")
	v.Model = "t5"
	_, err = tokenizer.FromVocab(v)
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
	v.Model, v.Scores = "llama", nil
	_, err = tokenizer.FromVocab(v)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}
