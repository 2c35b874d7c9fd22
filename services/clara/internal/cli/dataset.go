package cli

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/services/synthesis"
)

// printData writes a value as a JSON line if asked to, else calls human.
func (e *Env) printData(v any, human func(w io.Writer)) error {
	if !e.JSON {
		human(e.Out)
		return nil
	}
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	_, err = fmt.Fprintf(e.Out, "%s\n", line)
	return err
}

// DataCheck checks training files.
type DataCheck struct {
	File         []string `arg:"" optional:"" help:"Training files."`
	InputFile    string   `hidden:"" aliases:"input_file"`
	ExpectedTopK int      `name:"expected-top-k" help:"Documents that every question must have; 0: any number." aliases:"expected_top_k"`
	Kind         string   `help:"What the lines are for: pretrain, instruction or end_to_end; default: what the file's name says, else what each line says." enum:",pretrain,instruction,end_to_end" default:""`
	Verbose      bool     `help:"Print all faulty lines, not the first 20."`
}

// Run prints a report a file; it fails if any line is faulty.
func (c *DataCheck) Run(_ context.Context, e *Env) error {
	files := c.File
	if c.InputFile != "" {
		files = append(files, c.InputFile)
	}
	if len(files) == 0 {
		return clara.Errorf(clara.Invalid, "name the file to check")
	}
	faulty := 0
	for _, path := range files {
		kind := dataset.Kind(c.Kind)
		if kind == dataset.Any {
			kind = kindOf(path)
		}
		if isKnowledge(path) {
			return clara.Errorf(clara.Invalid, "%s holds extracted documents, no samples: make samples of it with clara data synthesize", path)
		}
		r, err := dataset.CheckFile(path, kind, c.ExpectedTopK)
		if err != nil {
			return err
		}
		faulty += len(r.Faults)
		if r.Samples == 0 && r.OK() {
			faulty++
			r.Faults = append(r.Faults, dataset.Fault{File: path, Line: 1, Reason: "the file holds no samples"})
		}
		if err := e.printData(r, func(w io.Writer) { c.print(w, path, r) }); err != nil {
			return err
		}
	}
	if faulty > 0 {
		return clara.Errorf(clara.Invalid, "%d faulty lines", faulty)
	}
	return nil
}

// shownFaults bounds the list without --verbose.
const shownFaults = 20

func (c *DataCheck) print(w io.Writer, path string, r dataset.Report) {
	verdict := "good"
	if !r.OK() {
		verdict = fmt.Sprintf("%d faulty lines", len(r.Faults))
	}
	fmt.Fprintf(w, "%s: %d samples, %s\n", path, r.Samples, verdict)
	histogram(w, r.Docs)
	for i, f := range r.Faults {
		if i == shownFaults && !c.Verbose {
			fmt.Fprintf(w, "  and %d more; --verbose prints all\n", len(r.Faults)-i)
			break
		}
		fmt.Fprintf(w, "  %s\n", f)
	}
}

// histogram draws the samples by their number of documents.
func histogram(w io.Writer, docs map[int]int) {
	if len(docs) == 0 {
		return
	}
	most := slices.Max(slices.Collect(maps.Values(docs)))
	fmt.Fprintln(w, "  documents a sample:")
	for _, n := range slices.Sorted(maps.Keys(docs)) {
		fmt.Fprintf(w, "  %4d  %-40s %d\n", n, strings.Repeat("#", max(1, 40*docs[n]/most)), docs[n])
	}
}

// DataStats counts what files hold.
type DataStats struct {
	File []string `arg:"" help:"Training files."`
}

// stats is what a file holds.
type stats struct {
	File          string         `json:"file"`
	Samples       int            `json:"samples"`
	Kinds         map[string]int `json:"kinds"`
	Documents     map[int]int    `json:"documents_per_sample"`
	Distinct      int            `json:"distinct_documents"`
	DocChars      int            `json:"mean_document_characters"`
	LongestDoc    int            `json:"longest_document_characters"`
	QuestionChars int            `json:"mean_question_characters"`
	AnswerChars   int            `json:"mean_answer_characters"`
	Unanswered    int            `json:"without_positives"`
}

