package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// decoder rewrites the tokens of a text on the way back to it.
type decoder func(tokens []string) []string

// Decode returns the text of ids. With skipSpecial special tokens are left out. Unknown ids are left out.
// Bytes that are not UTF-8 come out as U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		a, added := t.added[id]
		if added {
			if !(skipSpecial && a.special) {
				tokens = append(tokens, a.key)
			}
			continue
		}
		if s, ok := t.model.token(id); ok {
			tokens = append(tokens, s)
		}
	}
	if t.decoders == nil {
		return strings.Join(tokens, t.decodeSep)
	}
	for _, d := range t.decoders {
		tokens = d(tokens)
	}
	return strings.Join(tokens, "")
}

// byteOf maps the printable stand-ins of byte-level BPE back to bytes.
var byteOf, runeOf = byteRunes()

func byteRunes() (map[rune]byte, [256]rune) {
	back, forth := make(map[rune]byte, 256), [256]rune{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		back[r], forth[b] = byte(b), r
	}
	return back, forth
}

// rawBytes returns the bytes that a byte-level token stands for, false if it holds a rune that is no stand-in.
func rawBytes(token string) (string, bool) {
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := byteOf[r]
		if !ok {
			return token, false
		}
		out = append(out, b)
	}
	return string(out), true
}

func decodeByteLevel(tokens []string) []string {
	var out strings.Builder
	for _, t := range tokens {
		b, _ := rawBytes(t)
		out.WriteString(b)
	}
	return []string{lossy(out.String())}
}

// lossy replaces each maximal piece of an ill-formed sequence by U+FFFD, as Rust's from_utf8_lossy and the
// Unicode standard recommend. (strings.ToValidUTF8 makes one of a whole run, range one of each byte.)
func lossy(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		r, w := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError || w > 1 {
			out.WriteString(s[i : i+w])
			i += w
			continue
		}
		out.WriteString("\uFFFD")
		i += max(1, incomplete(s[i:]))
	}
	return out.String()
}

