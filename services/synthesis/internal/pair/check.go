package pair

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/index/bm25"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// Reason is why something was not taken.
type Reason string

// The reasons.
const (
	Empty         Reason = "empty"
	TooLong       Reason = "too_long"
	Leak          Reason = "leak"               // of a file name, path or picture mark
	NotAlone      Reason = "not_self_contained" // speaks of "the passage"
	WrongLanguage Reason = "wrong_language"
	NotAnswerable Reason = "not_answerable" // the chunk does not hold the answer
	Judged        Reason = "judged_wrong"
	Duplicate     Reason = "duplicate"
	NearDuplicate Reason = "near_duplicate"
	SummaryLength Reason = "summary_length"
	Surplus       Reason = "more_than_asked_for"
)

// Types of pairs.
const (
	Fact         = "fact"
	Reasoning    = "reasoning"
	CrossLingual = "cross_lingual"
	MultiHop     = "multi_hop"
	Unanswerable = "unanswerable"
)

// Chunk is what pairs are checked against.
type Chunk struct {
	Text  string
	Files []string // names that must not show up

	languages []string // the main one first
	terms     map[string]bool
	numbers   map[string]bool
}

// NewChunk prepares the check of pairs from one or more texts of the named files.
func NewChunk(files []string, texts ...string) *Chunk {
	c := &Chunk{Text: strings.Join(texts, "\n\n"), Files: files, terms: map[string]bool{}, numbers: map[string]bool{}}
	c.languages = text.Languages(texts[0])
	for _, t := range bm25.Terms(c.Text) {
		c.terms[t] = true
	}
	for _, n := range number.FindAllString(c.Text, -1) {
		c.numbers[plain(n)] = true
	}
	return c
}

// Language is the main one of the (first) text.
func (c *Chunk) Language() string { return c.languages[0] }

const (
	maxQuestion = 600
	maxAnswer   = 2000
)

var (
	number    = regexp.MustCompile(`\d+(?:[.,]\d+)*`)
	fileName  = regexp.MustCompile(`(?i)\b[\w\-.]+\.(?:pdf|docx?|pptx?|xlsx?|html?|md|txt|png|jpe?g|gif|bmp|tiff?|webp|jsonl?)\b`)
	pathLike  = regexp.MustCompile(`(?:[A-Za-z]:\\|\bfile://|(?:^|[\s"'(])(?:\.{0,2}/)?(?:[\w\-.]+/){2,}[\w\-.]+)`)
	marks     = regexp.MustCompile(`(?i)\[IMAGE[_ ]|<!--|--- Extracted Images ---|extracted_assets`)
	notAlone  = regexp.MustCompile(`(?i)\b(?:(?:the|this|that|these|given|above|following|provided|preceding) (?:given |above |following |provided )?(?:passages?|texts?|documents?|excerpts?|paragraphs?|articles?|contexts?|snippets?|sections? above|chunks?)|(?:according to|in|from) (?:the|this) (?:text|passage|document|excerpt|article|context|paragraph|chunk)|mentioned above|as (?:described|stated|shown) (?:above|below))\b`)
	notAlone2 = regexp.MustCompile(`(?:本文|上文|下文|原文|这段文字|该段|本段|这篇文章|该文档|本文档|这份文档|这个文档|所给(?:文本|段落|材料)|文中|上述(?:文本|段落|材料|内容))`)
)

// Check decides on a pair: "" takes it.
func (c *Chunk) Check(p Pair) Reason {
	q, a := strings.TrimSpace(p.Question), strings.TrimSpace(p.Answer)
	switch {
	case q == "" || a == "":
		return Empty
	case utf8.RuneCountInString(q) > maxQuestion || utf8.RuneCountInString(a) > maxAnswer:
		return TooLong
	case c.leaks(q) || c.leaks(a):
		return Leak
	case c.speaksOfItself(q) || c.speaksOfItself(a):
		return NotAlone
	}
	if l := text.Language(q); l != "en" && l != "zh" {
		return WrongLanguage
	}
	if hasWords(a) && !slices.Contains(c.languages, text.Language(a)) {
		return WrongLanguage
	}
	if p.Type != Unanswerable && !c.Holds(q, a, p.Type) {
		return NotAnswerable
	}
	return ""
}

// hasWords reports whether an answer is more than a number or a name, which have no language.
func hasWords(a string) bool { return len(text.Words(a)) > 4 }

