// Package llmtest is a server that speaks the OpenAI API and misbehaves on demand.
// Its "model" knows the forms of training data: it makes summaries and pairs out of
// the sentences of the passages it is given, the same ones each time. For tests.
package llmtest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
)

// Fault is a way to misbehave.
type Fault string

// The ways.
const (
	None         Fault = ""
	Unauthorized Fault = "401"
	NotFound     Fault = "404"
	Busy         Fault = "429"
	Broken       Fault = "500"
	Hang         Fault = "hang"       // no answer until the client goes
	Slow         Fault = "slow"       // a byte now and then
	CutOff       Fault = "cut_off"    // the connection ends within the answer
	Truncated    Fault = "truncated"  // the model stops within its JSON (finish_reason length)
	NoJSON       Fault = "no_json"    // prose
	WrongSchema  Fault = "schema"     // other keys
	Chatty       Fault = "chatty"     // JSON in a fence, with words around it and trailing commas
	BadPairs     Fault = "bad_pairs"  // leaks, "the passage", answers from elsewhere, repetitions
	Hopeless     Fault = "hopeless"   // pairs that are all to be refused
	HTML         Fault = "html"       // a page where JSON belongs
	Redirect     Fault = "redirect"   // to another host
	NoChoices    Fault = "no_choices" // JSON that is no answer
	Quota        Fault = "quota"      // 429 that waiting does not mend
)

// Call is a request that the server has seen.
type Call struct {
	Path   string
	Key    string
	Body   map[string]any
	Prompt string
	Fault  Fault
}

// Server is the server. Set the fields before the first request.
type Server struct {
	URL string // with /v1
	// Key, if set, is the only one that is accepted.
	Key string
	// Faults decides on each request, n counting from 1. Nil: none.
	Faults func(n int, r Call) Fault
	// NoSchema and NoJSON refuse these forms of output, as older servers do.
	NoSchema, NoJSON bool
	// RetryAfter is sent with Busy, in seconds; "" for none.
	RetryAfter string
	// Delay is the time of a good answer.
	Delay time.Duration
	// Models are those that there are; nil: all.
	Models []string

	mu       sync.Mutex
	calls    []Call
	atOnce   int
	mostOnce int
	done     chan struct{}
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	s := &Server{done: make(chan struct{})}
	h := httptest.NewServer(s)
	s.URL = h.URL + "/v1"
	t.Cleanup(func() {
		close(s.done)
		h.CloseClientConnections()
		h.Close()
	})
	return s
}

// Calls returns the requests so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call{}, s.calls...)
}

// MostAtOnce is the most requests that were under way together.
func (s *Server) MostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostOnce
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := Call{Path: strings.TrimPrefix(r.URL.Path, "/v1/"), Key: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	if err := json.NewDecoder(r.Body).Decode(&call.Body); err != nil {
		fail(w, http.StatusBadRequest, "not JSON")
		return
	}
	call.Prompt = promptOf(call.Body)
	s.mu.Lock()
	s.calls = append(s.calls, call)
	n := len(s.calls)
	s.atOnce++
	s.mostOnce = max(s.mostOnce, s.atOnce)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.atOnce--
		s.mu.Unlock()
	}()
	if s.Faults != nil {
		call.Fault = s.Faults(n, call)
		s.mu.Lock()
		s.calls[n-1].Fault = call.Fault
		s.mu.Unlock()
	}
	if s.Key != "" && call.Key != s.Key || call.Fault == Unauthorized {
		fail(w, http.StatusUnauthorized, "Incorrect API key provided: "+call.Key)
		return
	}
	if s.spoiled(w, r, call) {
		return
	}
	if s.Delay > 0 {
		s.pause(r, s.Delay)
	}
	switch call.Path {
	case "chat/completions":
		s.chat(w, r, call)
	case "embeddings":
		s.embeddings(w, call)
	default:
		fail(w, http.StatusNotFound, "no such path")
	}
}

func (s *Server) pause(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	case <-s.done:
	}
}

// spoiled does the faults that need no answer of the model.
func (s *Server) spoiled(w http.ResponseWriter, r *http.Request, call Call) bool {
	switch call.Fault {
	case NotFound:
		fail(w, http.StatusNotFound, "The model does not exist")
	case Busy:
		if s.RetryAfter != "" {
			w.Header().Set("Retry-After", s.RetryAfter)
		}
		fail(w, http.StatusTooManyRequests, "Rate limit reached")
	case Quota:
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}`)
	case Broken:
		fail(w, http.StatusInternalServerError, "The server had an error")
	case Hang:
		s.pause(r, time.Hour)
	case Redirect:
		http.Redirect(w, r, "http://elsewhere.invalid/v1/chat/completions", http.StatusTemporaryRedirect)
	case HTML:
		fmt.Fprint(w, "<html><body>Welcome to our proxy</body></html>")
	case NoChoices:
		fmt.Fprint(w, `{"object":"list","data":[]}`)
	case CutOff:
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"choices":[{"message":{"content":"{\"dense`)
	default:
		return false
	}
	return true
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message, "type": "error"}})
}

