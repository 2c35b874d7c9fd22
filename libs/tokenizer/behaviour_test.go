package tokenizer_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tokenizer"
)

func one(t testing.TB, name string) *tokenizer.Tokenizer {
	return fixturesOf(t, name)[0].tok
}

func TestPlainTextNeverYieldsAddedTokens(t *testing.T) {
	hostile := "</s> <s> <|im_end|> <think> <mask> a token b <sep> <MEM0><SEP><AE><ENC> <<s>> </s"
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			tok, err := f.tok.AddSpecialTokens("<MEM0>", "<AE>", "<ENC>", "<SEP>")
			require.NoError(t, err)
			for _, text := range append([]string{hostile}, texts(f)...) {
				for _, id := range tok.Encode(text) {
					if name := tok.Name(id); tok.IsAdded(id) {
						assert.Contains(t, []string{"<unk>", "[UNK]"}, name, "%q", text)
					}
				}
				if text == "" {
					continue
				}
				// The same text amid trusted text: only what is trusted is recognised.
				const before, after = "<AE>x<", "s><SEP>"
				breaks := tok.Breaks(text)
				for i := range breaks {
					breaks[i] += len(before)
				}
				n := 0
				for _, k := range tok.EncodeMixedOffsets(before+text+after, breaks) {
					if tok.IsAdded(k.ID) && tok.Name(k.ID) != "<unk>" && tok.Name(k.ID) != "[UNK]" {
						n++
						assert.Contains(t, []string{"<AE>", "<SEP>"}, tok.Name(k.ID), "%q", text)
					}
				}
				assert.Equal(t, 2, n, "%q", text)
			}
		})
	}
}

func texts(f fixture) []string {
	var out []string
	for _, c := range f.cases {
		if utf8.ValidString(c.text) {
			out = append(out, c.text)
		}
	}
	return out
}

func TestTextWithoutTokensHasNoBreaks(t *testing.T) {
	tok := one(t, "qwen")
	for _, text := range []string{"", " ", "The river Alder rises.", "a < b > c", "x|y"} {
		assert.LessOrEqual(t, len(tok.Breaks(text)), 1, text)
		assert.Equal(t, tok.Encode(text), tok.EncodeTrusted(text), text)
	}
	assert.Empty(t, tok.Breaks("The river Alder rises in the northern hills."))
}

func TestStreamGivesTheWholeText(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			for _, c := range f.cases {
				s := f.tok.NewStream(false)
				var out strings.Builder
				for _, id := range c.ids {
					piece := s.Push(id)
					assert.True(t, utf8.ValidString(piece))
					out.WriteString(piece)
				}
				out.WriteString(s.Flush())
				if strings.HasPrefix(f.name, "bert") || f.name == "strip_nfd" {
					continue // WordPiece's cleaning looks across tokens
				}
				assert.Equal(t, c.decoded, out.String(), "%q", c.text)
			}
		})
	}
}

func TestMergesNeverSpellSpecialTokens(t *testing.T) {
	for _, ignore := range []string{"true", "false"} {
		b := []byte(`{"added_tokens":[{"id":5,"content":"<s>","special":true}],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},
			"model":{"type":"BPE","ignore_merges":` + ignore + `,"vocab":{"<":0,"s":1,">":2,"<s":3,"s>":4,"<s>":5},"merges":["< s","<s >"]}}`)
		tok, err := tokenizer.Parse(tokenizer.Files{Tokenizer: b})
		require.NoError(t, err)
		assert.Equal(t, []int32{3, 2}, tok.Encode("<s>"))
		assert.Equal(t, []int32{5}, tok.EncodeTrusted("<s>"))
	}
}

func TestStreamHoldsBackUnfinishedRunes(t *testing.T) {
	tok := one(t, "gpt2")
	s := tok.NewStream(false)
	ids := tok.Encode("🙂")
	require.Len(t, ids, 4)
	for _, id := range ids[:3] {
		assert.Empty(t, s.Push(id))
	}
	assert.Equal(t, "🙂", s.Push(ids[3]))
	assert.Empty(t, s.Push(ids[0]))
	assert.Equal(t, "\uFFFD", s.Flush())
}

func TestOffsetsOfByteLevelTokensCoverTheText(t *testing.T) {
	tok := one(t, "llama3")
	for _, text := range []string{"Hello wörld, 中文 🙂 123\n\n x", strings.Repeat("abc", 100)} {
		var back strings.Builder
		at := 0
		for _, k := range tok.EncodeOffsets(text) {
			assert.Equal(t, at, k.Start)
			back.WriteString(text[k.Start:k.End])
			at = k.End
		}
		assert.Equal(t, text, back.String())
	}
}

func TestLongWordsTakeLinearTime(t *testing.T) {
	for _, name := range []string{"gpt2", "mistral", "bert"} {
		tok := one(t, name)
		for _, text := range []string{strings.Repeat("a", 60_000), strings.Repeat("中", 60_000), strings.Repeat("<", 60_000), strings.Repeat(" ", 60_000)} {
			assert.NotEmpty(t, append(tok.Encode(text), 0))
			assert.NotEmpty(t, append(tok.EncodeTrusted(text), 0))
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	for _, name := range []string{"gpt2", "mistral"} {
		tok := one(t, name)
		want := tok.Encode("The compressor turns a long document into memory vectors.")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					assert.Equal(t, want, tok.Encode("The compressor turns a long document into memory vectors."))
				}
			})
		}
		wg.Wait()
	}
}

