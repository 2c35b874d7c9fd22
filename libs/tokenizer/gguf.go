package tokenizer

import (
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/clara-suite/clara/libs/clara"
)

// Vocab is the tokenizer inside a GGUF file: the values of its `tokenizer.*` keys. Ids that a file lacks are None.
type Vocab struct {
	Model  string    // tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (sentencepiece BPE)
	Pre    string    // tokenizer.ggml.pre: which pattern cuts the text, for "gpt2"
	Tokens []string  // tokenizer.ggml.tokens, by id
	Scores []float32 // tokenizer.ggml.scores, for "llama"
	Types  []int32   // tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
	Merges []string  // tokenizer.ggml.merges, "a b", best first

	BOS, EOS, Unk, Pad int32
	AddBOS, AddEOS     bool
	// NoSpacePrefix is tokenizer.ggml.add_space_prefix given and false.
	NoSpacePrefix bool
	ChatTemplate  string // tokenizer.chat_template
}

const (
	typeUnknown = 2
	typeControl = 3
	typeUser    = 4
)

// FromVocab builds the tokenizer of a GGUF file, such that ids are those of the Hugging Face tokenizer that the
// file was made from. It returns Unsupported for a model or Pre it does not know, naming it.
func FromVocab(v Vocab) (*Tokenizer, error) {
	ids := make(map[string]int32, len(v.Tokens))
	var added []addedToken
	for i, name := range v.Tokens {
		if old, ok := ids[name]; ok {
			return nil, clara.Errorf(clara.Invalid, "build tokenizer: token %q has the ids %d and %d", name, old, i)
		}
		ids[name] = int32(i)
		if i < len(v.Types) && (v.Types[i] == typeControl || v.Types[i] == typeUser || v.Types[i] == typeUnknown) {
			added = append(added, addedToken{content: name, id: int32(i), special: v.Types[i] != typeUser})
		}
	}
	name := func(id int32) string {
		if id < 0 || int(id) >= len(v.Tokens) {
			return ""
		}
		return v.Tokens[id]
	}
	t := &Tokenizer{template: v.ChatTemplate}
	t.special = Special{BOS: name(v.BOS), EOS: name(v.EOS), Pad: name(v.Pad), Unk: name(v.Unk)}
	var m *bpe
	var err error
	switch v.Model {
	case "gpt2":
		m = newBPE(ids, v.Tokens, true)
		if err := t.setPre(v.Pre, m); err != nil {
			return nil, err
		}
		t.decoders = []decoder{decodeByteLevel}
		merges := make([][2]string, len(v.Merges))
		for i, line := range v.Merges {
			a, b, ok := strings.Cut(line, " ")
			if !ok || strings.Contains(b, " ") {
				return nil, clara.Errorf(clara.Invalid, "build tokenizer: merge %q is not a pair", line)
			}
			merges[i] = [2]string{a, b}
		}
		err = m.setMerges(merges)
		// Files of models without a BOS (Qwen) name one all the same and say that it is not used.
		if !v.AddBOS && isQwen(v.Pre) {
			t.special.BOS = ""
			for _, a := range added {
				if a.special && strings.HasPrefix(a.content, "<|im_") || strings.HasPrefix(a.content, "<|object_") {
					t.special.Additional = append(t.special.Additional, a.content)
				}
			}
		}
	case "llama":
		if len(v.Scores) != len(v.Tokens) {
			return nil, clara.Errorf(clara.Invalid, "build tokenizer: %d scores for %d tokens", len(v.Scores), len(v.Tokens))
		}
		m = newBPE(ids, v.Tokens, false)
		m.byteFallback, m.fuseUnk, m.unk = true, true, v.Unk
		if !v.NoSpacePrefix {
			t.normalizers = append(t.normalizers, prepend("▁"))
		}
		t.normalizers = append(t.normalizers, replaceString(" ", "▁"))
		t.decoders = []decoder{decodeReplace("▁", " "), decodeBytes, decodeFuse}
		if !v.NoSpacePrefix {
			t.decoders = append(t.decoders, decodeStrip(" ", 1, 0))
		}
		err = m.setMerges(mergesByScore(ids, v.Tokens, v.Scores))
	default:
		return nil, clara.Errorf(clara.Unsupported, "build tokenizer: GGUF tokenizer model %q", v.Model)
	}
	if err != nil {
		return nil, err
	}
	t.model = m
	if v.AddBOS || v.AddEOS {
		if v.AddBOS && v.BOS != None {
			t.post = append(t.post, postItem{ids: []int32{v.BOS}})
		}
		t.post = append(t.post, postItem{text: true})
		if v.AddEOS && v.EOS != None {
			t.post = append(t.post, postItem{ids: []int32{v.EOS}})
		}
	}
	t.setAdded(added)
	return t, nil
}

