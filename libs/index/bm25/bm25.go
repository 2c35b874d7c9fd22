// Package bm25 turns text into sparse vectors for BM25 search: hashed term ids
// with weights. A passage's weights hold the term frequency part of BM25; the
// server multiplies by the inverse document frequency (Qdrant's IDF modifier);
// a query's weights are 1.
//
// Text is cut at Unicode word boundaries (UAX #29) after NFKC and case folding.
// English stop words are left out, and words of Latin letters are stemmed by
// the Snowball English stemmer. Scripts written without spaces (Chinese,
// Japanese, Thai, Lao, Khmer, Burmese), and Korean, are cut into bigrams; a
// single such letter on its own is a term.
package bm25

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/blevesearch/snowballstem"
	"github.com/blevesearch/snowballstem/english"
	"github.com/cespare/xxhash/v2"
	"github.com/rivo/uniseg"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

const (
	k1 = 1.2
	b  = 0.75
	// average is the length, in terms, that a passage is taken to have on average. It is a constant, so
	// that a weight depends on its passage alone; passages are cut to some 256 tokens, which is about this.
	average = 128
	// longest is how many bytes of a word count: what is longer is data, not language.
	longest = 64
)

// Document returns the term ids of a passage, ascending and distinct, and their weights, all positive.
func Document(text string) (ids []uint32, weights []float32) {
	counts := map[uint32]int{}
	length := 0
	for _, term := range Terms(text) {
		counts[id(term)]++
		length++
	}
	for term := range counts {
		ids = append(ids, term)
	}
	slices.Sort(ids)
	weights = make([]float32, len(ids))
	for i, term := range ids {
		n := float64(counts[term])
		weights[i] = float32(n * (k1 + 1) / (n + k1*(1-b+b*float64(length)/average)))
	}
	return ids, weights
}

// Query returns the term ids of a question, ascending and distinct, each with weight 1.
func Query(text string) (ids []uint32, weights []float32) {
	for _, term := range Terms(text) {
		ids = append(ids, id(term))
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	weights = make([]float32, len(ids))
	for i := range weights {
		weights[i] = 1
	}
	return ids, weights
}

// id hashes a term. Two of n distinct terms share an id with a chance of about n²/2^33.
func id(term string) uint32 { return uint32(xxhash.Sum64String(term)) }

// Terms returns the terms of text in their order, with repetitions.
func Terms(text string) []string {
	text = cases.Fold().String(norm.NFKC.String(strings.ToValidUTF8(text, " ")))
	var terms []string
	var run []rune // letters of a script without spaces, side by side
	flush := func() {
		if len(run) == 1 {
			terms = append(terms, string(run))
		}
		for i := 0; i+1 < len(run); i++ {
			terms = append(terms, string(run[i:i+2]))
		}
		run = run[:0]
	}
	state := -1
	for len(text) > 0 {
		var word string
		word, text, state = uniseg.FirstWordInString(text, state)
		first, _ := utf8.DecodeRuneInString(word)
		switch {
		case unspaced(first):
			for _, r := range word {
				if unspaced(r) {
					run = append(run, r)
				}
			}
			continue
		case unicode.IsLetter(first) || unicode.IsNumber(first):
			flush()
			if term := normal(word); term != "" {
				terms = append(terms, term)
			}
		default:
			flush()
		}
	}
	flush()
	return terms
}

// unspaced reports whether r is of a script whose words are not set apart by spaces, or of Korean, whose
// words carry endings that a bigram gets around.
func unspaced(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul,
		unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar) || r == 'ー'
}

// normal is the term of a word; empty for a stop word.
func normal(word string) string {
	word = strings.ReplaceAll(word, "’", "'")
	word = strings.TrimSuffix(word, "'s")
	if stopWord(word) {
		return ""
	}
	if len(word) > longest {
		word = word[:longest]
		for !utf8.ValidString(word) {
			word = word[:len(word)-1]
		}
	}
	if strings.IndexFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }) >= 0 {
		return word
	}
	env := snowballstem.NewEnv(word)
	english.Stem(env)
	return env.Current()
}

// stopWord reports whether word is English and says nothing about what a passage is about.
func stopWord(word string) bool {
	switch word {
	case "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do",
		"does", "for", "from", "had", "has", "have", "he", "her", "hers", "him", "his", "how", "i", "if",
		"in", "into", "is", "it", "its", "just", "me", "my", "no", "not", "of", "on", "or", "our", "ours",
		"s", "she", "should", "so", "some", "such", "than", "that", "the", "their", "theirs", "them",
		"then", "there", "these", "they", "this", "those", "to", "too", "us", "was", "we", "were", "what",
		"when", "where", "which", "who", "whom", "why", "will", "with", "would", "you", "your", "yours":
		return true
	}
	return false
}
