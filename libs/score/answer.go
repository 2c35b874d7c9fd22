package score

import (
	"slices"
	"strings"
	"unicode"
)

// Answer is the score of one prediction.
type Answer struct {
	EM    bool    // equal after normalisation
	Cover bool    // every gold token occurs in the prediction ("accuracy")
	F1    float64 // token overlap
}

// asciiPunctuation is Python's string.punctuation.
const asciiPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// Normalize returns a text as the reference compares it.
func Normalize(s string) string {
	switch s {
	case "True":
		return "yes"
	case "False":
		return "no"
	}
	s = strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && strings.ContainsRune(asciiPunctuation, r) {
			return -1
		}
		return r
	}, strings.ToLower(s))
	return strings.Join(strings.FieldsFunc(removeArticles(s), isSpace), " ")
}

// isSpace is the white space of Python's str.split.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}

// isWord is the \w of Python's re.
func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }

// removeArticles replaces a, an and the, as whole words, by a space. A word is
// a run of letters and digits, so that "a" in "a北京" stays.
func removeArticles(s string) string {
	var b strings.Builder
	runes := []rune(s)
	for i := 0; i < len(runes); {
		if !isWord(runes[i]) {
			b.WriteRune(runes[i])
			i++
			continue
		}
		end := i
		for end < len(runes) && isWord(runes[end]) {
			end++
		}
		word := string(runes[i:end])
		if word == "a" || word == "an" || word == "the" {
			word = " "
		}
		b.WriteString(word)
		i = end
	}
	return b.String()
}

// One returns the reference's score of a prediction against one gold, empty
// golds included (they are covered by anything, as in the reference).
func One(prediction, gold string) Answer {
	p, g := Normalize(prediction), Normalize(gold)
	return Answer{EM: p == g, Cover: cover(strings.Fields(p), strings.Fields(g)), F1: f1(p, g, strings.Fields)}
}

// OneByCharacters returns the score by characters against one gold.
func OneByCharacters(prediction, gold string) Answer {
	p, g := characters(prediction), characters(gold)
	split := func(s string) []string { return strings.Split(s, "\x00") }
	if len(p) == 0 || len(g) == 0 {
		return Answer{EM: len(p) == len(g), Cover: len(g) == 0}
	}
	return Answer{
		EM:    slices.Equal(p, g),
		Cover: contains(p, g),
		F1:    f1(strings.Join(p, "\x00"), strings.Join(g, "\x00"), split),
	}
}

// contains reports whether gold occurs in prediction in one piece: with single
// characters as tokens, "every token occurs" would be met by mere chance.
func contains(prediction, gold []string) bool {
	for i := 0; i+len(gold) <= len(prediction); i++ {
		if slices.Equal(prediction[i:i+len(gold)], gold) {
			return true
		}
	}
	return false
}

// characters splits a text into tokens of which each CJK character is one, and
// drops punctuation of all scripts.
func characters(s string) []string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPunct(r) && r != '_' {
			return -1
		}
		return narrow(r)
	}, Normalize(s))
	var tokens []string
	for _, field := range strings.FieldsFunc(s, isSpace) {
		from := 0
		for i, r := range field {
			if !IsCJK(r) {
				continue
			}
			if from < i {
				tokens = append(tokens, field[from:i])
			}
			from = i + len(string(r))
			tokens = append(tokens, field[i:from])
		}
		if from < len(field) {
			tokens = append(tokens, field[from:])
		}
	}
	return tokens
}

// narrow maps full-width ASCII to ASCII, in lower case.
func narrow(r rune) rune {
	if r >= 0xff01 && r <= 0xff5e {
		return unicode.ToLower(r - 0xfee0)
	}
	return r
}

// IsCJK reports whether a character is written without spaces around words.
func IsCJK(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul)
}

func cover(prediction, gold []string) bool {
	for _, t := range gold {
		if !slices.Contains(prediction, t) {
			return false
		}
	}
	return true
}

func f1(p, g string, split func(string) []string) float64 {
	for _, s := range []string{p, g} {
		if (s == "yes" || s == "no" || s == "noanswer") && p != g {
			return 0
		}
	}
	if p == "" || g == "" {
		return 0
	}
	pt, gt := split(p), split(g)
	counts := map[string]int{}
	for _, t := range gt {
		counts[t]++
	}
	same := 0
	for _, t := range pt {
		if counts[t] > 0 {
			counts[t]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	precision, recall := float64(same)/float64(len(pt)), float64(same)/float64(len(gt))
	return 2 * precision * recall / (precision + recall)
}

// Best returns the best score over several golds, for each figure on its own,
// by the reference's and by character scores. ok is false if no gold says
// anything: the sample is to be left out and counted.
func Best(prediction string, golds []string) (reference, byCharacters Answer, ok bool) {
	best := func(a *Answer, b Answer) {
		a.EM, a.Cover, a.F1 = a.EM || b.EM, a.Cover || b.Cover, max(a.F1, b.F1)
	}
	for _, gold := range golds {
		if Normalize(gold) == "" {
			continue
		}
		ok = true
		best(&reference, One(prediction, gold))
		best(&byCharacters, OneByCharacters(prediction, gold))
	}
	return reference, byCharacters, ok
}
