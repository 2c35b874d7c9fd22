package dataset

import (
	"encoding/json"
	"io"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
)

// Writer writes JSON lines with keys in a fixed order, so that equal samples
// give equal bytes.
type Writer struct{ enc *json.Encoder }

// NewWriter returns a Writer to w, which it does not buffer.
func NewWriter(w io.Writer) *Writer {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // Chinese and markup stay readable
	return &Writer{enc: enc}
}

// Write writes a sample under the keys of its kind. It is an Invalid error if
// a reader would refuse the line, or if the kind is Any.
func (w *Writer) Write(s Sample) error {
	var v any
	switch s.Kind {
	case Pretrain:
		questions := s.Questions
		if questions == nil {
			questions = []string{}
		}
		v = struct {
			ID       string   `json:"id,omitempty"`
			DataType string   `json:"data_type"`
			Question []string `json:"question"`
			Answers  []string `json:"answers"`
			Docs     []string `json:"docs"`
			Sources  []string `json:"source_ids,omitempty"`
		}{s.ID, s.DataType, questions, s.Answers, s.Docs, s.Sources}
	case Instruction, EndToEnd:
		var golds []string
		for _, g := range s.Golds {
			if !slices.Contains(s.Aliases, g) {
				golds = append(golds, g)
			}
		}
		if len(golds) < 2 {
			golds = nil // gold_answer says it
		}
		v = struct {
			ID       string   `json:"id,omitempty"`
			Question string   `json:"question"`
			Docs     []string `json:"docs"`
			Gold     string   `json:"gold_answer"`
			Golds    []string `json:"golden_answers,omitempty"`
			Aliases  []string `json:"answer_aliases,omitempty"`
			PosIndex []int    `json:"pos_index,omitzero"`
			Sources  []string `json:"source_ids,omitempty"`
		}{s.ID, s.Question(), s.Docs, s.Answer(), golds, s.Aliases, s.PosIndex, s.Sources}
	default:
		return clara.Errorf(clara.Invalid, "write sample: kind %q has no file of its own", s.Kind)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return clara.Errorf(clara.Invalid, "write sample: %w", err)
	}
	if _, err := parse(raw, s.Kind); err != nil {
		return clara.Errorf(clara.Invalid, "write sample: %w", err)
	}
	if err := w.enc.Encode(v); err != nil {
		return clara.Errorf(clara.Unavailable, "write sample: %w", err)
	}
	return nil
}

// WriteDocument writes a line of raw_knowledge.jsonl.
func (w *Writer) WriteDocument(d Document) error {
	if err := w.enc.Encode(d); err != nil {
		return clara.Errorf(clara.Unavailable, "write document: %w", err)
	}
	return nil
}
