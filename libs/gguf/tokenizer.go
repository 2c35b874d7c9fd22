package gguf

import "github.com/clara-suite/clara/libs/clara"

// TokenType is the role of a token.
type TokenType int

// The roles.
const (
	TokenNormal      TokenType = 1
	TokenUnknown     TokenType = 2
	TokenControl     TokenType = 3
	TokenUserDefined TokenType = 4
	TokenUnused      TokenType = 5
	TokenByte        TokenType = 6
)

// Tokenizer is the tokenizer that a GGUF file carries.
type Tokenizer struct {
	Model  string // "gpt2": byte-level BPE; "llama": SentencePiece
	Pre    string // kind of pre-tokenizer for "gpt2": "smollm", "llama-bpe", "qwen2", ..
	Tokens []string
	Types  []TokenType // one a token; nil if the file has none
	Scores []float64   // one a token, for "llama"; nil if the file has none
	Merges []string    // "left right", for "gpt2"
	// Ids; -1 where the file names none.
	BOS, EOS, EOT, EOM, Unknown, Padding int
	// What the file says about adding tokens around a text; nil where it says nothing.
	AddBOS, AddEOS, AddSpacePrefix *bool
	// ChatTemplate is a Jinja template, empty if there is none.
	ChatTemplate string
}

// Tokenizer returns the tokenizer of the file. Errors: NotFound if it has
// none, Corrupt for lists of different lengths or ids that no token has.
func (f *File) Tokenizer() (Tokenizer, error) {
	const p = "tokenizer.ggml."
	t := Tokenizer{
		Model: f.String(p+"model", ""), Pre: f.String(p+"pre", ""),
		Tokens: f.Strings(p + "tokens"), Merges: f.Strings(p + "merges"), Scores: f.Floats(p + "scores"),
		ChatTemplate: f.String("tokenizer.chat_template", ""),
	}
	bad := func(format string, args ...any) (Tokenizer, error) {
		return Tokenizer{}, clara.Errorf(clara.Corrupt, "read gguf %s: "+format, append([]any{f.path}, args...)...)
	}
	if t.Model == "" || len(t.Tokens) == 0 {
		return Tokenizer{}, clara.Errorf(clara.NotFound, "read gguf %s: it carries no tokenizer", f.path)
	}
	for _, v := range f.Ints(p + "token_type") {
		t.Types = append(t.Types, TokenType(v))
	}
	if t.Types != nil && len(t.Types) != len(t.Tokens) || t.Scores != nil && len(t.Scores) != len(t.Tokens) {
		return bad("the tokenizer has %d tokens, %d types and %d scores", len(t.Tokens), len(t.Types), len(t.Scores))
	}
	for _, id := range []struct {
		key string
		at  *int
	}{
		{"bos_token_id", &t.BOS}, {"eos_token_id", &t.EOS}, {"eot_token_id", &t.EOT}, {"eom_token_id", &t.EOM},
		{"unknown_token_id", &t.Unknown}, {"padding_token_id", &t.Padding},
	} {
		*id.at = f.Int(p+id.key, -1)
		if *id.at < -1 || *id.at >= len(t.Tokens) {
			return bad("%s is %d, the tokenizer has %d tokens", id.key, *id.at, len(t.Tokens))
		}
	}
	for _, b := range []struct {
		key string
		at  **bool
	}{{"add_bos_token", &t.AddBOS}, {"add_eos_token", &t.AddEOS}, {"add_space_prefix", &t.AddSpacePrefix}} {
		if v, ok := f.metadata[p+b.key].(bool); ok {
			*b.at = &v
		}
	}
	return t, nil
}
