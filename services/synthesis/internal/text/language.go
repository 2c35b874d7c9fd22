package text

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

// Language guesses a text's language from its scripts: "zh", "ja", "ko", "ar", "ru", "he", "th", "hi", "el", and "en"
// for all that is written in Latin letters or not in letters at all. Shares count in words, so that Latin terms in
// Chinese text weigh no more than Chinese ones.
func Language(s string) string { return Languages(s)[0] }

// secondLanguage is the share of the main language from which another one is a text's language too.
const secondLanguage = 0.4

// Languages are those that a text is written in to a good part, the main one first.
func Languages(s string) []string {
	counts := map[string]int{}
	latin := false
	for _, r := range s {
		if unicode.Is(unicode.Latin, r) {
			if !latin {
				counts["en"]++
			}
			latin = true
			continue
		}
		latin = latin && (unicode.IsDigit(r) || r == '-' || r == '_')
		for _, script := range scripts {
			if unicode.Is(script.table, r) {
				counts[script.language]++
				break
			}
		}
	}
	// Kana means Japanese, however many Chinese characters are around it.
	if counts["ja"] > 0 && counts["ja"]*10 > counts["zh"] && counts["ja"]*4 > counts["en"] {
		counts["ja"] += counts["zh"]
		counts["zh"] = 0
	}
	counts["zh"] /= 2 // two Chinese characters are about a word
	out := []string{"en"}
	for l := range counts {
		if l != "en" {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(rank(a), rank(b)))
	})
	end := 1
	for end < len(out) && counts[out[end]] > 0 && float64(counts[out[end]]) >= secondLanguage*float64(counts[out[0]]) {
		end++
	}
	return out[:end]
}

// rank orders languages that are equal in number.
func rank(language string) int {
	for i, s := range scripts {
		if s.language == language {
			return i + 1
		}
	}
	return 0 // "en"
}

var scripts = []struct {
	language string
	table    *unicode.RangeTable
}{
	{"ja", unicode.Hiragana}, {"ja", unicode.Katakana}, {"zh", unicode.Han}, {"ko", unicode.Hangul}, {"ar", unicode.Arabic},
	{"ru", unicode.Cyrillic}, {"he", unicode.Hebrew}, {"th", unicode.Thai}, {"hi", unicode.Devanagari}, {"el", unicode.Greek},
}

// Words are the words of a text in lower case, as they stand; letters of scripts without spaces are words of their own.
func Words(s string) []string {
	var out []string
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			out = append(out, b.String())
			b.Reset()
		}
	}
	for _, r := range strings.ToLower(s) {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai):
			flush()
			out = append(out, string(r))
		case unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.Mn, r):
			b.WriteRune(r)
		default:
			flush()
		}
	}
	flush()
	return out
}

// Normal is a text's words with single spaces: equal for texts that differ in case, spacing and punctuation.
func Normal(s string) string { return strings.Join(Words(s), " ") }
