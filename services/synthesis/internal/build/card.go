package build

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/services/synthesis/internal/pair"
	"github.com/clara-suite/clara/services/synthesis/internal/prompt"
)

// Card says what a data set was made of and how. It holds no secrets and no times: equal builds have equal cards.
type Card struct {
	Complete bool   `json:"complete"`
	Stopped  string `json:"stopped,omitempty"` // why the build ended before all was asked

	PromptVersion  string   `json:"prompt_version"`
	Endpoint       string   `json:"endpoint"`
	Model          string   `json:"model"`
	AnsweredBy     []string `json:"answered_by"` // models as the endpoint names them
	JudgeModel     string   `json:"judge_model,omitempty"`
	EmbeddingModel string   `json:"embedding_model,omitempty"`
	Recipe         Recipe   `json:"recipe"`

	Documents        int                 `json:"documents"`
	Sources          []Origin            `json:"sources"`
	Pictures         Pictures            `json:"pictures"`
	Chunks           Chunks              `json:"chunks"`
	Summaries        int                 `json:"summaries"`
	Pairs            map[string]int      `json:"pairs"`
	Refused          map[pair.Reason]int `json:"refused"`
	RefusedSummaries map[pair.Reason]int `json:"refused_summaries"`
	AskedAgain       int                 `json:"asked_again"`
	Candidates       struct {
		// Filtered counts wrong candidates that were left out because they may answer the question too.
		Filtered int `json:"filtered"`
		// Short counts samples with fewer than top_k documents, for want of chunks that do not answer the question.
		Short int `json:"short"`
	} `json:"candidates"`
	Usage    Use       `json:"usage"`
	Files    []File    `json:"files"`
	Failures []Failure `json:"failures"`
}

// Chunks counts the pieces that documents were cut into.
type Chunks struct {
	Total  int `json:"total"`
	Done   int `json:"done"`
	Failed int `json:"failed"` // or not reached
	// Duplicates were there before, word for word, and are left out of Total.
	Duplicates int `json:"duplicates"`
	// WithoutPairs are those of Done of which no pair passed the checks.
	WithoutPairs int `json:"without_pairs"`
}

// Origin is a document that chunks come from.
type Origin struct {
	Path   string `json:"path"`
	Area   string `json:"product_area,omitempty"`
	Image  bool   `json:"image,omitempty"`
	Chunks int    `json:"chunks"`
	Pairs  int    `json:"pairs"`
	// MissingPictures counts pictures in it of which nothing is known.
	MissingPictures int `json:"missing_pictures,omitempty"`
}

// Pictures is what became of pictures.
type Pictures struct {
	Described int    `json:"described"`
	Read      int    `json:"read_by_ocr"`
	Skipped   int    `json:"skipped"`
	Failed    int    `json:"failed"`
	Model     string `json:"model,omitempty"`
}

// Use is what the answers have cost, when they were asked for.
type Use llm.Usage

func (u *Use) add(x llm.Usage) {
	u.Requests += x.Requests
	u.Retries += x.Retries
	u.PromptTokens += x.PromptTokens
	u.CompletionTokens += x.CompletionTokens
	u.Cost += x.Cost
}