func isQwen(pre string) bool { return strings.HasPrefix(pre, "qwen") || pre == "deepseek-r1-qwen" }

// setPre sets the pre-tokenizer that llama.cpp's name stands for.
func (t *Tokenizer) setPre(pre string, m *bpe) error {
	digits := matchStep{findRunes(unicode.IsNumber), isolated, false}
	switch pre {
	case "", "default", "gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "olmo", "mpt", "dbrx-gpt2":
		t.pre = []preStep{scanStep{scanGPT2}}
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "granite-docling":
		t.pre = []preStep{digits, scanStep{scanGPT2}}
	case "llama-bpe", "llama3", "llama-v3", "llama-3", "falcon3", "smaug-bpe", "dbrx", "pixtral":
		t.pre = []preStep{scanStep{scanLlama3(3)}}
		m.ignoreMerges = pre != "dbrx" && pre != "smaug-bpe"
	case "gpt-4", "phi-4", "chatglm-bpe", "stablelm2":
		t.pre = []preStep{scanStep{scanLlama3(3)}}
	case "qwen2", "deepseek-r1-qwen", "qwen3", "megrez":
		t.pre = []preStep{scanStep{scanLlama3(1)}}
		t.normalizers = []normalizer{unicodeForm(norm.NFC)}
	case "gpt-4o", "phi-4-mini", "llama4":
		t.pre = []preStep{scanStep{scanGPT4o(3, true)}}
	case "tekken":
		t.pre = []preStep{scanStep{scanGPT4o(1, false)}}
		m.ignoreMerges = true
	default:
		return clara.Errorf(clara.Unsupported, "build tokenizer: GGUF pre-tokenizer %q", pre)
	}
	return nil
}

// mergesByScore lists every pair of tokens whose join is a token, best score first: sentencepiece keeps scores
// instead of merges. The order among equals is that of the Hugging Face converter.
func mergesByScore(ids map[string]int32, tokens []string, scores []float32) [][2]string {
	type merge struct {
		left, right string
		score       float32
		l, r        int32
	}
	var list []merge
	for i, whole := range tokens {
		first := len(list)
		for k := range whole {
			if k == 0 {
				continue
			}
			l, okL := ids[whole[:k]]
			r, okR := ids[whole[k:]]
			if okL && okR {
				list = append(list, merge{whole[:k], whole[k:], scores[i], l, r})
			}
		}
		local := list[first:]
		sort.SliceStable(local, func(a, b int) bool {
			if local[a].l != local[b].l {
				return local[a].l < local[b].l
			}
			return local[a].r < local[b].r
		})
	}
	runes := utf8.RuneCountInString
	sort.SliceStable(list, func(a, b int) bool {
		x, y := list[a], list[b]
		if x.score != y.score {
			return x.score > y.score
		}
		if n, m := runes(x.left), runes(y.left); n != m {
			return n > m
		}
		return runes(x.right) > runes(y.right)
	})
	out := make([][2]string, len(list))
	for i, m := range list {
		out[i] = [2]string{m.left, m.right}
	}
	return out
}