// Run prints a table a file.
func (s *DataStats) Run(_ context.Context, e *Env) error {
	for _, path := range s.File {
		samples, err := dataset.ReadFiles(kindOf(path), path)
		if err != nil {
			return err
		}
		x := tally(path, samples)
		if err := e.printData(x, func(w io.Writer) {
			table(w, []string{"FIGURE", x.File}, [][]string{
				{"samples", fmt.Sprint(x.Samples)}, {"kinds", counted(x.Kinds)}, {"distinct documents", fmt.Sprint(x.Distinct)},
				{"characters of a document", fmt.Sprintf("%d on average, %d at most", x.DocChars, x.LongestDoc)},
				{"characters of a question", fmt.Sprint(x.QuestionChars)}, {"characters of an answer", fmt.Sprint(x.AnswerChars)},
				{"questions without positives", fmt.Sprint(x.Unanswered)},
			})
			histogram(w, x.Documents)
		}); err != nil {
			return err
		}
	}
	return nil
}

// counted lists counts by name.
func counted(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}

func tally(path string, samples []dataset.Sample) stats {
	x := stats{File: path, Samples: len(samples), Kinds: map[string]int{}, Documents: map[int]int{}}
	distinct := map[string]bool{}
	chars, questions, answers := 0, 0, 0
	for _, s := range samples {
		kind := string(s.Kind)
		if s.Kind == dataset.Pretrain {
			kind += "/" + s.DataType
		}
		x.Kinds[kind]++
		x.Documents[len(s.Docs)]++
		for _, d := range s.Docs {
			if !distinct[d] {
				distinct[d] = true
				n := len([]rune(d))
				chars += n
				x.LongestDoc = max(x.LongestDoc, n)
			}
		}
		for _, q := range s.Questions {
			questions++
			x.QuestionChars += len([]rune(q))
		}
		for _, a := range s.Answers {
			answers++
			x.AnswerChars += len([]rune(a))
		}
		if s.PosIndex != nil && len(s.PosIndex) == 0 {
			x.Unanswered++
		}
	}
	x.Distinct = len(distinct)
	x.DocChars = chars / max(1, len(distinct))
	x.QuestionChars /= max(1, questions)
	x.AnswerChars /= max(1, answers)
	return x
}

// DataSplit cuts a file into train and dev.
type DataSplit struct {
	File []string `arg:"" help:"Training files; the same documents go the same way in all of them."`
	Dev  float64  `help:"Share of documents for dev." default:"0.1"`
	Seed int64    `help:"Chooses the documents." default:"42"`
	Out  string   `help:"Folder for train.NAME and dev.NAME; default: beside each file." placeholder:"DIR"`
}

