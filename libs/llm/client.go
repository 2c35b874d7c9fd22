package llm

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
)

// Model answers chats: a Client, or the suite's own generator.
type Model interface {
	Chat(ctx context.Context, r Request) (Response, error)
}

// Request is a chat.
type Request struct {
	Model    string
	Messages []Message
	// Schema asks for JSON of this schema, in the best form that the endpoint has; the answer is still to be checked.
	Schema *Schema
	// MaxTokens of the answer; 0: 1024.
	MaxTokens   int
	Temperature float64
	Seed        int64 // 0: none
	Meter       *Meter
}

// Schema is a JSON schema with a name.
type Schema struct {
	Name string
	JSON json.RawMessage
	// Bounded is the same with lengths, which not every endpoint takes: for models that hold to all of it. Optional.
	Bounded json.RawMessage
}

// Message is one turn of a chat.
type Message struct {
	Role   string // system, user, assistant
	Text   string
	Images []Image
}

// Image is a picture in a message.
type Image struct {
	MIME string
	Data []byte
}

// Response is the model's answer.
type Response struct {
	Text   string
	Finish string // stop, length, content_filter, ..
	Model  string // as the endpoint names it
	Usage  Usage
}

// Client is one endpoint.
type Client struct {
	endpoint Endpoint
	base     *url.URL
	http     *http.Client
	limit    *limiter
	log      *slog.Logger

	mu     sync.Mutex
	quirks map[string]quirks // by model
}

// quirks are what a model at an endpoint was found not to take.
type quirks struct {
	noSchema, noJSON   bool
	completionTokens   bool // max_completion_tokens in place of max_tokens
	noTemperature      bool
	noSeed, noMaxLimit bool
}

// New makes a client; it does not connect. Invalid.
func New(e Endpoint, log *slog.Logger) (*Client, error) {
	e, base, err := e.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		endpoint: e, base: base, log: log, quirks: map[string]quirks{},
		limit: newLimiter(e.Concurrency, e.RequestsPerMinute, e.TokensPerMinute),
		http:  &http.Client{Transport: e.transport(), CheckRedirect: checkRedirect},
	}, nil
}

// Endpoint returns the endpoint, without its key.
func (c *Client) Endpoint() Endpoint {
	e := c.endpoint
	e.APIKey = ""
	return e
}

// Concurrency is how many requests at once the endpoint is given at present.
func (c *Client) Concurrency() int { return c.limit.concurrency() }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// bytesPerToken turns sizes into tokens where an endpoint does not count them: low, so that estimates are high.
const bytesPerToken = 3

// imageTokens is what a picture is taken to cost before the endpoint says so.
const imageTokens = 1500

const defaultMaxTokens = 1024

// Chat has the model answer.
func (c *Client) Chat(ctx context.Context, r Request) (Response, error) {
	if r.Model == "" {
		return Response{}, clara.Errorf(clara.Invalid, "endpoint %s: no model is named: set %s", c.endpoint.Name, c.endpoint.Settings.Model)
	}
	if r.MaxTokens <= 0 {
		r.MaxTokens = defaultMaxTokens
	}
	prompt := 0
	for _, m := range r.Messages {
		prompt += len(m.Text)/bytesPerToken + 8 + imageTokens*len(m.Images)
	}
	reserved := c.endpoint.cost(int64(prompt), int64(r.MaxTokens))
	if err := r.Meter.reserve(ctx, reserved); err != nil {
		return Response{}, err
	}
	var used Usage
	defer func() { r.Meter.settle(reserved, used) }()
	for {
		q := c.quirksOf(r.Model)
		body, err := json.Marshal(chatBody(r, q))
		if err != nil {
			return Response{}, clara.Errorf(clara.Invalid, "encode chat: %w", err)
		}
		var out chatResponse
		err = c.post(ctx, "chat/completions", r.Model, body, prompt+r.MaxTokens, &used, func(data []byte) (int, error) {
			out = chatResponse{}
			if err := json.Unmarshal(data, &out); err != nil {
				return 0, fmt.Errorf("an answer that is no JSON: %w", err)
			}
			if len(out.Choices) == 0 {
				return 0, errors.New("an answer without choices")
			}
			return out.Usage.PromptTokens + out.Usage.CompletionTokens, nil
		})
		if err != nil {
			var refused *refusal
			if errors.As(err, &refused) && c.learn(r, q, refused) {
				continue
			}
			return Response{}, err
		}
		choice := out.Choices[0]
		res := Response{Text: choice.Message.Content, Finish: choice.FinishReason, Model: out.Model}
		if choice.Message.Refusal != "" && res.Text == "" {
			res.Text, res.Finish = choice.Message.Refusal, "content_filter"
		}
		if out.Usage.PromptTokens+out.Usage.CompletionTokens == 0 {
			out.Usage.PromptTokens, out.Usage.CompletionTokens = prompt, len(res.Text)/bytesPerToken
		}
		res.Usage = Usage{Requests: 1, PromptTokens: int64(out.Usage.PromptTokens), CompletionTokens: int64(out.Usage.CompletionTokens)}
		res.Usage.Cost = c.endpoint.cost(res.Usage.PromptTokens, res.Usage.CompletionTokens)
		used.PromptTokens += res.Usage.PromptTokens
		used.CompletionTokens += res.Usage.CompletionTokens
		used.Cost += res.Usage.Cost
		return res, nil
	}
}