func TestNewClara(t *testing.T) {
	base := one(t, "gpt2")
	_, err := tokenizer.NewClara(base, 0, true)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = tokenizer.NewClara(base, 2, true)
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "no tokens to begin or end with")

	file := func(config string) tokenizer.Files {
		b := []byte(`{"added_tokens":[{"id":3,"content":"<e>","special":true},{"id":4,"content":"<b>","special":true}],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},
			"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`)
		return tokenizer.Files{Tokenizer: b, Config: []byte(config)}
	}
	base, err = tokenizer.Parse(file(`{"eos_token":{"content":"<e>"},"additional_special_tokens":["<b>"]}`))
	require.NoError(t, err)
	assert.Equal(t, 5, base.Len())
	c, err := tokenizer.NewClara(base, 2, true)
	require.NoError(t, err)
	assert.Equal(t, []int32{5, 6}, c.Mem)
	assert.Equal(t, []int32{7, 8, 9}, []int32{c.AE, c.Enc, c.Sep})
	assert.Equal(t, []int32{4, 3, 4}, []int32{c.BOSID, c.EOSID, c.PadID}, "bos is the first additional token, pad is bos")
	assert.Equal(t, 10, c.Len())
	assert.Equal(t, "<MEM0><MEM1><SEP>", c.SlotText())
	c, err = tokenizer.NewClara(base, 3, false)
	require.NoError(t, err)
	assert.Equal(t, []int32{5, 5, 5}, c.Mem)
	assert.Equal(t, 9, c.Len())
	assert.Equal(t, []int32{5, 5, 5, 8}, c.EncodeTrusted(c.SlotText()))
	assert.Equal(t, []int32{2, 0}, c.Encode("aba"))
}

func TestErrors(t *testing.T) {
	_, err := tokenizer.Load(t.TempDir())
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	for _, c := range []struct {
		name, json string
		kind       clara.Kind
	}{
		{"not json", `{`, clara.Invalid},
		{"unigram", `{"model":{"type":"Unigram","vocab":[["a",0]]}}`, clara.Unsupported},
		{"precompiled", `{"normalizer":{"type":"Precompiled"},"model":{"type":"BPE","vocab":{},"merges":[]}}`, clara.Unsupported},
		{"merge of nothing", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, clara.Invalid},
		{"negative id", `{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}`, clara.Invalid},
		{"huge id", `{"model":{"type":"BPE","vocab":{"a":2000000000},"merges":[]}}`, clara.Invalid},
		{"bad pattern", `{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},"model":{"type":"BPE","vocab":{},"merges":[]}}`, clara.Unsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tokenizer.Parse(tokenizer.Files{Tokenizer: []byte(c.json)})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
		})
	}
}

func FuzzEncode(f *testing.F) {
	all := fixtures(f)
	for _, s := range []string{"Hello world", "\xff\xfe", " \n\u0301<s>", "ſ's中"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, x := range all {
			plain, trusted := x.tok.Encode(s), x.tok.EncodeTrusted(s)
			x.tok.Decode(trusted, true)
			if utf8.ValidString(s) {
				switch x.name {
				case "gpt2", "llama3", "smollm", "phi4mini", "tekken":
					if got := x.tok.Decode(plain, false); got != s {
						t.Fatalf("%s: %q came back as %q", x.name, s, got)
					}
				}
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	dir := os.Getenv("CLARA_BENCH_TOKENIZER") // a folder with tokenizer.json and text.txt
	var tok *tokenizer.Tokenizer
	text := strings.Repeat("The compressor turns a long document into a few memory vectors, since 2019. ", 2000)
	if dir == "" {
		tok = one(b, "llama3")
	} else {
		var err error
		tok, err = tokenizer.Load(dir)
		require.NoError(b, err)
		raw, err := os.ReadFile(filepath.Join(dir, "text.txt"))
		require.NoError(b, err)
		text = string(raw)
	}
	n := 0
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		n = len(tok.Encode(text))
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// TestBytes: the bytes of a text's tokens are those of the text.
func TestBytes(t *testing.T) {
	for _, name := range []string{"gpt2", "llama3", "mistral", "mistral_metaspace", "qwen", "smollm", "gemma", "tekken", "phi4mini"} {
		f := fixturesOf(t, name)[0]
		t.Run(f.name, func(t *testing.T) {
			for _, text := range []string{"The river Alder rises.", "{\"a\": [1, 2.5]}\n", "港口 é 🙂"} {
				var got strings.Builder
				for _, id := range f.tok.Encode(text) {
					got.WriteString(f.tok.Bytes(id))
				}
				assert.Equal(t, strings.TrimSpace(text), strings.TrimSpace(got.String()))
			}
			for id := range int32(f.tok.Len()) {
				if f.tok.IsAdded(id) {
					assert.Empty(t, f.tok.Bytes(id))
				}
			}
			assert.Empty(t, f.tok.Bytes(-1))
			assert.Empty(t, f.tok.Bytes(int32(f.tok.Len())))
		})
	}
	assert.Empty(t, one(t, "bert").Bytes(100), "words without blanks can't be put together again")
}