// File is one of the files.
type File struct {
	Name    string `json:"file"`
	Samples int    `json:"samples"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
}

func newCard(b *builder, duplicates int) *Card {
	c := &Card{
		PromptVersion: prompt.Version, Endpoint: b.Endpoint, Model: b.Model, Recipe: b.Recipe, Documents: len(b.sources), Pictures: b.Options.Pictures,
		Pairs: map[string]int{}, Refused: map[pair.Reason]int{}, RefusedSummaries: map[pair.Reason]int{},
	}
	if b.Recipe.Negatives == Embedding {
		c.EmbeddingModel = b.EmbeddingModel
	}
	if b.Recipe.Judge {
		c.JudgeModel = b.JudgeModel
	}
	c.Chunks.Total, c.Chunks.Duplicates = len(b.chunks), duplicates
	for _, s := range b.sources {
		c.Sources = append(c.Sources, Origin{Path: s.Path, Area: s.Area, Image: s.Image, MissingPictures: s.Missing})
	}
	for _, x := range b.chunks {
		c.Sources[x.source].Chunks++
	}
	return c
}

// answered counts a task's answer.
func (c *Card) answered(t *task) {
	c.Usage.add(t.answer.Usage)
	c.AskedAgain += max(0, t.answer.Asked-1)
	if m := t.answer.Model; m != "" && !slices.Contains(c.AnsweredBy, m) {
		c.AnsweredBy = append(c.AnsweredBy, m)
	}
}

func (c *Card) source(i, pairs int) { c.Sources[i].Pairs += pairs }

// PairCount is the number of pairs of all types.
func (c *Card) PairCount() int {
	n := 0
	for _, x := range c.Pairs {
		n += x
	}
	return n
}

// shownFailures bounds the list in the text; the JSON has all.
const shownFailures = 50

// Markdown writes the card for people.
func (c *Card) Markdown() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Data card\n")
	if c.Complete {
		line("Complete: every chunk was asked about.\n")
	} else {
		line("**Not complete**: %d parts failed or were not reached. %s Build again to go on where this stopped.\n", max(len(c.Failures), c.Chunks.Failed), cell(c.Stopped))
	}
	line("| what | value |\n| --- | --- |")
	for _, row := range [][2]string{
		{"model", c.Model}, {"answered by", strings.Join(c.AnsweredBy, ", ")}, {"endpoint", c.Endpoint}, {"prompts", "version " + c.PromptVersion},
		{"chunk size", fmt.Sprint(c.Recipe.ChunkChars, " characters")}, {"candidates", fmt.Sprintf("%d, wrong ones by %s", c.Recipe.TopK, c.Recipe.Negatives)}, {"seed", fmt.Sprint(c.Recipe.Seed)},
		{"documents", fmt.Sprint(c.Documents)}, {"chunks", fmt.Sprintf("%d, of which %d failed, %d are without pairs; %d repeated ones left out", c.Chunks.Total, c.Chunks.Failed, c.Chunks.WithoutPairs, c.Chunks.Duplicates)},
		{"pictures", fmt.Sprintf("%d described, %d read, %d skipped, %d failed", c.Pictures.Described, c.Pictures.Read, c.Pictures.Skipped, c.Pictures.Failed)},
		{"vision model", c.Pictures.Model}, {"judge", c.JudgeModel}, {"embeddings", c.EmbeddingModel}, {"summaries", fmt.Sprint(c.Summaries)}, {"pairs", fmt.Sprint(c.PairCount())}, {"asked again", fmt.Sprint(c.AskedAgain)},
		{"candidates left out", fmt.Sprintf("%d that may answer the question too; %d samples have fewer than %d documents", c.Candidates.Filtered, c.Candidates.Short, c.Recipe.TopK)},
		{"tokens", fmt.Sprintf("%d in, %d out, %d requests", c.Usage.PromptTokens, c.Usage.CompletionTokens, c.Usage.Requests)}, {"cost", fmt.Sprintf("%.4f", c.Usage.Cost)},
	} {
		if row[1] != "" {
			line("| %s | %s |", row[0], cell(row[1]))
		}
	}
	counts := func(title string, m map[string]int) {
		if len(m) == 0 {
			return
		}
		line("\n## %s\n\n| what | count |\n| --- | ---: |", title)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			line("| %s | %d |", cell(k), m[k])
		}
	}
	counts("Pairs", c.Pairs)
	counts("Refused pairs", plain(c.Refused))
	counts("Refused summaries", plain(c.RefusedSummaries))
	line("\n## Files\n\n| file | samples | bytes | SHA-256 |\n| --- | ---: | ---: | --- |")
	for _, f := range c.Files {
		line("| %s | %d | %d | %s |", f.Name, f.Samples, f.Bytes, f.SHA256)
	}
	line("\n## Sources\n\n| document | area | chunks | pairs | unknown pictures |\n| --- | --- | ---: | ---: | ---: |")
	for _, s := range c.Sources {
		line("| %s | %s | %d | %d | %d |", cell(s.Path), cell(s.Area), s.Chunks, s.Pairs, s.MissingPictures)
	}
	if len(c.Failures) > 0 {
		line("\n## Failures\n")
		for _, f := range c.Failures[:min(len(c.Failures), shownFailures)] {
			line("- %s: %s", cell(f.Item), cell(f.Reason))
		}
		if n := len(c.Failures) - shownFailures; n > 0 {
			line("- and %d more", n)
		}
	}
	return b.Bytes()
}

func plain(m map[pair.Reason]int) map[string]int {
	out := map[string]int{}
	for k, n := range m {
		out[string(k)] = n
	}
	return out
}

// cell keeps a text within a cell of a table.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ", "\r", "").Replace(s) }
