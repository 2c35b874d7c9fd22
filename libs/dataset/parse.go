package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// line is one JSON object while it is taken apart.
type line map[string]json.RawMessage

func (l line) raw(key string) json.RawMessage {
	v := l[key]
	if len(v) == 0 || bytes.Equal(v, []byte("null")) {
		return nil
	}
	return v
}

// text returns the text under key; ok is false if it is absent.
func (l line) text(key string) (s string, ok bool, err error) {
	raw := l.raw(key)
	if raw == nil {
		return "", false, nil
	}
	if json.Unmarshal(raw, &s) != nil {
		return "", false, fmt.Errorf("%q must be a text", key)
	}
	return s, true, nil
}

// texts returns the text or list of texts under key; list says which it was.
func (l line) texts(key string) (values []string, list, ok bool, err error) {
	raw := l.raw(key)
	if raw == nil {
		return nil, false, false, nil
	}
	if raw[0] != '[' {
		s, _, err := l.text(key)
		if err != nil {
			return nil, false, false, fmt.Errorf("%q must be a text or a list of texts", key)
		}
		return []string{s}, false, true, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, false, false, fmt.Errorf("%q: %w", key, err)
	}
	values = make([]string, len(items))
	for i, item := range items {
		if item[0] != '"' || json.Unmarshal(item, &values[i]) != nil {
			return nil, false, false, fmt.Errorf("%q[%d] must be a text", key, i)
		}
	}
	return values, true, true, nil
}

// parse reads one line as a sample of the kind; Any lets the line tell.
func parse(data []byte, kind Kind) (Sample, error) {
	if !utf8.Valid(data) {
		return Sample{}, errors.New("not UTF-8")
	}
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
			return Sample{}, errors.New("a JSON list where one object a line is expected (JSONL)")
		}
		return Sample{}, fmt.Errorf("not a JSON object: %w", err)
	}
	if l == nil {
		return Sample{}, errors.New("null where an object is expected")
	}
	s := Sample{Kind: kind, DataType: QA}
	if kind == Any {
		s.Kind = l.kind()
	}
	for _, step := range []func(*Sample) error{l.parseID, l.parseDataType, l.parseDocs, l.parseQuestions, l.parseAnswers, l.parsePositives, l.parseSources} {
		if err := step(&s); err != nil {
			return Sample{}, err
		}
	}
	return s, s.check()
}

// kind guesses what a line of a mixed file is for.
func (l line) kind() Kind {
	dataType, _, _ := l.text("data_type")
	question := l.raw("question")
	several := len(question) > 0 && question[0] == '['
	switch {
	case dataType == Paraphrase || several && l.raw("pos_index") == nil && l.docCount() == 1:
		return Pretrain
	case l.raw("pos_index") != nil:
		return EndToEnd
	}
	return Instruction
}

func (l line) docCount() int {
	for _, key := range docKeys() {
		if values, _, ok, err := l.texts(key); ok && err == nil {
			return len(values)
		}
	}
	return 0
}

func docKeys() []string { return []string{"docs", "context", "content"} }

func (l line) parseID(s *Sample) error {
	raw := l.raw("id")
	if raw == nil {
		return nil
	}
	if raw[0] != '"' {
		s.ID = string(raw) // a number is as good
		return nil
	}
	var err error
	s.ID, _, err = l.text("id")
	return err
}

func (l line) parseDataType(s *Sample) error {
	dataType, ok, err := l.text("data_type")
	if err != nil || !ok {
		return err
	}
	if dataType != QA && dataType != Paraphrase {
		return fmt.Errorf("data_type is %q, it must be %q or %q", dataType, QA, Paraphrase)
	}
	if s.Kind == Pretrain {
		s.DataType = dataType
	}
	return nil
}

func (l line) parseDocs(s *Sample) error {
	for _, key := range docKeys() {
		docs, _, ok, err := l.texts(key)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if len(docs) == 0 {
			return fmt.Errorf("%q is an empty list", key)
		}
		for i, d := range docs {
			if strings.TrimSpace(d) == "" {
				return fmt.Errorf("%q[%d] is an empty document", key, i)
			}
		}
		s.Docs = docs
		return nil
	}
	return errors.New(`no documents: none of "docs", "context", "content"`)
}

