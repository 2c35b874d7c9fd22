package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites a text before it is cut.
type normalizer func(t text, track bool) text

func normalizeAll(list []normalizer, t text, track bool) text {
	for _, n := range list {
		if t.s == "" {
			return t
		}
		t = n(t, track)
	}
	return t
}

// unicodeForm is NFC, NFD, NFKC or NFKD.
func unicodeForm(f norm.Form) normalizer {
	return func(t text, track bool) text {
		if f.IsNormalString(t.s) {
			return t
		}
		if !track {
			return text{s: f.String(t.s), base: t.base}
		}
		r := rewriter{src: t, track: true}
		var it norm.Iter
		it.InitString(f, t.s)
		for !it.Done() {
			at := it.Pos()
			r.put(string(it.Next()), at)
		}
		return r.done()
	}
}

func prepend(s string) normalizer {
	return func(t text, track bool) text {
		r := rewriter{src: t, track: track}
		r.put(s, 0)
		r.keep(0, len(t.s))
		return r.done()
	}
}

func replaceString(from, to string) normalizer {
	return func(t text, track bool) text {
		if from == "" || !strings.Contains(t.s, from) {
			return t
		}
		if !track {
			return text{s: strings.ReplaceAll(t.s, from, to), base: t.base}
		}
		r := rewriter{src: t, track: true}
		i := 0
		for {
			k := strings.Index(t.s[i:], from)
			if k < 0 {
				break
			}
			r.keep(i, i+k)
			r.put(to, i+k)
			i += k + len(from)
		}
		r.keep(i, len(t.s))
		return r.done()
	}
}

func replaceRegexp(re *regexp2.Regexp, to string) normalizer {
	return func(t text, track bool) text {
		r := rewriter{src: t, track: track}
		i := 0
		eachMatch(re, t.s, func(a, b int) {
			r.keep(i, a)
			r.put(to, a)
			i = b
		})
		if i == 0 {
			return t
		}
		r.keep(i, len(t.s))
		return r.done()
	}
}

func strip(left, right bool) normalizer {
	return func(t text, _ bool) text {
		i, j := 0, len(t.s)
		if left {
			i = j - len(strings.TrimLeftFunc(t.s, unicode.IsSpace))
		}
		if right {
			j = i + len(strings.TrimRightFunc(t.s[i:], unicode.IsSpace))
		}
		return t.cut(i, j)
	}
}

// mapRunes rewrites rune by rune: f returns the replacement, and whether there is one.
func mapRunes(f func(r rune) (string, bool)) normalizer {
	return func(t text, track bool) text {
		var w *rewriter
		kept := 0
		for i, c := range t.s {
			to, changed := f(c)
			if !changed {
				continue
			}
			if w == nil {
				w = &rewriter{src: t, track: track}
			}
			w.keep(kept, i)
			w.put(to, i)
			kept = i + utf8.RuneLen(c)
		}
		if w == nil {
			return t
		}
		w.keep(kept, len(t.s))
		return w.done()
	}
}

// lowercase is the full lower-case mapping without context, as Rust's char::to_lowercase.
func lowercase() normalizer {
	return mapRunes(func(r rune) (string, bool) {
		if r == 'İ' {
			return "i\u0307", true
		}
		l := unicode.ToLower(r)
		if l == r {
			return "", false
		}
		return string(l), true
	})
}

// stripAccents drops combining marks (category Mn, or all of M).
func stripAccents(table *unicode.RangeTable) normalizer {
	return mapRunes(func(r rune) (string, bool) { return "", r >= 0x300 && unicode.Is(table, r) })
}

// cleanText is BERT's: control characters go, every white space is a blank.
func cleanText() normalizer {
	return mapRunes(func(r rune) (string, bool) {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return " ", true
		case r == 0 || r == 0xfffd || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs) || (r > 0x7f && unassigned(r)):
			return "", true
		case r != ' ' && unicode.IsSpace(r):
			return " ", true
		}
		return "", false
	})
}

func unassigned(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z, unicode.C)
}

// spaceChinese is BERT's: blanks around every CJK ideograph.
func spaceChinese() normalizer {
	return mapRunes(func(r rune) (string, bool) {
		switch {
		case r >= 0x4E00 && r <= 0x9FFF, r >= 0x3400 && r <= 0x4DBF, r >= 0x20000 && r <= 0x2A6DF, r >= 0x2A700 && r <= 0x2B73F,
			r >= 0x2B740 && r <= 0x2B81F, r >= 0x2B920 && r <= 0x2CEAF, r >= 0xF900 && r <= 0xFAFF, r >= 0x2F800 && r <= 0x2FA1F:
			return " " + string(r) + " ", true
		}
		return "", false
	})
}

// nmt is sentencepiece's cleaning: control characters go, odd spaces are blanks.
func nmt() normalizer {
	return mapRunes(func(r rune) (string, bool) {
		switch {
		case r >= 1 && r <= 8, r == 0xB, r >= 0xE && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
			return "", true
		case r == '\t', r == '\n', r == 0xC, r == '\r', r == 0x1680, r >= 0x200B && r <= 0x200F, r == 0x2028, r == 0x2029, r == 0x2581, r == 0xFEFF, r == 0xFFFD:
			return " ", true
		}
		return "", false
	})
}

// eachMatch calls yield with the byte range of every non-empty match, left to right.
func eachMatch(re *regexp2.Regexp, s string, yield func(a, b int)) {
	// regexp2 counts runes; walk the string along with it. Without a timeout no match can fail.
	m, err := re.FindStringMatch(s)
	byteAt, runeAt := 0, 0
	advance := func(to int) int {
		for runeAt < to && byteAt < len(s) {
			_, w := utf8.DecodeRuneInString(s[byteAt:])
			byteAt += w
			runeAt++
		}
		return byteAt
	}
	for err == nil && m != nil {
		if m.Length > 0 {
			a := advance(m.Index)
			yield(a, advance(m.Index+m.Length))
		}
		m, err = re.FindNextMatch(m)
	}
}