// leaks reports whether s names a file, a path or a picture mark, unless the chunk's own text does so too.
func (c *Chunk) leaks(s string) bool {
	if marks.MatchString(s) {
		return true
	}
	lower := strings.ToLower(s)
	for _, f := range c.Files {
		if f == "" {
			continue
		}
		base := strings.ToLower(path.Base(strings.ReplaceAll(f, `\`, "/")))
		stem := strings.TrimSuffix(base, path.Ext(base))
		if strings.Contains(lower, base) {
			return true
		}
		// A stem of one plain word is a word like others; one with digits, _ or - is a file's.
		if len(stem) > 4 && strings.ContainsAny(stem, "_-0123456789") && strings.Contains(lower, stem) && !strings.Contains(strings.ToLower(c.Text), stem) {
			return true
		}
	}
	for _, m := range append(fileName.FindAllString(s, -1), pathLike.FindAllString(s, -1)...) {
		if !strings.Contains(c.Text, strings.TrimLeft(strings.TrimSpace(m), `"'(`)) {
			return true
		}
	}
	return false
}

// speaksOfItself reports whether s points at a text that its reader does not have, in words that the text has not.
func (c *Chunk) speaksOfItself(s string) bool {
	for _, re := range []*regexp.Regexp{notAlone, notAlone2} {
		for _, m := range re.FindAllString(s, -1) {
			if !strings.Contains(strings.ToLower(c.Text), strings.ToLower(m)) {
				return true
			}
		}
	}
	return false
}

// need is the share of an answer's content words that its chunk must hold, by type: reasoning brings words of its own.
var need = map[string]float64{Fact: 0.6, CrossLingual: 0.5, Reasoning: 0.45, MultiHop: 0.45}

// Holds reports whether the chunk can be what the answer was taken from: enough of its content words and, for facts,
// all of its numbers are in it.
func (c *Chunk) Holds(question, answer, kind string) bool {
	least, known := need[kind]
	if !known {
		least = need[Fact]
	}
	terms := distinct(bm25.Terms(answer))
	if len(terms) == 0 {
		// "Yes" and "No": then the question has to be about the chunk.
		terms = distinct(bm25.Terms(question))
	}
	found := 0
	for _, t := range terms {
		if c.terms[t] {
			found++
		}
	}
	if len(terms) > 0 && float64(found) < least*float64(len(terms)) {
		return false
	}
	if kind == Reasoning || kind == MultiHop {
		return true // sums and differences are not in the text
	}
	for _, n := range number.FindAllString(answer, -1) {
		if !c.numbers[plain(n)] && !strings.Contains(c.Text, n) {
			return false
		}
	}
	return true
}

// plain writes a number without marks between digits and without zeros that say nothing.
func plain(n string) string {
	return strings.TrimLeft(strings.ReplaceAll(strings.TrimRight(n, ".,"), ",", ""), "0")
}

func distinct(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// The summary is asked to be 50 to 80 percent of its text; what is far off is not one.
const (
	leastSummary = 0.15
	mostSummary  = 1.2
)

// CheckSummary decides on a summary: "" takes it.
func (c *Chunk) CheckSummary(s string) Reason {
	n, whole := float64(utf8.RuneCountInString(s)), float64(utf8.RuneCountInString(c.Text))
	switch {
	case s == "":
		return Empty
	case n < leastSummary*whole || n > mostSummary*whole:
		return SummaryLength
	case c.leaks(s):
		return Leak
	case !slices.Contains(c.languages, text.Language(s)):
		return WrongLanguage
	case c.speaksOfItself(s):
		return NotAlone
	}
	terms := distinct(bm25.Terms(s))
	found := 0
	for _, t := range terms {
		if c.terms[t] {
			found++
		}
	}
	if float64(found) < 0.4*float64(len(terms)) {
		return NotAnswerable
	}
	return ""
}

// nearQuestion is how alike two questions are that ask the same.
const nearQuestion = 0.8

// Set finds duplicates over a whole data set. The zero value is empty.
type Set struct {
	exact map[string]bool
	near  text.Index
}

// Add takes a question unless the set has it: "" says that it was taken.
func (s *Set) Add(question string) Reason {
	if s.exact == nil {
		s.exact = map[string]bool{}
	}
	key := text.Normal(question)
	if s.exact[key] {
		return Duplicate
	}
	if s.near.Near(question, nearQuestion) {
		return NearDuplicate
	}
	s.exact[key] = true
	return ""
}

// Crosses reports whether a question is in the other one of the two languages of questions than its text.
func Crosses(question, language string) bool {
	q := text.Language(question)
	return q != language && (language == "en" || language == "zh") && (q == "en" || q == "zh")
}
