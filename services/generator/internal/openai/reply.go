package openai

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// reply writes an answer as it comes: whole at the end, or as server-sent events.
type reply struct {
	w       http.ResponseWriter
	id      string
	model   string
	created int64
	stream  bool
	usage   bool // a last chunk tells the usage
	begun   bool // the status is sent

	about *about
}

// about is the extension field: what the answer was read from.
type about struct {
	Model   string   `json:"model"`
	Context string   `json:"context"`
	Mode    string   `json:"retrieve,omitempty"`
	Note    string   `json:"note,omitempty"`
	Sources []source `json:"sources"`
}

type source struct {
	File      string   `json:"file"`
	Document  string   `json:"document"`
	Passage   int32    `json:"passage"`
	Headings  []string `json:"headings,omitempty"`
	PageFirst int32    `json:"page_first,omitempty"`
	PageLast  int32    `json:"page_last,omitempty"`
	Score     float64  `json:"score"`
	Text      string   `json:"text"`
}

type completion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
	Clara   *about   `json:"clara,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Message      *text   `json:"message,omitempty"`
	Delta        *text   `json:"delta,omitempty"`
	Logprobs     *string `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

type text struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type usage struct {
	Prompt     int32 `json:"prompt_tokens"`
	Completion int32 `json:"completion_tokens"`
	Total      int32 `json:"total_tokens"`
}

// part takes the parts of an answer.
func (r *reply) part(p *generatorv1.AnswerResponse) error {
	switch p := p.Part.(type) {
	case *generatorv1.AnswerResponse_Retrieved:
		r.about = describeSources(p.Retrieved)
		if r.stream {
			empty := ""
			return r.chunk(completion{Choices: []choice{{Delta: &text{Role: "assistant", Content: &empty}}}, Clara: r.about})
		}
	case *generatorv1.AnswerResponse_Piece:
		if r.stream {
			return r.chunk(completion{Choices: []choice{{Delta: &text{Content: &p.Piece.Text}}}})
		}
	case *generatorv1.AnswerResponse_Done:
		return r.end(p.Done)
	}
	return nil
}

func (r *reply) end(d *generatorv1.Done) error {
	u := &usage{Prompt: d.Timings.PromptTokens, Completion: d.Timings.OutputTokens, Total: d.Timings.PromptTokens + d.Timings.OutputTokens}
	if !r.stream {
		r.begun = true
		c := r.fill(completion{Choices: []choice{{Message: &text{Role: "assistant", Content: &d.Answer}, FinishReason: &d.FinishReason}}, Usage: u, Clara: r.about})
		c.Object = "chat.completion"
		writeJSON(r.w, http.StatusOK, c)
		return nil
	}
	if err := r.chunk(completion{Choices: []choice{{Delta: &text{}, FinishReason: &d.FinishReason}}}); err != nil {
		return err
	}
	if r.usage {
		if err := r.chunk(completion{Choices: []choice{}, Usage: u}); err != nil {
			return err
		}
	}
	return r.data([]byte("[DONE]"))
}

func (r *reply) fill(c completion) completion {
	c.ID, c.Created, c.Model = r.id, r.created, r.model
	return c
}

func (r *reply) chunk(c completion) error {
	c = r.fill(c)
	c.Object = "chat.completion.chunk"
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return r.data(b)
}

// data sends one server-sent event.
func (r *reply) data(b []byte) error {
	if !r.begun {
		r.begun = true
		head := r.w.Header()
		head.Set("Content-Type", "text/event-stream")
		head.Set("Cache-Control", "no-cache")
		head.Set("X-Accel-Buffering", "no") // proxies are not to hold pieces back
		r.w.WriteHeader(http.StatusOK)
	}
	_, err := r.w.Write(append(append([]byte("data: "), b...), "\n\n"...))
	if err == nil {
		err = http.NewResponseController(r.w).Flush()
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "the client has gone: %w", err)
	}
	return nil
}

// abort ends a stream that has begun with an error.
func (r *reply) abort(f fault) {
	if b, err := json.Marshal(map[string]any{"error": f}); err == nil && r.stream {
		_ = r.data(b) // the client may be what went away
	}
}

func describeSources(x *generatorv1.Retrieved) *about {
	out := &about{Model: x.Model, Context: word(x.Context.String(), "CONTEXT_"), Note: x.Note, Sources: []source{}}
	if x.Mode != 0 {
		out.Mode = word(x.Mode.String(), "MODE_")
	}
	for _, c := range x.Candidates {
		out.Sources = append(out.Sources, source{
			File: c.File, Document: c.Document, Passage: c.Ordinal, Headings: c.Headings, PageFirst: c.PageFirst, PageLast: c.PageLast, Score: c.Score, Text: c.Text,
		})
	}
	return out
}

func word(enum, prefix string) string { return strings.ToLower(strings.TrimPrefix(enum, prefix)) }