// Run writes train.NAME and dev.NAME for each file. The document that a question is about decides where it goes; a
// question about documents on both sides goes to neither, and its number is told. No text of one side is a document of
// the other: wrong documents from the other side are replaced.
func (s *DataSplit) Run(ctx context.Context, e *Env) error {
	if s.Dev <= 0 || s.Dev >= 1 {
		return clara.Errorf(clara.Invalid, "dev %g: must be between 0 and 1", s.Dev)
	}
	x := splitter{DataSplit: s, about: map[string][]string{}, sides: map[string]side{}, pools: map[side][]string{}}
	files := make([][]dataset.Sample, len(s.File))
	for i, path := range s.File {
		var err error
		if files[i], err = dataset.ReadFiles(kindOf(path), path); err != nil {
			return err
		}
	}
	x.learn(files)
	for i, path := range s.File {
		parts, left, short, err := x.split(ctx, files[i])
		if err != nil {
			return err
		}
		dir := s.Out
		if dir == "" {
			dir = filepath.Dir(path)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return clara.Errorf(clara.Unavailable, "make %s: %w", dir, err)
		}
		for side, prefix := range map[side]string{trainSide: "train.", devSide: "dev."} {
			if err := writeSamples(filepath.Join(dir, prefix+filepath.Base(path)), parts[side]); err != nil {
				return err
			}
		}
		if err := e.printData(map[string]any{"file": path, "train": len(parts[trainSide]), "dev": len(parts[devSide]), "left_out": left, "short": short}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d for training, %d for dev, %d left out (documents on both sides)\n", path, len(parts[trainSide]), len(parts[devSide]), left)
			if short > 0 {
				fmt.Fprintf(w, "  %d have fewer documents than before: their side has no others that do not answer them\n", short)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

type side int

const (
	bothSides side = iota
	trainSide
	devSide
)

// splitter knows where texts go.
type splitter struct {
	*DataSplit
	about map[string][]string // documents that answer a question, as far as any of the files knows
	sides map[string]side     // of texts
	pools map[side][]string
	most  int // documents of a sample
	// moved goes to movedTo, whatever chance says.
	moved   string
	movedTo side
	fill    map[side]*synthesis.Replacer
}

// learn finds the side of every text in the files.
func (s *splitter) learn(files [][]dataset.Sample) {
	sources := map[string][]string{} // of texts
	var texts []string
	seen := map[string]bool{}
	for _, samples := range files {
		for _, x := range samples {
			s.most = max(s.most, len(x.Docs))
			docs, known := answering(x)
			if known {
				for _, q := range x.Questions {
					s.about[q] = docs
				}
			}
			if len(x.Sources) == 1 {
				for _, d := range docs {
					sources[d] = x.Sources
				}
			}
			for _, d := range x.Docs {
				if !seen[d] {
					seen[d] = true
					texts = append(texts, d)
				}
			}
		}
	}
	for _, d := range texts {
		if sources[d] == nil {
			sources[d] = []string{d} // it belongs to no known document: it is one
		}
	}
	s.fillBoth(sources)
	for _, d := range texts {
		of := sources[d]
		s.sides[d] = s.side(of)
		s.pools[s.sides[d]] = append(s.pools[s.sides[d]], d)
	}
	s.fill = map[side]*synthesis.Replacer{}
	for side, pool := range s.pools {
		s.fill[side] = synthesis.NewReplacer(pool, s.most, s.Seed)
	}
}

// answering are the documents that a sample's answer is in, and whether that is known.
func answering(x dataset.Sample) ([]string, bool) {
	if x.Kind == dataset.Pretrain || x.PosIndex == nil && len(x.Docs) == 1 {
		return x.Docs, true
	}
	var docs []string
	for _, p := range x.PosIndex {
		docs = append(docs, x.Docs[p])
	}
	return docs, x.PosIndex != nil
}

// split puts samples on their sides, and counts those that have none and those that have lost documents.
func (s *splitter) split(ctx context.Context, samples []dataset.Sample) (parts map[side][]dataset.Sample, left, short int, err error) {
	parts = map[side][]dataset.Sample{}
	for _, x := range samples {
		docs, known := answering(x)
		if !known {
			if docs, known = s.about[x.Question()]; !known {
				docs = x.Docs // nobody knows which: it must not matter
			}
		}
		at := s.of(x, docs)
		if at == bothSides {
			left++
			continue
		}
		y, err := s.fill[at].Replace(ctx, x, docs)
		if err != nil {
			return nil, 0, 0, err
		}
		if len(y.Docs) < len(x.Docs) {
			short++
		}
		if len(y.Docs) == 0 {
			left++
			continue
		}
		parts[at] = append(parts[at], y)
	}
	return parts, left, short, nil
}

// of is the side of a sample with its answering documents.
func (s *splitter) of(x dataset.Sample, docs []string) side {
	if len(docs) == 0 { // nothing answers it
		if len(x.Sources) > 0 {
			return s.side(x.Sources)
		}
		return s.side(x.Questions)
	}
	at := s.sides[docs[0]]
	for _, d := range docs[1:] {
		if s.sides[d] != at {
			return bothSides
		}
	}
	return at
}

// fillBoth moves one document where there are so few that chance has put all of them on one side.
func (s *splitter) fillBoth(sources map[string][]string) {
	first, last := "", ""
	for _, names := range sources {
		for _, d := range names {
			if first == "" || s.place(d) < s.place(first) {
				first = d
			}
			if last == "" || s.place(d) > s.place(last) {
				last = d
			}
		}
	}
	if first == last {
		return
	}
	if s.place(first) >= s.Dev {
		s.moved, s.movedTo = first, devSide
	} else if s.place(last) < s.Dev {
		s.moved, s.movedTo = last, trainSide
	}
}

// place is where chance puts a document: 0 to 1.
func (s *splitter) place(name string) float64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s", s.Seed, name))
	return float64(binary.BigEndian.Uint64(sum[:])) / (1 << 64)
}

// side is where documents of these names go.
func (s *splitter) side(names []string) side {
	at := bothSides
	for i, d := range names {
		to := trainSide
		switch {
		case d == s.moved:
			to = s.movedTo
		case s.place(d) < s.Dev:
			to = devSide
		}
		if i > 0 && to != at {
			return bothSides
		}
		at = to
	}
	return at
}

// isKnowledge reports whether a file holds extracted documents and no samples: by its name, or by its first line, since
// users name it as they like. A sample may have its documents under "content" too, but it has no file's name.
func isKnowledge(path string) bool {
	if strings.Contains(filepath.Base(path), "raw_knowledge") {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false // whoever reads it says so
	}
	defer f.Close()
	var line map[string]json.RawMessage
	if json.NewDecoder(f).Decode(&line) != nil {
		return false // so does the check
	}
	has := func(name string) bool { _, ok := line[name]; return ok }
	return has("content") && (has("file_path") || has("filename")) && !has("question") && !has("instruction")
}

// DataClean removes what an older pipeline has left.
type DataClean struct {
	File   []string `arg:"" help:"Training files or raw_knowledge.jsonl to rewrite."`
	Assets string   `help:"Folder of extracted pictures: those that no file names any more are deleted." placeholder:"DIR"`
}

var oldMarks = regexp.MustCompile(`[ \t]*(?:\[IMAGE_REF:[^\]\n]*\]|<!--\s*image\s*-->)|(?m:^-{2,}\s*Extracted Images\s*-{2,}[ \t]*$)`)

// Run rewrites files without picture marks; lines of raw_knowledge.jsonl keep the marks of pictures that are there.
func (c *DataClean) Run(_ context.Context, e *Env) error {
	var all []dataset.Document
	for _, path := range c.File {
		removed := 0
		clean := func(s string) string {
			out := oldMarks.ReplaceAllStringFunc(s, func(string) string { removed++; return "" })
			if out != s {
				out = strings.TrimSpace(out)
			}
			return out
		}
		if isKnowledge(path) {
			docs, err := readKnowledge(path)
			if err != nil {
				return err
			}
			for i := range docs {
				docs[i].ExtractedImages = slices.DeleteFunc(docs[i].ExtractedImages, func(p string) bool { return !allThere([]string{p}) })
				docs[i].Content = marks.ReplaceAllStringFunc(docs[i].Content, func(m string) string {
					ref := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(m), "[IMAGE_REF:"), "]"))
					if allThere([]string{ref}) {
						return m
					}
					removed++
					return ""
				})
			}
			all = append(all, docs...)
			if err := writeKnowledge(path, docs); err != nil {
				return err
			}
		} else {
			samples, err := dataset.ReadFiles(kindOf(path), path)
			if err != nil {
				return err
			}
			for i := range samples {
				for _, list := range [][]string{samples[i].Docs, samples[i].Questions, samples[i].Answers, samples[i].Golds} {
					for j := range list {
						list[j] = clean(list[j])
					}
				}
			}
			if err := writeSamples(path, samples); err != nil {
				return err
			}
		}
		if err := e.printData(map[string]any{"file": path, "removed": removed}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d marks removed\n", path, removed)
		}); err != nil {
			return err
		}
	}
	if c.Assets == "" {
		return nil
	}
	if len(all) == 0 {
		return clara.Errorf(clara.Invalid, "--assets needs the raw_knowledge.jsonl that names the pictures to keep")
	}
	return removeAssets(c.Assets, all)
}

