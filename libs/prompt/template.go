package prompt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"

	"github.com/clara-suite/clara/libs/clara"
)

// Part is a piece of a message: trusted text, written by us, or plain text of a user.
type Part struct {
	Text  string
	Plain bool
}

// Trusted makes a part in which added tokens are recognised.
func Trusted(s string) Part { return Part{Text: s} }

// Plain makes a part of user text: ordinary characters, whatever they spell.
func Plain(s string) Part { return Part{Text: s, Plain: true} }

// Message is one turn of a conversation.
type Message struct {
	Role    string // system, user, assistant
	Content []Part
}

// Template is a compiled chat template. It is safe for concurrent use.
type Template struct {
	root *exec.Template
	// now gives the date to templates that ask for one.
	now func() time.Time
}

// Vars are the variables of a rendering.
type Vars struct {
	BOS, EOS            string // texts of the tokens, as the template writes them
	AddGenerationPrompt bool
}

// Rendered is what a template made: the text, and the places in it that no added token may span
// (see tokenizer.EncodeMixed).
type Rendered struct {
	Text   string
	Breaks []int
}

// NewTemplate compiles the source of a chat template. now may be nil (time.Now); templates that print a date use it.
// It returns Unsupported, with the place, for what the Jinja library cannot parse.
func NewTemplate(source string, now func() time.Time) (t *Template, err error) {
	if strings.TrimSpace(source) == "" {
		return nil, clara.Errorf(clara.Invalid, "compile chat template: the model has none")
	}
	if now == nil {
		now = time.Now
	}
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, clara.Errorf(clara.Unsupported, "compile chat template: %v", r)
		}
	}()
	conf := config.New()
	conf.TrimBlocks, conf.LeftStripBlocks = true, true
	root, err := exec.NewTemplate(rootName, conf, only{rewrite(source)}, environment())
	if err != nil {
		// The library repeats the whole source before the fault.
		text := err.Error()
		return nil, clara.Errorf(clara.Unsupported, "compile chat template: %s", text[max(0, strings.LastIndex(text, "': ")+3)%len(text):])
	}
	return &Template{root, now}, nil
}

const rootName = "template"

// only is a loader that knows one template: include and import find nothing, no file is ever read.
type only struct{ source string }

func (o only) Read(path string) (io.Reader, error) {
	if path != rootName {
		return nil, fmt.Errorf("a chat template cannot load %q", path)
	}
	return strings.NewReader(o.source), nil
}
func (o only) Resolve(path string) (string, error)    { return path, nil }
func (o only) Inherit(string) (loaders.Loader, error) { return o, nil }

// raisedError is the template's own refusal: a call of raise_exception.
type raisedError struct{ text string }

func (e *raisedError) Error() string { return e.text }

// breaker finds the breaks of plain text; a tokenizer is one.
type breaker interface{ Breaks(plain string) []int }

// Render renders messages. Where the template refuses a system role, in whatever words, the system text is joined
// with the first user text by a newline, in one user message. breaks comes from the tokenizer that will read the
// text. It returns Invalid, with the template's words, if the template refuses the messages all the same.
func (t *Template) Render(messages []Message, vars Vars, breaks breaker) (Rendered, error) {
	r, err := t.render(messages, vars, breaks)
	var raised *raisedError
	if errors.As(err, &raised) && len(messages) > 1 && messages[0].Role == "system" && messages[1].Role == "user" {
		joined := append(append(append([]Part{}, messages[0].Content...), Trusted("\n")), messages[1].Content...)
		merged := append([]Message{{"user", joined}}, messages[2:]...)
		if r, again := t.render(merged, vars, breaks); again == nil {
			return r, nil
		}
	}
	return r, err
}

func (t *Template) render(messages []Message, vars Vars, breaks breaker) (r Rendered, err error) {
	mark := newMark(messages)
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = map[string]any{"role": m.Role, "content": mark.write(m.Content, breaks)}
	}
	var raised *raisedError
	data := exec.NewContext(map[string]any{
		"messages": list, "bos_token": vars.BOS, "eos_token": vars.EOS, "add_generation_prompt": vars.AddGenerationPrompt,
		"enable_thinking": false, "tools": nil, "documents": nil,
		"raise_exception": func(text string) (string, error) {
			raised = &raisedError{text}
			return "", raised
		},
		"strftime_now": func(format string) string { return strftime(t.now(), format) },
	})
	defer func() {
		// The library panics on some faults of a template.
		if p := recover(); p != nil {
			r, err = Rendered{}, clara.Errorf(clara.Invalid, "render chat template: %v", p)
		}
	}()
	out, err := t.root.ExecuteToString(data)
	if raised != nil {
		return Rendered{}, clara.Errorf(clara.Invalid, "render chat template: %w", raised)
	}
	if err != nil {
		return Rendered{}, clara.Errorf(clara.Invalid, "render chat template: %w", err)
	}
	return mark.read(out), nil
}

// mark is what stands for a break while a text passes through the template: private-use characters that nobody
// can guess. Only text that looks like a token gets one, so all other text meets the template as it is, and
// trimming, splitting or comparing it does what it does in Python.
type mark string

func newMark(messages []Message) mark {
	for {
		var raw [8]byte
		_, _ = rand.Read(raw[:]) // never fails
		s := make([]rune, len(raw))
		for i, b := range raw {
			s[i] = 0xF0000 + rune(b)
		}
		m := mark(s)
		clash := false
		for _, msg := range messages {
			for _, p := range msg.Content {
				clash = clash || strings.Contains(p.Text, string(m))
			}
		}
		if !clash {
			return m
		}
	}
}

// write joins parts into the text that the template sees.
func (m mark) write(parts []Part, breaks breaker) string {
	var out strings.Builder
	for _, p := range parts {
		if !p.Plain || breaks == nil {
			out.WriteString(p.Text)
			continue
		}
		text := strings.ToValidUTF8(p.Text, "\uFFFD")
		at := 0
		for _, b := range breaks.Breaks(text) {
			out.WriteString(text[at:b])
			out.WriteString(string(m))
			at = b
		}
		out.WriteString(text[at:])
	}
	return out.String()
}

// read takes the marks out again.
func (m mark) read(s string) Rendered {
	var r Rendered
	var out strings.Builder
	for {
		k := strings.Index(s, string(m))
		if k < 0 {
			break
		}
		out.WriteString(s[:k])
		r.Breaks = append(r.Breaks, out.Len())
		s = s[k+len(m):]
	}
	out.WriteString(s)
	r.Text = out.String()
	sort.Ints(r.Breaks)
	return r
}

// strftime is Python's, for the directives that templates use.
func strftime(t time.Time, format string) string {
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		layout, ok := map[byte]string{
			'd': "02", 'b': "Jan", 'B': "January", 'Y': "2006", 'm': "01", 'y': "06", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
			'p': "PM", 'A': "Monday", 'a': "Mon", 'j': "002", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05",
		}[format[i]]
		switch {
		case ok:
			out.WriteString(t.Format(layout))
		case format[i] == '%':
			out.WriteByte('%')
		default:
			out.WriteString(format[i-1 : i+1])
		}
	}
	return out.String()
}
