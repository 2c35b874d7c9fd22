package endpoint_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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

// slow is a generator that never finishes an answer within its call's time.
type slow struct {
	generatorv1connect.GeneratorServiceClient
	asked *generatorv1.GenerateRequest
}

func (s *slow) Generate(_ context.Context, r *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error) {
	s.asked = r
	return nil, fmt.Errorf("call: %w", context.DeadlineExceeded)
}

func TestGeneratorThatTakesTooLongIsUnavailable(t *testing.T) {
	s := &slow{}
	_, err := endpoint.Generator{Client: s}.Chat(t.Context(), llm.Request{Model: "active", Messages: []llm.Message{{Role: "system", Text: "A"}, {Role: "user", Text: "B"}}, MaxTokens: 9999})
	require.Equal(t, clara.Unavailable, clara.KindOf(err))
	assert.False(t, clara.IsContext(err), "it does not end the build")
	assert.Equal(t, "A\n\nB", s.asked.Items[0].Question)
	assert.Equal(t, int32(2048), s.asked.MaxTokens)
	_, err = endpoint.Generator{Client: s}.Chat(t.Context(), llm.Request{Model: "active", Messages: []llm.Message{{Role: "user", Images: []llm.Image{{}}}}})
	assert.ErrorContains(t, err, "VISION_MODEL")
}