func (l line) parseQuestions(s *Sample) error {
	questions, list, ok, err := l.texts("question")
	if err != nil {
		return err
	}
	if !ok {
		instruction, has, err := l.text("instruction")
		if err != nil {
			return err
		}
		if has {
			input, _, err := l.text("input")
			if err != nil {
				return err
			}
			if strings.TrimSpace(input) != "" {
				instruction += "\n" + input
			}
			questions, ok = []string{instruction}, true
		}
	}
	if s.DataType == Paraphrase {
		return nil // the instruction is drawn from a list; a question would not be used
	}
	if !ok {
		return errors.New(`no question: neither "question" nor "instruction"`)
	}
	if s.Kind != Pretrain && len(questions) != 1 {
		return fmt.Errorf(`"question" is a list of %d: only stage 1 takes several`, len(questions))
	}
	for i, q := range questions {
		if strings.TrimSpace(q) == "" {
			if list {
				return fmt.Errorf(`"question"[%d] is empty`, i)
			}
			return errors.New("the question is empty")
		}
	}
	s.Questions = questions
	return nil
}

// parseAnswers takes the first spelling that is there for training, and every
// spelling for scores.
func (l line) parseAnswers(s *Sample) error {
	several := s.Kind == Pretrain
	for _, key := range []string{"answer", "answers", "golden_answers", "gold_answer", "output"} {
		values, _, ok, err := l.texts(key)
		if err != nil {
			return err
		}
		if !ok || len(values) == 0 {
			continue
		}
		if key == "answers" && len(values) > 1 && !several {
			if l.raw("golden_answers") != nil || l.raw("gold_answer") != nil {
				continue
			}
			return fmt.Errorf(`"answers" is a list of %d, which is for stage 1; several right answers go under "golden_answers"`, len(values))
		}
		if s.Answers == nil {
			s.Answers = values
			if !several || key == "golden_answers" {
				s.Answers = values[:1]
			}
		}
		s.Golds = addUnique(s.Golds, values...)
	}
	if s.Answers == nil {
		return errors.New(`no answer: none of "answer", "answers", "golden_answers", "gold_answer", "output"`)
	}
	for i, a := range s.Answers {
		if strings.TrimSpace(a) == "" {
			return fmt.Errorf("answer %d is empty", i)
		}
	}
	aliases, _, _, err := l.texts("answer_aliases")
	if err != nil {
		return err
	}
	s.Aliases = aliases
	s.Golds = addUnique(s.Golds, aliases...)
	return nil
}

func (l line) parsePositives(s *Sample) error {
	raw := l.raw("pos_index")
	if raw == nil {
		return nil
	}
	s.PosIndex = []int{}
	if err := json.Unmarshal(raw, &s.PosIndex); err != nil {
		return errors.New(`"pos_index" must be a list of whole numbers`)
	}
	for _, p := range s.PosIndex {
		if p < 0 || p >= len(s.Docs) {
			return fmt.Errorf(`"pos_index" holds %d, there are %d documents (counted from 0)`, p, len(s.Docs))
		}
	}
	return nil
}

func (l line) parseSources(s *Sample) error {
	var err error
	s.Sources, _, _, err = l.texts("source_ids")
	return err
}

// check looks at what a sample's parts say together.
func (s Sample) check() error {
	if s.Kind != Pretrain {
		return nil
	}
	if len(s.Docs) != 1 {
		return fmt.Errorf("%d documents: a pretraining line has exactly one", len(s.Docs))
	}
	if s.DataType == QA && len(s.Questions) != len(s.Answers) {
		return fmt.Errorf("%d questions and %d answers", len(s.Questions), len(s.Answers))
	}
	if s.DataType == Paraphrase && len(s.Answers) != 1 {
		return fmt.Errorf("%d answers: a paraphrase line has exactly one", len(s.Answers))
	}
	return nil
}
