package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Scanners are the patterns of the known families written out by hand: next returns the end of the match that
// begins at s[i]. Every one of these patterns matches at every position, so they cut a text completely.
type scanner func(s string, i int) int

// Character classes of the patterns; a rune may be in one of the first three only.
const (
	letter    uint8 = 1 << iota // \p{L}
	number                      // \p{N}
	space                       // \s
	upperLike                   // Lu Lt Lm Lo M
	lowerLike                   // Ll Lm Lo M
	mark                        // \p{M}
)

var asciiClass = func() (t [128]uint8) {
	for r := range rune(128) {
		t[r] = slowClass(r)
	}
	return t
}()

func slowClass(r rune) uint8 {
	switch {
	case unicode.Is(unicode.Ll, r):
		return letter | lowerLike
	case unicode.In(r, unicode.Lu, unicode.Lt):
		return letter | upperLike
	case unicode.Is(unicode.L, r):
		return letter | upperLike | lowerLike
	case unicode.Is(unicode.M, r):
		return mark | upperLike | lowerLike
	case unicode.Is(unicode.N, r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return 0
}

// class returns the class and width of the rune at s[i], width 0 at the end.
func class(s string, i int) (uint8, int) {
	if i >= len(s) {
		return 0, 0
	}
	if b := s[i]; b < 0x80 {
		return asciiClass[b], 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	// The common scripts, without a table search.
	if r >= 0x4E00 && r <= 0x9FFF || r >= 0xAC00 && r <= 0xD7A3 {
		return letter | upperLike | lowerLike, w
	}
	return slowClass(r), w
}

// run returns the end of the longest run of runes that have a bit of c, from i on.
func run(s string, i int, c uint8) int {
	for {
		k, w := class(s, i)
		if w == 0 || k&c == 0 {
			return i
		}
		i += w
	}
}

// symbols returns the end of a run of [^\s\p{L}\p{N}].
func symbols(s string, i int) int {
	for {
		k, w := class(s, i)
		if w == 0 || k&(letter|number|space) != 0 {
			return i
		}
		i += w
	}
}

// spaces matches \s+(?!\S)|\s+ : a run of white space, less its last rune if text follows and it is not the only one.
func spaces(s string, i int) int {
	end, last := i, i
	for {
		k, w := class(s, end)
		if w == 0 {
			return end
		}
		if k&space == 0 {
			break
		}
		last = end
		end += w
	}
	if last > i {
		return last
	}
	return end
}

// lines matches \s*[\r\n]+ : white space up to and with its last line end; i if there is no line end.
func lines(s string, i int) int {
	end, k := i, i
	for {
		c, w := class(s, k)
		if w == 0 || c&space == 0 {
			return end
		}
		k += w
		if s[k-1] == '\n' || s[k-1] == '\r' {
			end = k
		}
	}
}

// contraction matches 's|'t|'re|'ve|'m|'ll|'d at i, i if it is not there. With fold case does not count, and
// U+017F folds to s.
func contraction(s string, i int, fold bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return i
	}
	low := func(k int) byte {
		if k >= len(s) {
			return 0
		}
		if b := s[k]; fold && b >= 'A' && b <= 'Z' {
			return b + 'a' - 'A'
		}
		return s[k]
	}
	if fold && strings.HasPrefix(s[i+1:], "ſ") {
		return i + 1 + len("ſ")
	}
	switch a, b := low(i+1), low(i+2); {
	case a == 's', a == 't', a == 'm', a == 'd':
		return i + 2
	case a == 'r' && b == 'e', a == 'v' && b == 'e', a == 'l' && b == 'l':
		return i + 3
	}
	return i
}

const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

func scanGPT2(s string, i int) int {
	if k := contraction(s, i, false); k > i {
		return k
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	c, w := class(s, j)
	switch {
	case w == 0 || c&space != 0:
		return spaces(s, i)
	case c&letter != 0:
		return run(s, j+w, letter)
	case c&number != 0:
		return run(s, j+w, number)
	}
	return symbols(s, j+w)
}

// The pattern of GPT-4, Llama 3 and Phi-4, and of Qwen, which takes digits one by one.
const (
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwenPattern   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

func scanLlama3(digits int) scanner {
	return func(s string, i int) int {
		if k := contraction(s, i, true); k > i {
			return k
		}
		c, w := class(s, i)
		if c&letter != 0 {
			return run(s, i+w, letter)
		}
		if c&number == 0 && s[i] != '\r' && s[i] != '\n' {
			if c2, w2 := class(s, i+w); c2&letter != 0 {
				return run(s, i+w+w2, letter)
			}
		}
		return scanTail(s, i, c, w, digits, "\r\n")
	}
}

// scanTail is the end that these patterns share: digits, symbols with line ends after them, white space.
func scanTail(s string, i int, c uint8, w, digits int, after string) int {
	if c&number != 0 {
		j := i + w
		for n := 1; n < digits; n++ {
			c, w := class(s, j)
			if c&number == 0 || w == 0 {
				break
			}
			j += w
		}
		return j
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	if k := symbols(s, j); k > j {
		for k < len(s) && strings.IndexByte(after, s[k]) >= 0 {
			k++
		}
		return k
	}
	if k := lines(s, i); k > i {
		return k
	}
	return spaces(s, i)
}

// The pattern of GPT-4o (Phi-4-mini) and of Mistral's Tekken, which has no contractions and single digits.
const (
	gpt4oPattern  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekkenPattern = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

func scanGPT4o(digits int, contractions bool) scanner {
	return func(s string, i int) int {
		c, w := class(s, i)
		lead := c&(letter|number) == 0 && s[i] != '\r' && s[i] != '\n'
		// Both alternatives are tried with the optional leading rune first, then without it.
		for _, word := range [...]func(string, int) int{lowerWord, upperWord} {
			end := i
			if lead {
				if k := word(s, i+w); k > i+w {
					end = k
				}
			}
			if end == i {
				end = word(s, i)
			}
			if end > i {
				if contractions {
					end = contraction(s, end, true)
				}
				return end
			}
		}
		return scanTail(s, i, c, w, digits, "\r\n/")
	}
}

// lowerWord matches U*L+ where U and L share runes: U* takes all it can and gives back until an L follows.
func lowerWord(s string, i int) int {
	back := -1 // start of the last rune of the U run that is an L too
	j := i
	for {
		c, w := class(s, j)
		if w == 0 || c&upperLike == 0 {
			break
		}
		if c&lowerLike != 0 {
			back = j
		}
		j += w
	}
	if c, w := class(s, j); w > 0 && c&lowerLike != 0 {
		return run(s, j, lowerLike)
	}
	if back >= 0 {
		return run(s, back, lowerLike)
	}
	return i
}

// upperWord matches U+L*.
func upperWord(s string, i int) int {
	j := run(s, i, upperLike)
	if j == i {
		return i
	}
	return run(s, j, lowerLike)
}

// knownScanner returns the scanner of a pattern, nil if it is not one of the known ones.
func knownScanner(pattern string) scanner {
	switch pattern {
	case gpt2Pattern, `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:
		return scanGPT2
	case llama3Pattern:
		return scanLlama3(3)
	case qwenPattern:
		return scanLlama3(1)
	case gpt4oPattern:
		return scanGPT4o(3, true)
	case tekkenPattern:
		return scanGPT4o(1, false)
	}
	return nil
}
