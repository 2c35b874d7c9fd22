package endpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/services/synthesis/internal/endpoint"
)

const secret = "sk-of-an-endpoint"

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const several = `
endpoints:
  - name: deepseek
    provider: deepseek
    api_key_env: TEST_KEY_OF_DEEPSEEK
    model: deepseek-chat
    tokens_per_minute: 60000
    price_in: 0.27
    price_out: 1.1
  - name: eyes
    base_url: http://10.0.0.7:8000/v1
    allow_private: true
    vision_model: qwen2.5-vl
    embedding_model: bge-m3
    judge_model: judge
`

func TestSeveralEndpoints(t *testing.T) {
	t.Setenv("TEST_KEY_OF_DEEPSEEK", secret)
	var generator llm.Model = endpoint.Generator{}
	s, err := endpoint.Open(endpoint.Config{Provider: "dashscope", APIKey: secret, Model: "qwen-plus", File: file(t, several),
		VisionEndpoint: "eyes", EmbeddingEndpoint: "eyes", JudgeEndpoint: "deepseek", Concurrency: 4}, generator, nil)
	require.NoError(t, err)
	defer s.Close()
	var names []string
	for _, e := range s.List() {
		names = append(names, e.Name)
		assert.NotContains(t, e.URL, secret)
	}
	assert.Equal(t, []string{"dashscope", "deepseek", "eyes", "clara"}, names)
	first, err := s.Get("")
	require.NoError(t, err)
	assert.Equal(t, "https://dashscope.aliyuncs.com/compatible-mode/v1", first.URL)
	for task, want := range map[endpoint.Task]string{endpoint.Vision: "eyes", endpoint.Embeddings: "eyes", endpoint.Judging: "deepseek"} {
		e, err := s.For(task, "")
		require.NoError(t, err)
		assert.Equal(t, want, e.Name)
	}
	_, err = s.Get("nowhere")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	assert.ErrorContains(t, err, "dashscope, deepseek, eyes, clara")
}

func TestEndpointsThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		name   string
		config endpoint.Config
		says   string
	}{
		{"unknown key", endpoint.Config{File: file(t, "endpoints:\n  - name: a\n    api_key: x\n    base_url: http://a/v1")}, "api_key"},
		{"no name", endpoint.Config{File: file(t, "endpoints:\n  - base_url: http://a/v1")}, "needs a name"},
		{"the name of the generator", endpoint.Config{File: file(t, "endpoints:\n  - name: clara\n    base_url: http://a/v1")}, "not \"clara\""},
		{"no address", endpoint.Config{File: file(t, "endpoints:\n  - name: a")}, "base_url"},
		{"twice", endpoint.Config{File: file(t, "endpoints:\n  - {name: a, base_url: 'http://a/v1'}\n  - {name: a, base_url: 'http://b/v1'}")}, "two endpoints"},
		{"no file", endpoint.Config{File: "nowhere.yaml"}, "nowhere.yaml"},
		{"not http", endpoint.Config{BaseURL: "file:///etc/passwd"}, "BASE_URL"},
		{"provider and another address", endpoint.Config{Provider: "ollama", BaseURL: "https://user:pass@api.example.com/v1"}, "leave one of them out"},
		{"endpoint of a task", endpoint.Config{BaseURL: "http://a/v1", VisionEndpoint: "b"}, "endpoint of vision"},
		{"no generator", endpoint.Config{Provider: "clara"}, "no generator"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := endpoint.Open(c.config, nil, nil)
			require.ErrorContains(t, err, c.says)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
		})
	}
}

func TestNoEndpointNamesTheSettings(t *testing.T) {
	s, err := endpoint.Open(endpoint.Config{}, nil, nil)
	require.NoError(t, err)
	_, err = s.Get("")
	require.ErrorContains(t, err, "OPENAI_API_KEY")
	assert.Equal(t, clara.State, clara.KindOf(err))
}

// generator answers as it is told to.
type generator struct {
	generatorv1connect.UnimplementedGeneratorServiceHandler
	answer func(*generatorv1.AnswerRequest, *connect.ServerStream[generatorv1.AnswerResponse]) error
}

func (g generator) Answer(_ context.Context, r *generatorv1.AnswerRequest, s *connect.ServerStream[generatorv1.AnswerResponse]) error {
	return g.answer(r, s)
}

func serve(t *testing.T, answer func(*generatorv1.AnswerRequest, *connect.ServerStream[generatorv1.AnswerResponse]) error) endpoint.Generator {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(generatorv1connect.NewGeneratorServiceHandler(generator{answer: answer}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return endpoint.Generator{Client: generatorv1connect.NewGeneratorServiceClient(s.Client(), s.URL)}
}

func TestGenerator(t *testing.T) {
	var asked *generatorv1.AnswerRequest
	g := serve(t, func(r *generatorv1.AnswerRequest, s *connect.ServerStream[generatorv1.AnswerResponse]) error {
		asked = r
		return errors.Join(
			s.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Retrieved{Retrieved: &generatorv1.Retrieved{Model: "models/tiny"}}}),
			s.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Piece{Piece: &generatorv1.Piece{Text: "{"}}}),
			s.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Done{Done: &generatorv1.Done{Answer: "{}", FinishReason: "stop", Timings: &generatorv1.Timings{PromptTokens: 7, OutputTokens: 2}}}}),
		)
	})
	meter := llm.NewMeter(0, llm.Usage{})
	res, err := g.Chat(t.Context(), llm.Request{Model: "active", Messages: []llm.Message{{Role: "system", Text: "A"}, {Role: "user", Text: "B"}}, MaxTokens: 9999, Meter: meter,
		Schema: &llm.Schema{JSON: json.RawMessage(`{}`), Bounded: json.RawMessage(`{"maxLength":3}`)}})
	require.NoError(t, err)
	assert.Equal(t, llm.Response{Text: "{}", Finish: "stop", Model: "models/tiny", Usage: llm.Usage{Requests: 1, PromptTokens: 7, CompletionTokens: 2}}, res)
	assert.Equal(t, res.Usage, meter.Usage())
	assert.Equal(t, "models/active", asked.Model)
	assert.Equal(t, int32(2048), asked.MaxTokens)
	assert.Equal(t, `{"maxLength":3}`, asked.JsonSchema)
	assert.True(t, asked.Patient)
	require.Len(t, asked.Messages, 2)
	assert.Equal(t, "system A user B", asked.Messages[0].Role+" "+asked.Messages[0].Text+" "+asked.Messages[1].Role+" "+asked.Messages[1].Text)

	_, err = g.Chat(t.Context(), llm.Request{Model: "active", Messages: []llm.Message{{Role: "user", Images: []llm.Image{{}}}}})
	assert.ErrorContains(t, err, "VISION_MODEL")
}

func TestGeneratorThatDoesNotFinishIsUnavailable(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
	}{{"time limit", connect.NewError(connect.CodeDeadlineExceeded, errors.New("late"))}, {"no end", nil}} {
		t.Run(c.name, func(t *testing.T) {
			g := serve(t, func(*generatorv1.AnswerRequest, *connect.ServerStream[generatorv1.AnswerResponse]) error {
				return c.err
			})
			_, err := g.Chat(t.Context(), llm.Request{Model: "active", Messages: []llm.Message{{Role: "user", Text: "B"}}})
			assert.False(t, clara.IsContext(err), "it does not end the build")
			if c.err == nil {
				assert.Equal(t, clara.Unavailable, clara.KindOf(err))
			}
		})
	}
}
