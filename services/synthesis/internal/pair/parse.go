package pair

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Written is what a model was asked to write about a chunk.
type Written struct {
	Summary string `json:"dense_summary"`
	Pairs   []Pair `json:"qa_pairs"`
}

// Pair is a question with its answer.
type Pair struct {
	Type     string `json:"type,omitempty"`
	Question string `json:"question"`
	Answer   string `json:"answer"`
}

// Parse reads a model's answer: a JSON object, also when fenced, with text or thoughts around it, with trailing commas,
// or cut off after at least one whole pair. Texts are trimmed, and may be empty. The error says what is wrong, in words
// for the model.
func Parse(text string) (Written, error) {
	var w Written
	err := firstObject(text, func(body string, whole bool) error {
		var x Written
		if err := decode(body, &x); err != nil {
			return err
		}
		if x.Pairs == nil { // an empty list is an answer, a missing one is none
			return errors.New(`it has no "qa_pairs"`)
		}
		if !whole && len(x.Pairs) == 0 {
			return errors.New("it ends before the first question and answer are whole; be shorter")
		}
		w = x
		return nil
	})
	w.Summary = strings.TrimSpace(w.Summary)
	for i, p := range w.Pairs {
		w.Pairs[i].Question, w.Pairs[i].Answer = strings.TrimSpace(p.Question), strings.TrimSpace(p.Answer)
	}
	return w, err
}

// decode reads JSON, also with the faults that models make. What is decoded into v is not to be used after an error.
func decode(body string, v any) error {
	err := json.Unmarshal([]byte(body), v)
	if err == nil || json.Unmarshal([]byte(dropCommas(body)), v) == nil {
		return nil
	}
	return fmt.Errorf("it is not valid JSON of the form asked for (%w)", err)
}

// maxObjects bounds how many objects of an answer are looked at.
const maxObjects = 16

// firstObject calls use with the objects of a text, outermost ones in turn, until one is taken; braces in prose and
// thoughts come before the object asked for. The error is that of the longest one.
func firstObject(text string, use func(body string, whole bool) error) error {
	if _, after, ok := strings.Cut(text, "</think>"); ok {
		text = after
	}
	var fault error
	longest := -1
	for range maxObjects {
		start := strings.IndexByte(text, '{')
		if start < 0 {
			break
		}
		text = text[start:]
		body, whole, err := object(text)
		if err == nil {
			if err = use(body, whole); err == nil {
				return nil
			}
		}
		if len(body) > longest {
			fault, longest = err, len(body)
		}
		text = text[max(1, min(len(body), len(text))):]
	}
	if fault == nil {
		return errors.New("it holds no JSON object")
	}
	return fault
}

// object reads the JSON object that text starts with; whole is false if it was cut off and closed here.
func object(text string) (body string, whole bool, err error) {
	var open []byte // brackets to close
	inString, escaped := false, false
	// The last place at which all that is open could be closed: after a whole object in a list.
	end, tail := 0, ""
	for i := range len(text) {
		c := text[i]
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == '{':
			open = append(open, '}')
		case c == '[':
			open = append(open, ']')
		case c == '}' || c == ']':
			if len(open) == 0 || open[len(open)-1] != c {
				return "", false, errors.New("its brackets do not match")
			}
			open = open[:len(open)-1]
			if len(open) == 0 {
				return text[:i+1], true, nil
			}
			if c == '}' {
				end, tail = i+1, closing(open)
			}
		}
	}
	if end == 0 {
		return "", false, errors.New("it is cut off; be shorter")
	}
	return text[:end] + tail, false, nil
}

func closing(open []byte) string {
	out := make([]byte, len(open))
	for i, c := range open {
		out[len(open)-1-i] = c
	}
	return string(out)
}

// dropCommas removes commas before closing brackets, outside of strings, and makes line breaks in strings what JSON
// wants them to be.
func dropCommas(s string) string {
	var b strings.Builder
	inString, escaped := false, false
	for i := range len(s) {
		c := s[i]
		switch {
		case escaped:
			escaped = false
		case inString:
			if c == '\n' {
				b.WriteString(`\n`)
				continue
			}
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == ',':
			rest := strings.TrimLeft(s[i+1:], " \t\r\n")
			if rest != "" && (rest[0] == '}' || rest[0] == ']') {
				continue
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Verdicts reads a judge's answer about n pairs.
func Verdicts(answer string, n int) ([]bool, error) {
	var out []bool
	err := firstObject(answer, func(body string, whole bool) error {
		var v struct {
			Verdicts []bool `json:"verdicts"`
		}
		if !whole {
			return errors.New("it is cut off")
		}
		if err := decode(body, &v); err != nil {
			return err
		}
		if len(v.Verdicts) != n {
			return fmt.Errorf("it holds %d verdicts for %d pairs", len(v.Verdicts), n)
		}
		out = v.Verdicts
		return nil
	})
	return out, err
}
