package dataset

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is the kind of a sample, which is the file it belongs in.
type Kind string

const (
	Any         Kind = ""            // each line tells: clara_training_data.jsonl
	Pretrain    Kind = "pretrain"    // stage 1: pretrain_data.jsonl
	Instruction Kind = "instruction" // stage 2: instruction_data.jsonl
	EndToEnd    Kind = "end_to_end"  // stage 3: end_to_end_data.jsonl
)

// Data types of pretraining samples.
const (
	QA         = "qa"         // answer all questions from the document
	Paraphrase = "paraphrase" // say the document again
)

// Sample is one line, whatever spelling it had.
type Sample struct {
	Kind     Kind
	ID       string // empty if the line has none
	DataType string // QA or Paraphrase; QA outside pretraining

	// Questions and Answers: of a pretraining QA sample one answer a question, of
	// a paraphrase sample no question and the paraphrase, else one of each.
	Questions []string
	Answers   []string // what is trained on
	// Golds are all answers that count in scores, Answers[0] first.
	Golds []string
	// Aliases are the golds that came as answer_aliases.
	Aliases []string

	Docs []string // never empty, none of them blank
	// PosIndex holds the places of the positives in Docs; nil if unknown.
	PosIndex []int

	// Sources name the documents that the sample is about, "source_ids" in the files; nil if unknown. They say which
	// samples belong together, and nothing else.
	Sources []string

	File string
	Line int // from 1
}

// Question returns the only question of a sample that is not pretraining.
func (s Sample) Question() string {
	if len(s.Questions) == 0 {
		return ""
	}
	return s.Questions[0]
}

// Answer returns the answer that is trained on.
func (s Sample) Answer() string {
	if len(s.Answers) == 0 {
		return ""
	}
	return s.Answers[0]
}

// Fault is a line that cannot be used.
type Fault struct {
	File   string
	Line   int
	Reason string
}

func (f Fault) String() string { return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Reason) }

// Faults is an error of one or more faulty lines.
type Faults struct{ List []Fault }

// shownFaults bounds an error's text; List has them all.
const shownFaults = 20

func (f *Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d faulty lines", len(f.List))
	if len(f.List) == 1 {
		b.Reset()
		b.WriteString("1 faulty line")
	}
	for i, fault := range f.List {
		if i == shownFaults {
			fmt.Fprintf(&b, "\n  and %d more", len(f.List)-i)
			break
		}
		b.WriteString("\n  " + fault.String())
	}
	return b.String()
}

// addUnique appends what is not there yet.
func addUnique(list []string, more ...string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