type chatResponse struct {
	Model   string `json:"model"`
	Choices []struct {
		Message struct {
			Content string `json:"content"`
			Refusal string `json:"refusal"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

// chatBody is the request as the API has it.
func chatBody(r Request, q quirks) map[string]any {
	messages := make([]map[string]any, len(r.Messages))
	for i, m := range r.Messages {
		var content any = m.Text
		if len(m.Images) > 0 {
			parts := []map[string]any{{"type": "text", "text": m.Text}}
			for _, img := range m.Images {
				link := "data:" + img.MIME + ";base64," + base64.StdEncoding.EncodeToString(img.Data)
				parts = append(parts, map[string]any{"type": "image_url", "image_url": map[string]any{"url": link}})
			}
			content = parts
		}
		messages[i] = map[string]any{"role": m.Role, "content": content}
	}
	body := map[string]any{"model": r.Model, "messages": messages}
	switch {
	case q.noMaxLimit:
	case q.completionTokens:
		body["max_completion_tokens"] = r.MaxTokens
	default:
		body["max_tokens"] = r.MaxTokens
	}
	if !q.noTemperature {
		body["temperature"] = r.Temperature
	}
	if r.Seed != 0 && !q.noSeed {
		body["seed"] = r.Seed
	}
	switch {
	case r.Schema == nil:
	case !q.noSchema:
		body["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": r.Schema.Name, "strict": true, "schema": r.Schema.JSON}}
	case !q.noJSON:
		body["response_format"] = map[string]any{"type": "json_object"}
	}
	return body
}

func (c *Client) quirksOf(model string) quirks {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quirks[model]
}

// learn notes what the refused request, made with q, should have left out. It reports whether to try again.
func (c *Client) learn(r Request, q quirks, refused *refusal) bool {
	text := strings.ToLower(refused.text)
	format := strings.Contains(text, "response_format") || strings.Contains(text, "json_schema") || strings.Contains(text, "json_object") || strings.Contains(text, "schema")
	switch {
	case strings.Contains(text, "max_completion_tokens") && !q.completionTokens:
		q.completionTokens = true
	case strings.Contains(text, "max_tokens") && !q.noMaxLimit:
		q.noMaxLimit = true
	case strings.Contains(text, "temperature") && !q.noTemperature:
		q.noTemperature = true
	case strings.Contains(text, "seed") && r.Seed != 0 && !q.noSeed:
		q.noSeed = true
	case format && r.Schema != nil && !q.noSchema:
		q.noSchema = true
	case format && r.Schema != nil && !q.noJSON:
		q.noJSON = true
	default:
		return false
	}
	c.mu.Lock()
	c.quirks[r.Model] = q
	c.mu.Unlock()
	c.log.Info("endpoint lacks a feature; going on without", "endpoint", c.endpoint.Name, "model", r.Model, "status", refused.status)
	return true
}

// maxEmbed is how many texts go into one request for embeddings.
const maxEmbed = 64

// Embed returns a vector for each text, all of one length.
func (c *Client) Embed(ctx context.Context, model string, texts []string, m *Meter) ([][]float32, error) {
	if model == "" {
		return nil, clara.Errorf(clara.Invalid, "endpoint %s: no embedding model is named", c.endpoint.Name)
	}
	var vectors [][]float32
	for start := 0; start < len(texts); start += maxEmbed {
		part, err := c.embed(ctx, model, texts[start:min(start+maxEmbed, len(texts))], m)
		if err != nil {
			return nil, err
		}
		vectors = append(vectors, part...)
	}
	for _, v := range vectors {
		if len(v) == 0 || len(v) != len(vectors[0]) {
			return nil, clara.Errorf(clara.Corrupt, "endpoint %s: embeddings of different lengths", c.endpoint.Name)
		}
	}
	return vectors, nil
}

func (c *Client) embed(ctx context.Context, model string, texts []string, m *Meter) ([][]float32, error) {
	body, err := json.Marshal(map[string]any{"model": model, "input": texts, "encoding_format": "float"})
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "encode texts: %w", err)
	}
	estimate := 0
	for _, t := range texts {
		estimate += len(t) / bytesPerToken
	}
	reserved := c.endpoint.cost(int64(estimate), 0)
	if err := m.reserve(ctx, reserved); err != nil {
		return nil, err
	}
	var used Usage
	defer func() { m.settle(reserved, used) }()
	vectors := make([][]float32, len(texts))
	tokens := 0
	err = c.post(ctx, "embeddings", model, body, estimate, &used, func(data []byte) (int, error) {
		var out struct {
			Data []struct {
				Index     int       `json:"index"`
				Embedding []float32 `json:"embedding"`
			} `json:"data"`
			Usage struct {
				PromptTokens int `json:"prompt_tokens"`
			} `json:"usage"`
		}
		if err := json.Unmarshal(data, &out); err != nil {
			return 0, fmt.Errorf("embeddings that are no JSON: %w", err)
		}
		if len(out.Data) != len(texts) {
			return 0, fmt.Errorf("%d embeddings for %d texts", len(out.Data), len(texts))
		}
		clear(vectors)
		for _, d := range out.Data {
			if d.Index < 0 || d.Index >= len(texts) || vectors[d.Index] != nil || len(d.Embedding) == 0 {
				return 0, errors.New("embeddings with wrong indices")
			}
			vectors[d.Index] = d.Embedding
		}
		tokens = out.Usage.PromptTokens
		return tokens, nil
	})
	if err != nil {
		return nil, err
	}
	if tokens == 0 {
		tokens = estimate
	}
	used.PromptTokens += int64(tokens)
	used.Cost += c.endpoint.cost(int64(tokens), 0)
	return vectors, nil
}

// refusal is a request that the endpoint did not take, and would not the next time.
type refusal struct {
	status int
	text   string
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// maxLate is how many tries of a request may end by time: a server that hangs is not waited for as often as one that fails.
const maxLate = 2

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// post sends body until it is answered well, decode included, or is not worth sending again.
func (c *Client) post(ctx context.Context, path, model string, body []byte, tokens int, used *Usage, decode func([]byte) (int, error)) error {
	var last error
	late := 0
	for try := range c.endpoint.Tries {
		if try > 0 {
			used.Retries++
		}
		if err := c.limit.acquire(ctx, tokens); err != nil {
			return err
		}
		used.Requests++
		data, a := c.try(ctx, path, model, body)
		spent := 0
		if a.err == nil {
			if spent, a.err = decode(data); a.err != nil {
				a.err = clara.Errorf(clara.Corrupt, "endpoint %s sent %w", c.endpoint.Name, a.err)
				a.again = true
			}
		}
		pause := time.Duration(0)
		if a.again {
			pause = c.backoff(try)
		}
		c.limit.release(tokens, spent, a.pushedBack, a.retryAfter)
		if a.err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !a.again || a.retryAfter > c.endpoint.RetryAfterMax {
			return a.err
		}
		last = a.err
		if a.late {
			if late++; late == maxLate {
				return a.err
			}
		}
		c.log.WarnContext(ctx, "request to endpoint did not succeed; trying again", "endpoint", c.endpoint.Name, "try", try+1, "err", a.err)
		if try+1 == c.endpoint.Tries || a.retryAfter > 0 {
			continue // Retry-After holds all requests back in the limiter
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	kind := clara.KindOf(last)
	if kind != clara.Corrupt {
		kind = clara.Unavailable
	}
	return clara.Errorf(kind, "%d tries: %w", c.endpoint.Tries, last)
}

// backoff grows with the tries and is spread, so that requests that failed together do not return together.
func (c *Client) backoff(try int) time.Duration {
	d := min(c.endpoint.BackoffMin<<min(try, 20), c.endpoint.BackoffMax)
	if d <= 0 {
		d = c.endpoint.BackoffMax
	}
	return d/2 + rand.N(d/2+1)
}

// answer is what came of one try.
type answer struct {
	err        error
	again      bool // worth another try
	pushedBack bool // the endpoint has too much to do
	late       bool // it ended by time
	retryAfter time.Duration
}

// try sends a request once.
func (c *Client) try(parent context.Context, path, model string, body []byte) ([]byte, answer) {
	ctx, cancel := context.WithTimeout(parent, c.endpoint.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, answer{err: clara.Errorf(clara.Invalid, "endpoint %s: make request: %w", c.endpoint.Name, scrub(err))}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if c.endpoint.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.endpoint.APIKey)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(parent, ctx, err)
	}
	defer res.Body.Close()
	// A server that sends a byte now and then would hold a connection for ever.
	idle := time.AfterFunc(c.endpoint.IdleTimeout, cancel)
	defer idle.Stop()
	data, err := io.ReadAll(io.LimitReader(&watched{res.Body, idle, c.endpoint.IdleTimeout}, maxAnswer+1))
	if err != nil {
		return nil, c.unreached(parent, ctx, err)
	}
	if len(data) > maxAnswer {
		return nil, answer{err: clara.Errorf(clara.Corrupt, "endpoint %s: an answer of more than %d bytes", c.endpoint.Name, maxAnswer)}
	}
	if res.StatusCode/100 == 2 {
		return data, answer{}
	}
	return nil, c.refused(res, data, model)
}

// watched puts the idle time off with every piece read.
type watched struct {
	r     io.Reader
	timer *time.Timer
	idle  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.timer.Reset(w.idle)
	}
	return n, err
}

// unreached is a request that got no whole answer.
func (c *Client) unreached(parent, ctx context.Context, err error) answer {
	switch {
	case parent.Err() != nil:
		return answer{err: parent.Err()}
	case clara.KindOf(err) == clara.State:
		return answer{err: scrub(err)} // an address that is not allowed stays so
	case ctx.Err() != nil:
		return answer{err: clara.Errorf(clara.Unavailable, "endpoint %s at %s: no whole answer within %s in all or %s of silence", c.endpoint.Name, c.endpoint.PublicURL(), c.endpoint.Timeout, c.endpoint.IdleTimeout), again: true, pushedBack: true, late: true}
	}
	return answer{err: clara.Errorf(clara.Unavailable, "endpoint %s at %s: %w; check %s", c.endpoint.Name, c.endpoint.PublicURL(), scrub(err), c.endpoint.Settings.URL), again: true}
}

// scrub drops the URL that net/http puts into errors: it may hold secrets.
func scrub(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// refused reads a status that is no success.
func (c *Client) refused(res *http.Response, data []byte, model string) answer {
	e, s := c.endpoint, c.endpoint.Settings
	text := c.message(data)
	say := func(kind clara.Kind, format string, args ...any) error {
		return clara.Errorf(kind, "endpoint %s at %s answered %d: %s"+text, e.Name, e.PublicURL(), res.StatusCode, fmt.Sprintf(format, args...))
	}
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		what := "the key was refused: set " + s.Key
		if e.APIKey == "" {
			what = "it wants a key and none is set: set " + s.Key
		}
		return answer{err: say(clara.Denied, "%s", what)}
	case code == http.StatusNotFound:
		return answer{err: say(clara.NotFound, "no model %q, or no such path: check %s and %s (most end in /v1)", model, s.Model, s.URL)}
	case code/100 == 3:
		return answer{err: say(clara.Invalid, "it redirects elsewhere, which is not followed: set %s to the final address", s.URL)}
	case code == http.StatusTooManyRequests && strings.Contains(string(data), "insufficient_quota"):
		return answer{err: say(clara.State, "the account behind %s has no credit left", s.Key)}
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable || code == 529:
		return answer{err: say(clara.Unavailable, "it has too much to do"), again: true, pushedBack: true, retryAfter: retryAfter(res.Header)}
	case code == http.StatusRequestTimeout || code == http.StatusConflict || code/100 == 5:
		return answer{err: say(clara.Unavailable, "it failed"), again: true, retryAfter: retryAfter(res.Header)}
	}
	return answer{err: &refusal{res.StatusCode, text, say(clara.Invalid, "it did not take the request")}}
}

// shownMessage bounds what is repeated of an endpoint's own words.
const shownMessage = 300

// message is what the endpoint says about a fault, as the end of an error text. Keys it repeats are masked.
func (c *Client) message(data []byte) string {
	var body struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(data, &body) != nil {
		return ""
	}
	text := body.Message
	var object struct {
		Message string `json:"message"`
	}
	switch {
	case len(body.Error) > 0 && json.Unmarshal(body.Error, &object) == nil && object.Message != "":
		text = object.Message
	case len(body.Error) > 0 && json.Unmarshal(body.Error, &text) == nil:
	case text == "" && len(body.Detail) > 0:
		text = string(body.Detail)
	}
	if text == "" {
		return ""
	}
	if c.endpoint.APIKey != "" {
		text = strings.ReplaceAll(text, c.endpoint.APIKey, "***")
	}
	text = keyLike(text)
	for len(text) > shownMessage {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return " (" + strings.ReplaceAll(text, "%", "%%") + ")"
}

// keyLike masks words that look like keys: endpoints repeat them in part.
func keyLike(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		if strings.HasPrefix(w, "sk-") || strings.Contains(w, "****") {
			words[i] = "***"
		}
	}
	return strings.Join(words, " ")
}

// retryAfter reads how long the endpoint asks to wait; 0 if it does not say.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 {
		return time.Duration(min(s, 1e6) * float64(time.Second))
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
