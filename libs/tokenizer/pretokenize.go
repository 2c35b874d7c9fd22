package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// preStep is one pre-tokenizer: it cuts a piece into pieces, in order.
type preStep interface {
	split(p piece, track bool, yield func(piece))
}

// scanStep cuts a piece completely with a scanner.
type scanStep struct{ next scanner }

func (x scanStep) split(p piece, _ bool, yield func(piece)) {
	for i := 0; i < len(p.s); {
		j := x.next(p.s, i)
		yield(p.cut(i, j))
		i = j
	}
}

// behavior is what happens to the matches of a Split: see the tokenizers library.
type behavior uint8

const (
	isolated behavior = iota
	removed
	mergedWithPrevious
	mergedWithNext
	contiguous
)

// matchStep cuts at matches. find calls yield with each match, left to right.
type matchStep struct {
	find   func(s string, yield func(a, b int))
	how    behavior
	invert bool
}

func (x matchStep) split(p piece, _ bool, yield func(piece)) {
	type part struct {
		a, b  int
		match bool
	}
	var parts []part
	at := 0
	add := func(a, b int, match bool) {
		if a < b {
			parts = append(parts, part{a, b, match != x.invert})
		}
	}
	x.find(p.s, func(a, b int) {
		add(at, a, false)
		add(a, b, true)
		at = b
	})
	add(at, len(p.s), false)

	switch x.how {
	case isolated:
		for _, q := range parts {
			yield(p.cut(q.a, q.b))
		}
	case removed:
		for _, q := range parts {
			if !q.match {
				yield(p.cut(q.a, q.b))
			}
		}
	case contiguous:
		for i := 0; i < len(parts); {
			j := i + 1
			for j < len(parts) && parts[j].match == parts[i].match {
				j++
			}
			yield(p.cut(parts[i].a, parts[j-1].b))
			i = j
		}
	case mergedWithPrevious:
		for i := 0; i < len(parts); i++ {
			a := parts[i].a
			if !parts[i].match && i+1 < len(parts) && parts[i+1].match {
				i++
			}
			yield(p.cut(a, parts[i].b))
		}
	case mergedWithNext:
		for i := 0; i < len(parts); i++ {
			a := parts[i].a
			if parts[i].match && i+1 < len(parts) && !parts[i+1].match {
				i++
			}
			yield(p.cut(a, parts[i].b))
		}
	}
}

func findRegexp(re *regexp2.Regexp) func(string, func(a, b int)) {
	return func(s string, yield func(a, b int)) { eachMatch(re, s, yield) }
}

func findString(sub string) func(string, func(a, b int)) {
	return func(s string, yield func(a, b int)) {
		for i := 0; sub != ""; {
			k := strings.Index(s[i:], sub)
			if k < 0 {
				return
			}
			yield(i+k, i+k+len(sub))
			i += k + len(sub)
		}
	}
}

func findScanner(next scanner) func(string, func(a, b int)) {
	return func(s string, yield func(a, b int)) {
		for i := 0; i < len(s); {
			j := next(s, i)
			yield(i, j)
			i = j
		}
	}
}

// findRunes matches every single rune of a kind.
func findRunes(is func(rune) bool) func(string, func(a, b int)) {
	return func(s string, yield func(a, b int)) {
		for i, r := range s {
			if is(r) {
				yield(i, i+utf8.RuneLen(r))
			}
		}
	}
}

// findWords matches \w+|[^\w\s]+, the pattern of Whitespace.
func findWords(s string, yield func(a, b int)) {
	kind := func(r rune) int {
		switch {
		case isWord(r):
			return 1
		case unicode.IsSpace(r):
			return 0
		}
		return 2
	}
	start, was := 0, 0
	for i, r := range s {
		if k := kind(r); k != was {
			if was != 0 {
				yield(start, i)
			}
			start, was = i, k
		}
	}
	if was != 0 {
		yield(start, len(s))
	}
}

func isPunctuation(r rune) bool {
	return r < 0x80 && (r >= '!' && r <= '/' || r >= ':' && r <= '@' || r >= '[' && r <= '`' || r >= '{' && r <= '~') || unicode.Is(unicode.P, r)
}

// spaceFirst puts a blank before a piece that does not begin with one (ByteLevel with add_prefix_space).
type spaceFirst struct{}

func (spaceFirst) split(p piece, track bool, yield func(piece)) {
	if strings.HasPrefix(p.s, " ") {
		yield(p)
		return
	}
	yield(piece(prepend(" ")(text(p), track)))
}

// metaspace is sentencepiece's: blanks become the mark, a mark goes first, and each mark begins a piece.
type metaspace struct {
	mark   string
	scheme string // always, first, never
	cut    bool
}

func (x metaspace) split(p piece, track bool, yield func(piece)) {
	t := replaceString(" ", x.mark)(text(p), track)
	if x.scheme == "always" || (x.scheme == "first" && text(p).off(0) == 0) {
		if !strings.HasPrefix(t.s, x.mark) {
			t = prepend(x.mark)(t, track)
		}
	}
	if !x.cut {
		yield(piece(t))
		return
	}
	matchStep{find: findString(x.mark), how: mergedWithNext}.split(piece(t), track, yield)
}