// DataShow shows samples.
type DataShow struct {
	File  string `arg:"" help:"Training file."`
	Count int    `help:"Samples to show." short:"n" default:"3"`
	From  int    `help:"First sample, from 1." default:"1"`
	Chars int    `help:"Characters of a document to show; 0: all." default:"300"`
}

// Run prints samples for people.
func (s *DataShow) Run(_ context.Context, e *Env) error {
	samples, err := dataset.ReadFiles(kindOf(s.File), s.File)
	if err != nil {
		return err
	}
	from := max(s.From, 1) - 1
	if from >= len(samples) {
		return clara.Errorf(clara.Invalid, "--from %d: %s has %d samples", s.From, s.File, len(samples))
	}
	for i, x := range samples[from:min(from+max(s.Count, 0), len(samples))] {
		if err := e.printData(x, func(w io.Writer) { s.print(w, from+i+1, x) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *DataShow) print(w io.Writer, n int, x dataset.Sample) {
	fmt.Fprintf(w, "── %d (line %d): %s, %s, %d documents %s\n", n, x.Line, x.Kind, x.DataType, len(x.Docs), x.ID)
	for i, a := range x.Answers {
		if i < len(x.Questions) {
			fmt.Fprintf(w, "   Q  %s\n", x.Questions[i])
		}
		fmt.Fprintf(w, "   A  %s\n", a)
	}
	for i, d := range x.Docs {
		mark := " "
		if slices.Contains(x.PosIndex, i) {
			mark = "+"
		}
		r := []rune(strings.Join(strings.Fields(d), " "))
		if s.Chars > 0 && len(r) > s.Chars {
			r = append(r[:s.Chars], '…')
		}
		fmt.Fprintf(w, " %s %2d  %s\n", mark, i, string(r))
	}
	fmt.Fprintln(w)
}
