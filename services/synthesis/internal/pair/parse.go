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

// Parse reads a model's answer: a JSON object, also when fenced, with text around it, with trailing commas, or cut off
// after at least one whole pair. The error says what is wrong, in words for the model.
func Parse(text string) (Written, error) {
	var w Written
	body, whole, err := object(text)
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal([]byte(body), &w); err != nil {
		if err2 := json.Unmarshal([]byte(dropCommas(body)), &w); err2 != nil {
			return Written{}, fmt.Errorf("it is not valid JSON of the form asked for (%w)", err)
		}
	}
	w.Summary = strings.TrimSpace(w.Summary)
	kept := w.Pairs[:0]
	for _, p := range w.Pairs {
		p.Question, p.Answer = strings.TrimSpace(p.Question), strings.TrimSpace(p.Answer)
		if p.Question != "" && p.Answer != "" {
			kept = append(kept, p)
		}
	}
	w.Pairs = kept
	if !whole && len(w.Pairs) == 0 {
		return Written{}, errors.New("it ends before the first question and answer are whole; be shorter")
	}
	return w, nil
}

// object finds the outermost JSON object in text; whole is false if it was cut off and closed here.
func object(text string) (body string, whole bool, err error) {
	start := strings.IndexByte(text, '{')
	if start < 0 {
		return "", false, errors.New("it holds no JSON object")
	}
	text = text[start:]
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
	body, whole, err := object(answer)
	if err != nil || !whole {
		return nil, errors.Join(errors.New("it holds no whole JSON object"), err)
	}
	var v struct {
		Verdicts []bool `json:"verdicts"`
	}
	if err := json.Unmarshal([]byte(dropCommas(body)), &v); err != nil {
		return nil, fmt.Errorf("it is not valid JSON of the form asked for (%w)", err)
	}
	if len(v.Verdicts) != n {
		return nil, fmt.Errorf("it holds %d verdicts for %d pairs", len(v.Verdicts), n)
	}
	return v.Verdicts, nil
}