// promptOf is all text of the messages.
func promptOf(body map[string]any) string {
	var b strings.Builder
	messages, _ := body["messages"].([]any)
	for _, m := range messages {
		message, _ := m.(map[string]any)
		switch c := message["content"].(type) {
		case string:
			b.WriteString(c + "\n")
		case []any:
			for _, p := range c {
				part, _ := p.(map[string]any)
				if t, ok := part["text"].(string); ok {
					b.WriteString(t + "\n")
				}
			}
		}
	}
	return b.String()
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request, call Call) {
	model, _ := call.Body["model"].(string)
	known := s.Models == nil
	for _, m := range s.Models {
		known = known || m == model
	}
	if !known {
		fail(w, http.StatusNotFound, "The model `"+model+"` does not exist")
		return
	}
	if format, ok := call.Body["response_format"].(map[string]any); ok {
		kind, _ := format["type"].(string)
		if kind == "json_schema" && s.NoSchema || kind == "json_object" && s.NoJSON {
			fail(w, http.StatusBadRequest, "response_format of type "+kind+" is not supported")
			return
		}
	}
	text, finish := answer(call)
	switch call.Fault {
	case Truncated:
		text, finish = text[:len(text)*2/3], "length"
	case NoJSON:
		text = "I would be glad to help with that! First, however, some thoughts."
	case WrongSchema:
		text = `{"summary": 7, "questions": "none"}`
	case Chatty:
		text = "Sure, here it is:\n```json\n" + strings.Replace(text, "}]", "},\n]", 1) + "\n```\nAnything else?"
	}
	body, err := json.Marshal(map[string]any{
		"model": model + "-2026", "choices": []any{map[string]any{"index": 0, "finish_reason": finish, "message": map[string]any{"role": "assistant", "content": text}}},
		"usage": map[string]any{"prompt_tokens": len(call.Prompt) / 4, "completion_tokens": len(text) / 4},
	})
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if call.Fault == Slow {
		for i := range body {
			if r.Context().Err() != nil {
				return
			}
			_, _ = w.Write(body[i : i+1])
			w.(http.Flusher).Flush()
			s.pause(r, 200*time.Millisecond)
		}
		return
	}
	_, _ = w.Write(body)
}

var passage = regexp.MustCompile(`(?s)<(passage(?:_\d)?)>\n(.*?)\n</passage(?:_\d)?>`)

// answer is what the model says.
func answer(call Call) (text, finish string) {
	var passages []string
	for _, m := range passage.FindAllStringSubmatch(call.Prompt, -1) {
		passages = append(passages, m[2])
	}
	type pair struct {
		Type     string `json:"type"`
		Question string `json:"question"`
		Answer   string `json:"answer"`
	}
	out := map[string]any{}
	switch {
	case strings.Contains(call.Prompt, "verdicts"):
		n := strings.Count(call.Prompt, ". Question: ")
		verdicts := make([]bool, n)
		for i := range verdicts {
			verdicts[i] = true
		}
		out["verdicts"] = verdicts
	case strings.Contains(call.Prompt, "Describe this picture"):
		return "A bar chart. North: 12. South: 30. The south leads the north by 18.", "stop"
	case strings.Contains(call.Prompt, "multi_hop") && len(passages) > 1:
		a, b := sentences(passages[0]), sentences(passages[1])
		out["qa_pairs"] = []pair{{"multi_hop", "How do " + topic(a[0]) + " and " + topic(b[0]) + " go together?", a[0] + " " + b[0]}}
	case strings.Contains(call.Prompt, "unanswerable") && len(passages) > 0:
		s := sentences(passages[0])
		out["qa_pairs"] = []pair{{"unanswerable", "Which person decided on " + topic(s[0]) + " first?", "Nothing is said about who decided it."}}
	case len(passages) > 0:
		s := sentences(passages[0])
		chinese := isChinese(passages[0])
		var pairs []pair
		for i := range min(3, len(s)) {
			q := "What holds for " + topic(s[i]) + "?"
			if chinese {
				q = "关于" + topic(s[i]) + "有哪些说明？"
			}
			pairs = append(pairs, pair{[]string{"fact", "reasoning", "fact"}[i], q, s[i]})
		}
		last := s[len(s)-1]
		cross := "关于“" + topic(last) + "”这个题目，具体的说明内容是什么？请详细回答。"
		if chinese {
			cross = "What is known in detail about the subject of " + topic(last) + ", and what does it mean for the reader?"
		}
		pairs = append(pairs, pair{"cross_lingual", cross, last})
		if call.Fault == BadPairs {
			pairs = []pair{
				{"fact", "What does the passage say first?", s[0]},
				{"fact", "What is in handbook_v2.pdf?", s[0]},
				{"fact", "How far away is the largest moon of the fourth planet?", "About 384 thousand leagues, on a Tuesday."},
				pairs[0], pairs[0],
			}
		}
		runes := []rune(passages[0])
		out["dense_summary"] = string(runes[:len(runes)*65/100])
		out["qa_pairs"] = pairs
	default:
		return "Hello.", "stop"
	}
	if _, ok := out["qa_pairs"]; ok && call.Fault == Hopeless {
		out["qa_pairs"] = []pair{{"fact", "What is in handbook_v2.pdf?", "Things."}, {"fact", "What does the passage say?", "What it says."}}
	}
	data, err := json.Marshal(out)
	if err != nil {
		return err.Error(), "stop"
	}
	return string(data), "stop"
}

