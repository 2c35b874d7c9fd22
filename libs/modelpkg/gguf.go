package modelpkg

import (
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/gguf"
	"github.com/clara-suite/clara/libs/tokenizer"
	"github.com/clara-suite/clara/libs/weights"
)

// Tokenizer opens the tokenizer of a base model: a Hugging Face folder's, or the one inside a GGUF file.
// src is the open model, base the path it was opened with.
func Tokenizer(src weights.Source, base string) (*tokenizer.Tokenizer, error) {
	v, ok, err := ggufVocab(src)
	if err != nil {
		return nil, err
	}
	if !ok {
		return tokenizer.Load(base)
	}
	return tokenizer.FromVocab(v)
}

// ggufVocab returns the tokenizer inside a GGUF file; ok is false for a Hugging Face folder.
func ggufVocab(src weights.Source) (v tokenizer.Vocab, ok bool, err error) {
	files := src.Files()
	if len(files) != 1 || !strings.EqualFold(filepath.Ext(files[0]), ".gguf") {
		return v, false, nil
	}
	f, err := gguf.Open(files[0])
	if err != nil {
		return v, true, err
	}
	defer f.Close()
	t, err := f.Tokenizer()
	if err != nil {
		return v, true, err
	}
	v = tokenizer.Vocab{
		Model: t.Model, Pre: t.Pre, Tokens: t.Tokens, Merges: t.Merges, ChatTemplate: t.ChatTemplate,
		BOS: int32(t.BOS), EOS: int32(t.EOS), Unk: int32(t.Unknown), Pad: int32(t.Padding),
		AddBOS: isTrue(t.AddBOS), AddEOS: isTrue(t.AddEOS), NoSpacePrefix: t.AddSpacePrefix != nil && !*t.AddSpacePrefix,
	}
	for _, s := range t.Scores {
		v.Scores = append(v.Scores, float32(s))
	}
	for _, x := range t.Types {
		v.Types = append(v.Types, int32(x))
	}
	return v, true, nil
}

func isTrue(b *bool) bool { return b != nil && *b }