// incomplete returns the length of the longest beginning of s that a longer well-formed rune could begin with.
func incomplete(s string) int {
	need, lo, hi := 0, byte(0x80), byte(0xBF)
	switch b := s[0]; {
	case b >= 0xC2 && b <= 0xDF:
		need = 1
	case b >= 0xE0 && b <= 0xEF:
		need = 2
		if b == 0xE0 {
			lo = 0xA0
		} else if b == 0xED {
			hi = 0x9F
		}
	case b >= 0xF0 && b <= 0xF4:
		need = 3
		if b == 0xF0 {
			lo = 0x90
		} else if b == 0xF4 {
			hi = 0x8F
		}
	default:
		return 0
	}
	n := 1
	for n <= need && n < len(s) && s[n] >= lo && s[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}

func decodeReplace(from, to string) decoder {
	return func(tokens []string) []string {
		for i, t := range tokens {
			tokens[i] = strings.ReplaceAll(t, from, to)
		}
		return tokens
	}
}

func decodeFuse(tokens []string) []string { return []string{strings.Join(tokens, "")} }

// decodeBytes joins the bytes of <0xNN> tokens; a run that is not UTF-8 becomes one U+FFFD for each byte.
func decodeBytes(tokens []string) []string {
	out := tokens[:0:0]
	var run []byte
	flush := func() {
		if len(run) == 0 {
			return
		}
		if utf8.Valid(run) {
			out = append(out, string(run))
		} else {
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// byteToken returns the byte that a token named <0xNN> stands for.
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || !strings.HasPrefix(t, "<0x") || t[5] != '>' {
		return 0, false
	}
	n, err := strconv.ParseUint(t[3:5], 16, 8)
	return byte(n), err == nil
}

func decodeStrip(content string, start, stop int) decoder {
	return func(tokens []string) []string {
		for i, t := range tokens {
			for k := 0; k < start && content != "" && strings.HasPrefix(t, content); k++ {
				t = t[len(content):]
			}
			for k := 0; k < stop && content != "" && strings.HasSuffix(t, content); k++ {
				t = t[:len(t)-len(content)]
			}
			tokens[i] = t
		}
		return tokens
	}
}

func decodeMetaspace(mark, scheme string) decoder {
	return func(tokens []string) []string {
		for i, t := range tokens {
			to := " "
			if i == 0 && scheme != "never" {
				to = ""
			}
			tokens[i] = strings.ReplaceAll(t, mark, to)
		}
		return tokens
	}
}

func decodeWordPiece(prefix string, cleanup bool) decoder {
	clean := strings.NewReplacer(" .", ".", " ?", "?", " !", "!", " ,", ",", " ' ", "'", " n't", "n't", " 'm", "'m", " do not", " don't", " 's", "'s", " 've", "'ve", " 're", "'re")
	return func(tokens []string) []string {
		for i, t := range tokens {
			if i > 0 {
				if rest, ok := strings.CutPrefix(t, prefix); ok {
					t = rest
				} else {
					t = " " + t
				}
			}
			if cleanup {
				t = clean.Replace(t)
			}
			tokens[i] = t
		}
		return tokens
	}
}

// Stream decodes tokens as they are generated: what Push returns, joined, is the text of all of them. It holds
// back what a later token may still complete: the bytes of an unfinished rune. It is for one goroutine.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	ids         []int32 // from a token of text already given on, for its context
	given       int     // how many of ids are given
	prefix      string  // text of ids[:given]
}

// NewStream returns a Stream at the beginning of a text.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial}
}

// Push takes the next token and returns the text that is now certain, often "".
func (s *Stream) Push(id int32) string {
	s.ids = append(s.ids, id)
	if s.t.unfinished(s.ids) {
		return ""
	}
	return s.step()
}

// Flush returns what was held back: U+FFFD for a rune that never was finished.
func (s *Stream) Flush() string { return s.step() }

func (s *Stream) step() string {
	now := s.t.Decode(s.ids, s.skipSpecial)
	out, ok := strings.CutPrefix(now, s.prefix)
	if !ok {
		// A broken run of byte tokens spoils what was given already: go on without it.
		out = s.t.Decode(s.ids[s.given:], s.skipSpecial)
	}
	if out == "" {
		return ""
	}
	// Keep the tokens just given as context: they make the next ones stand inside a text, not at its start.
	s.ids = append(s.ids[:0], s.ids[s.given:]...)
	s.given = len(s.ids)
	s.prefix = s.t.Decode(s.ids, s.skipSpecial)
	return out
}

// unfinished reports whether the bytes of ids end amid a rune that the next token may finish.
func (t *Tokenizer) unfinished(ids []int32) bool {
	m, ok := t.model.(*bpe)
	if !ok || !m.bytes && !m.byteFallback {
		return false
	}
	tail := ""
	for i := len(ids) - 1; i >= 0 && len(tail) < utf8.UTFMax; i-- {
		if t.IsAdded(ids[i]) {
			break
		}
		name, _ := m.token(ids[i])
		if m.bytes {
			raw, _ := rawBytes(name)
			tail = raw + tail
			continue
		}
		b, ok := byteToken(name)
		if !ok {
			break
		}
		tail = string([]byte{b}) + tail
	}
	for i := len(tail) - 1; i >= 0 && i >= len(tail)-utf8.UTFMax; i-- {
		if utf8.RuneStart(tail[i]) {
			return !utf8.FullRuneInString(tail[i:])
		}
	}
	return false
}

// Bytes returns the bytes that a token adds to a text, "" for one that adds none or does not say which: special and
// added tokens, ids without one, and WordPiece. A blank that decoding leaves out at the beginning of a text is there.
func (t *Tokenizer) Bytes(id int32) string {
	m, ok := t.model.(*bpe)
	if !ok || t.IsAdded(id) {
		return ""
	}
	name, _ := m.token(id)
	if m.bytes {
		if raw, ok := rawBytes(name); ok {
			return raw
		}
		return ""
	}
	if b, ok := byteToken(name); ok {
		return string([]byte{b})
	}
	return strings.ReplaceAll(name, "▁", " ")
}