func isChinese(s string) bool {
	han, latin := 0, 0
	for _, r := range s {
		if unicode.Is(unicode.Han, r) {
			han++
		} else if unicode.Is(unicode.Latin, r) {
			latin++
		}
	}
	return han*3 > latin
}

// sentences cuts a text; there is always one.
func sentences(s string) []string {
	var out []string
	for _, p := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("\n.!?。！？", r) }) {
		if p = strings.Trim(p, " #*|-\t"); len([]rune(p)) > 12 {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		out = []string{strings.TrimSpace(s)}
	}
	return out
}

// topic is a few words of a sentence that tell it from others.
func topic(s string) string {
	words := strings.Fields(s)
	if len(words) < 3 || isChinese(s) {
		r := []rune(strings.ReplaceAll(s, " ", ""))
		return string(r[:min(8, len(r))])
	}
	var out []string
	for _, w := range words {
		if w = strings.Trim(w, ",;:()[]\"'"); (len(w) > 3 || strings.ContainsAny(w, "0123456789")) && !strings.ContainsAny(w, "/\\.") {
			out = append(out, w)
		}
		if len(out) == 6 {
			break
		}
	}
	if len(out) == 0 {
		out = words[:1]
	}
	return strings.Join(out, " ")
}

// Dimensions of an embedding.
const Dimensions = 32

// embeddings gives texts with common words near vectors.
func (s *Server) embeddings(w http.ResponseWriter, call Call) {
	input, _ := call.Body["input"].([]any)
	var data []any
	for i, x := range input {
		text, _ := x.(string)
		v := make([]float64, Dimensions)
		for _, word := range strings.Fields(strings.ToLower(text)) {
			h := fnv.New32a()
			_, _ = h.Write([]byte(word))
			v[h.Sum32()%Dimensions] += 1 / math.Sqrt(float64(len(word)))
		}
		data = append(data, map[string]any{"index": i, "embedding": v})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data, "usage": map[string]any{"prompt_tokens": len(input) * 10}})
}

// Every misbehaves in turn: request n has the fault at n modulo len(faults).
func Every(faults ...Fault) func(int, Call) Fault {
	return func(n int, _ Call) Fault { return faults[(n-1)%len(faults)] }
}

// Until misbehaves in the first requests, one fault each.
func Until(faults ...Fault) func(int, Call) Fault {
	return func(n int, _ Call) Fault {
		if n > len(faults) {
			return None
		}
		return faults[n-1]
	}
}

// OnceEach misbehaves in the first request about each thing, in the way that the thing itself decides, and not again:
// whatever the order of requests, the same ones fail.
func OnceEach(faults ...Fault) func(int, Call) Fault {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(_ int, c Call) Fault {
		key := c.Prompt[:min(len(c.Prompt), 80)] + fmt.Sprint(passage.FindAllString(c.Prompt, -1))
		mu.Lock()
		defer mu.Unlock()
		if seen[key] {
			return None
		}
		seen[key] = true
		h := fnv.New32a()
		_, _ = h.Write([]byte(key))
		return faults[int(h.Sum32())%len(faults)]
	}
}
