package split

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// grain is how fine a text was cut.
type grain uint8

const (
	blocks grain = iota
	sentences
	words
	runes
)

// pieces cuts a text one grain finer than it was cut before and calls f for
// each piece. Their concatenation is the text: white space is at their starts.
func pieces(text string, was grain, limit int, f func(string, grain) error) error {
	switch was {
	case blocks:
		return each(text, sentenceEnd, func(s string) error { return f(s, sentences) })
	case sentences:
		return each(text, wordEnd, func(s string) error { return f(s, words) })
	}
	// Hardly a tokenizer has more tokens than bytes: pieces of a quarter of the
	// limit fit, with little left over when they are put together again.
	size := max(limit/4, utf8.UTFMax)
	for len(text) > 0 {
		n := 0
		for n < size && n < len(text) {
			_, w := utf8.DecodeRuneInString(text[n:])
			n += w
		}
		if err := f(text[:n], runes); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// each calls f for the parts of text that end finds.
func each(text string, end func(string) int, f func(string) error) error {
	for len(text) > 0 {
		n := end(text)
		if n <= 0 || n >= len(text) {
			n = len(text)
		}
		if err := f(text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// wordEnd returns the length of the first word with the white space before it.
// CJK text, which has no spaces, is parted at its punctuation.
func wordEnd(s string) int {
	begun := false
	for i, r := range s {
		switch {
		case unicode.IsSpace(r):
			if begun {
				return i
			}
		case clauseMark(r):
			return i + utf8.RuneLen(r)
		default:
			begun = true
		}
	}
	return len(s)
}

func clauseMark(r rune) bool {
	switch r {
	case '，', '、', '；', '：', '。', '！', '？', '）', '」', '』', '》', '”':
		return true
	}
	return false
}

// sentenceEnd returns the length of the first sentence, white space after it
// not included.
func sentenceEnd(s string) int {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch r {
		case '。', '！', '？', '；', '…':
			return closers(s, i)
		case '.', '!', '?':
			e := closers(s, i)
			if e < len(s) && !isSpaceAt(s, e) {
				continue
			}
			if r == '.' && (abbreviated(s[:i-1]) || !startsSentence(s[e:])) {
				continue
			}
			return e
		case '\n':
			// A line that a new one follows which looks like a beginning.
			if i > 1 && startsSentence(s[i:]) && strings.TrimSpace(s[:i]) != "" {
				return i - 1
			}
		}
	}
	return len(s)
}

// closers moves past marks that close a sentence together with its stop.
func closers(s string, i int) int {
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch r {
		case '.', '!', '?', '"', '\'', ')', ']', '*', '_', '”', '’', '」', '』', '）', '》', '。', '！', '？', '…', '»':
			i += n
		default:
			return i
		}
	}
	return i
}

func isSpaceAt(s string, i int) bool {
	r, _ := utf8.DecodeRuneInString(s[i:])
	return unicode.IsSpace(r)
}

// startsSentence reports whether what follows white space begins anew: with a
// capital, a number, a mark or a letter of a script without capitals.
func startsSentence(s string) bool {
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	if s == "" {
		return true
	}
	r, _ := utf8.DecodeRuneInString(s)
	return !unicode.IsLower(r) && r != ',' && r != ';' && r != ':'
}

// abbreviations end in a stop that ends no sentence.
var abbreviations = " mr mrs ms dr prof st no fig figs eq eqs sec ch vol pp ed eds al etc vs e.g i.e cf approx inc ltd co corp jr sr jan feb mar apr jun jul aug sep sept oct nov dec u.s a.m p.m "

// abbreviated reports whether the word at the end of s is an abbreviation or a
// single letter (an initial).
func abbreviated(s string) bool {
	i := strings.LastIndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || r == '(' || r == '[' })
	w := s[i+1:]
	if len(w) == 0 || len(w) > 8 {
		return false
	}
	if len(w) == 1 && w[0] >= 'A' && w[0] <= 'Z' {
		return true
	}
	return strings.Contains(abbreviations, " "+strings.ToLower(w)+" ")
}
