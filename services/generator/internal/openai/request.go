package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// chatRequest is what we take of a request. What is not named here has no effect on an answer (user, metadata,
// store, ..) and is ignored; what would have one and is not done is refused by check.
type chatRequest struct {
	Model         string    `json:"model"`
	Messages      []message `json:"messages"`
	Stream        bool      `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens           *int32   `json:"max_tokens"`
	MaxCompletionTokens *int32   `json:"max_completion_tokens"`
	Temperature         *float64 `json:"temperature"`
	TopP                *float64 `json:"top_p"`
	Seed                *int64   `json:"seed"`
	Stop                stops    `json:"stop"`
	N                   *int     `json:"n"`

	FrequencyPenalty float64           `json:"frequency_penalty"`
	PresencePenalty  float64           `json:"presence_penalty"`
	Logprobs         bool              `json:"logprobs"`
	TopLogprobs      *int              `json:"top_logprobs"`
	Tools            []json.RawMessage `json:"tools"`
	ToolChoice       json.RawMessage   `json:"tool_choice"`
	Modalities       []string          `json:"modalities"`
	Audio            json.RawMessage   `json:"audio"`
	Functions        []json.RawMessage `json:"functions"`
	LogitBias        map[string]any    `json:"logit_bias"`
	ResponseFormat   *format           `json:"response_format"`

	// Clara sets what only a collection has. Optional.
	Clara struct {
		Context  string `json:"context"`
		Retrieve string `json:"retrieve"`
		TopK     int32  `json:"top_k"`
	} `json:"clara"`
}

// format is the form that an answer is held to.
type format struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// anyObject is the schema of type json_object.
const anyObject = `{"type":"object"}`

// schema returns the JSON schema of the format, "" for text.
func (f *format) schema() (string, error) {
	param := func(text string, args ...any) error {
		return &paramError{"response_format", clara.Errorf(clara.Invalid, "response_format: "+text, args...)}
	}
	switch {
	case f == nil || f.Type == "text":
		return "", nil
	case f.Type == "json_object":
		return anyObject, nil
	case f.Type != "json_schema":
		return "", param("%q: want text, json_object or json_schema", f.Type)
	case len(f.JSONSchema.Schema) == 0 || string(f.JSONSchema.Schema) == "null":
		return "", param("json_schema.schema is missing")
	}
	var schema bytes.Buffer
	if err := json.Compact(&schema, f.JSONSchema.Schema); err != nil {
		return "", param("json_schema.schema: %w", err)
	}
	if _, err := grammar.Compile(schema.Bytes()); err != nil {
		return "", param("%w", err)
	}
	return schema.String(), nil
}

type message struct {
	Role    string   `json:"role"`
	Content *content `json:"content"`
}

// content is a string or a list of parts; only text parts are taken.
type content string

// UnmarshalJSON reads either form.
func (c *content) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(c))
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	var text strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return &paramError{"messages", clara.Errorf(clara.Invalid, "content parts of type %q are not taken, only text", p.Type)}
		}
		text.WriteString(p.Text)
	}
	*c = content(text.String())
	return nil
}

// stops is a string or a list of strings.
type stops []string

// UnmarshalJSON reads either form.
func (s *stops) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '"' {
		*s = make([]string, 1)
		return json.Unmarshal(b, &(*s)[0])
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// maxStops is what the interface allows.
const maxStops = 4

// read reads a request. Invalid, naming the parameter where one is of a wrong type.
func read(body []byte, r *chatRequest) error {
	err := json.Unmarshal(body, r)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		param, _, _ := strings.Cut(wrong.Field, ".")
		return &paramError{param, clara.Errorf(clara.Invalid, "%s: a %s is given, which it can't be", wrong.Field, wrong.Value)}
	}
	if err != nil {
		return clara.Errorf(clara.Invalid, "read request: %w", err)
	}
	return nil
}

// check refuses what is wrong, or not done here.
func (r *chatRequest) check() error {
	param := func(name, format string, args ...any) error {
		return &paramError{name, clara.Errorf(clara.Invalid, name+": "+format, args...)}
	}
	switch {
	case r.Model == "":
		return param("model", "name a collection or a model; GET /v1/models lists them")
	case len(r.Messages) == 0:
		return param("messages", "there is none")
	case r.N != nil && *r.N != 1:
		return param("n", "%d choices: only 1 is done", *r.N)
	case len(r.Stop) > maxStops:
		return param("stop", "%d texts: the limit is %d", len(r.Stop), maxStops)
	case slices.Contains(r.Stop, ""):
		return param("stop", "an empty text stops every answer before it begins: leave it out")
	case len(r.Tools) > 0:
		return param("tools", "not done here: leave them out")
	case !slices.Contains([]string{"", "null", `"none"`, `"auto"`}, string(r.ToolChoice)):
		return param("tool_choice", "tools are not done here: leave it out")
	case len(r.Functions) > 0:
		return param("functions", "not done here: leave them out")
	case r.Logprobs:
		return param("logprobs", "not done here: leave them out")
	case r.TopLogprobs != nil && *r.TopLogprobs != 0:
		return param("top_logprobs", "not done here: leave them out")
	case slices.ContainsFunc(r.Modalities, func(m string) bool { return m != "text" }) || len(r.Audio) > 0 && string(r.Audio) != "null":
		return param("modalities", "only text is done")
	case r.StreamOptions != nil && !r.Stream:
		return param("stream_options", "it is for streams: set stream too")
	case r.FrequencyPenalty != 0:
		return param("frequency_penalty", "only 0 is done")
	case r.PresencePenalty != 0:
		return param("presence_penalty", "only 0 is done")
	case len(r.LogitBias) > 0:
		return param("logit_bias", "not done here: leave it out")
	case r.Temperature != nil && !(*r.Temperature >= 0 && *r.Temperature <= 2):
		return param("temperature", "%g: want 0 to 2", *r.Temperature)
	case r.TopP != nil && !(*r.TopP >= 0 && *r.TopP <= 1):
		return param("top_p", "%g: want 0 to 1", *r.TopP)
	}
	for _, limit := range []*int32{r.MaxTokens, r.MaxCompletionTokens} {
		if limit != nil && *limit < 1 {
			return param("max_completion_tokens", "%d: want 1 or more", *limit)
		}
	}
	for i, m := range r.Messages {
		switch m.Role {
		case "system", "developer", "user", "assistant":
		default:
			return param("messages", "message %d has role %q: want system, developer, user or assistant", i, m.Role)
		}
		if m.Content == nil {
			return param("messages", "message %d has no content", i)
		}
	}
	for _, name := range []struct {
		field, value string
		known        bool
	}{{"clara.context", r.Clara.Context, contexts[r.Clara.Context] != 0 || r.Clara.Context == ""}, {"clara.retrieve", r.Clara.Retrieve, modes[r.Clara.Retrieve] != 0 || r.Clara.Retrieve == ""}} {
		if !name.known {
			return param(name.field, "%q is none that there is", name.value)
		}
	}
	return nil
}

var contexts = map[string]generatorv1.Context{
	"memory": generatorv1.Context_CONTEXT_MEMORY, "text": generatorv1.Context_CONTEXT_TEXT, "mixed": generatorv1.Context_CONTEXT_MIXED, "none": generatorv1.Context_CONTEXT_NONE,
}

var modes = map[string]rerankerv1.Mode{
	"memory": rerankerv1.Mode_MODE_MEMORY, "lexical": rerankerv1.Mode_MODE_LEXICAL, "hybrid": rerankerv1.Mode_MODE_HYBRID,
}

// limit is the most tokens of the answer, usual where the request gives none.
func (r *chatRequest) limit(usual int32) int32 {
	switch {
	case r.MaxCompletionTokens != nil:
		return *r.MaxCompletionTokens
	case r.MaxTokens != nil:
		return *r.MaxTokens
	}
	return usual
}

// sampling is greedy unless the request gives a temperature.
func (r *chatRequest) sampling() *generatorv1.Sampling {
	s := &generatorv1.Sampling{Stop: r.Stop}
	if r.Temperature != nil {
		s.Temperature = *r.Temperature
	}
	if r.TopP != nil {
		s.TopP = *r.TopP
	}
	if r.Seed != nil {
		s.Seed = *r.Seed
	}
	return s
}

// question is the last message of the user.
func (r *chatRequest) question() (string, error) {
	for i := len(r.Messages) - 1; i >= 0; i-- {
		if r.Messages[i].Role == "user" {
			return string(*r.Messages[i].Content), nil
		}
	}
	return "", &paramError{"messages", clara.Errorf(clara.Invalid, "messages: none is the user's, so there is no question")}
}

// conversation is all messages.
func (r *chatRequest) conversation() []*generatorv1.Message {
	out := make([]*generatorv1.Message, len(r.Messages))
	for i, m := range r.Messages {
		out[i] = &generatorv1.Message{Role: m.Role, Text: string(*m.Content)}
		if m.Role == "developer" {
			out[i].Role = "system"
		}
	}
	return out
}
