package text

import (
	"strings"
	"unicode"
)

// Language guesses a text's language from its scripts: "zh", "ja", "ko", "ar", "ru", "he", "th", "hi", "el", and "en"
// for all that is written in Latin letters or not in letters at all. Shares count in words, so that Latin terms in
// Chinese text weigh no more than Chinese ones.
func Language(s string) string {
	counts := map[string]int{}
	total := 0
	latin := false
	for _, r := range s {
		if unicode.Is(unicode.Latin, r) {
			if !latin {
				counts["en"]++
				total++
			}
			latin = true
			continue
		}
		latin = latin && (unicode.IsDigit(r) || r == '-' || r == '_')
		for _, script := range scripts {
			if unicode.Is(script.table, r) {
				counts[script.language]++
				total++
				break
			}
		}
	}
	if total == 0 {
		return "en"
	}
	// Kana means Japanese, however many Chinese characters are around it.
	if counts["ja"]*10 > counts["zh"] && counts["ja"] > 0 && counts["ja"]*4 > counts["en"] {
		return "ja"
	}
	best, most := "en", counts["en"]
	for _, script := range scripts {
		// Two Chinese characters are about a word.
		n := counts[script.language]
		if script.language == "zh" {
			n /= 2
		}
		if n > most {
			best, most = script.language, n
		}
	}
	return best
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
