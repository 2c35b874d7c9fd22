package asktest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/rpc"
)

// TestOpenAI talks to the chat interface with the official client library.
func TestOpenAI(t *testing.T) {
	secret, token := rpc.NewToken("limited", "handbook")
	everything, all := rpc.NewToken("all", rpc.AllCollections)
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte(token.Line()+"\n"+all.Line()+"\n"), 0o600))
	e := start(t, infer.Options{Context: 400}, rpc.Config{Listen: "127.0.0.1:0", TokenFile: file})
	ctx := t.Context()
	for _, c := range []string{"handbook", "other"} {
		e.Records.Collection(c, "tiny")
		e.Ready(c, "pumps", "the red pump is in hall two", "close valve A before B")
	}
	dial := func(key string) openai.Client {
		return openai.NewClient(option.WithBaseURL("http://"+e.Server.Addr()+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
	}
	client, limited := dial(everything), dial(secret)
	question := openai.ChatCompletionNewParams{Model: "handbook", MaxCompletionTokens: openai.Int(12), Messages: []openai.ChatCompletionMessageParamUnion{
		openai.SystemMessage("ignored"), openai.UserMessage("earlier"), openai.AssistantMessage("said"), openai.UserMessage("where is the red pump"),
	}}

	whole, err := client.Chat.Completions.New(ctx, question)
	require.NoError(t, err)
	require.Len(t, whole.Choices, 1)
	assert.Contains(t, []string{"stop", "length"}, whole.Choices[0].FinishReason)
	assert.Equal(t, whole.Usage.TotalTokens, whole.Usage.PromptTokens+whole.Usage.CompletionTokens)
	assert.Contains(t, whole.RawJSON(), `"file":"pumps.md"`)
	assert.Contains(t, whole.RawJSON(), `"context":"memory"`)
	assert.NotContains(t, whole.Choices[0].Message.Content, "pumps.md")

	// The stream says the same, and tells the usage when asked to.
	question.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := limited.Chat.Completions.NewStreaming(ctx, question)
	streamed := openai.ChatCompletionAccumulator{}
	first := ""
	for stream.Next() {
		if first == "" {
			first = stream.Current().RawJSON()
		}
		assert.True(t, streamed.AddChunk(stream.Current()))
	}
	require.NoError(t, stream.Err())
	assert.Contains(t, first, `"sources":[{"file":"pumps.md"`)
	require.Len(t, streamed.Choices, 1)
	assert.Equal(t, whole.Choices[0].Message.Content, streamed.Choices[0].Message.Content)
	assert.Equal(t, whole.Choices[0].FinishReason, streamed.Choices[0].FinishReason)
	assert.Equal(t, whole.Usage.TotalTokens, streamed.Usage.TotalTokens)

	// A model package is chatted with as it is.
	chat := openai.ChatCompletionNewParams{Model: "models/plain", MaxTokens: openai.Int(20), Temperature: openai.Float(1.5), Seed: openai.Int(4), TopP: openai.Float(0.9), Messages: question.Messages}
	one, err := client.Chat.Completions.New(ctx, chat)
	require.NoError(t, err)
	two, err := client.Chat.Completions.New(ctx, chat)
	require.NoError(t, err)
	assert.Equal(t, one.Choices[0].Message.Content, two.Choices[0].Message.Content, "a seed makes it repeatable")
	if said := []rune(one.Choices[0].Message.Content); len(said) > 3 {
		stop := string(said[2])
		chat.Stop = openai.ChatCompletionNewParamsStopUnion{OfString: openai.String(stop)}
		cut, err := client.Chat.Completions.New(ctx, chat)
		require.NoError(t, err)
		assert.Equal(t, "stop", cut.Choices[0].FinishReason)
		assert.Equal(t, strings.SplitN(one.Choices[0].Message.Content, stop, 2)[0], cut.Choices[0].Message.Content)
	}

	// The form of an answer is held to, of a collection's too, streamed and drawn.
	schema := openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{
		Name: "verdict", Strict: openai.Bool(true), Schema: map[string]any{"type": "object", "additionalProperties": false, "required": []string{"kind", "sure"},
			"properties": map[string]any{"kind": map[string]any{"enum": []string{"pump", "valve"}}, "sure": map[string]any{"type": "boolean"}}},
	}}}
	for _, model := range []string{"handbook", "models/plain"} {
		formed := openai.ChatCompletionNewParams{Model: model, MaxCompletionTokens: openai.Int(200), Temperature: openai.Float(1), ResponseFormat: schema, Messages: question.Messages}
		stream := client.Chat.Completions.NewStreaming(ctx, formed)
		said := openai.ChatCompletionAccumulator{}
		for stream.Next() {
			assert.True(t, said.AddChunk(stream.Current()))
		}
		require.NoError(t, stream.Err())
		var verdict struct {
			Kind string
			Sure *bool
		}
		require.NoError(t, json.Unmarshal([]byte(said.Choices[0].Message.Content), &verdict), said.Choices[0].Message.Content)
		assert.Contains(t, []string{"pump", "valve"}, verdict.Kind)
		assert.NotNil(t, verdict.Sure)
		assert.Equal(t, "stop", said.Choices[0].FinishReason)
	}
	object, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "models/plain", MaxCompletionTokens: openai.Int(5), Messages: question.Messages,
		ResponseFormat: openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONObject: &openai.ResponseFormatJSONObjectParam{}}})
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(strings.TrimSpace(object.Choices[0].Message.Content), "{"), object.Choices[0].Message.Content)
	pattern := openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{
		Name: "x", Schema: map[string]any{"type": "string", "pattern": "^a"},
	}}}

	models, err := client.Models.List(ctx)
	require.NoError(t, err)
	var ids []string
	for _, m := range models.Data {
		ids = append(ids, m.ID)
	}
	assert.Equal(t, []string{"handbook", "other", "models/plain", "models/tiny"}, ids)
	models, err = limited.Models.List(ctx)
	require.NoError(t, err)
	require.Len(t, models.Data, 1)
	assert.Equal(t, "handbook", models.Data[0].ID)
	for _, id := range []string{"handbook", "collections/handbook", "models/plain", "plain"} {
		m, err := client.Models.Get(ctx, id)
		require.NoError(t, err)
		assert.Equal(t, id, m.ID)
	}

	messages := question.Messages
	for _, x := range []struct {
		name   string
		client openai.Client
		r      openai.ChatCompletionNewParams
		status int
		param  string
		text   string
	}{
		{"unknown model", client, openai.ChatCompletionNewParams{Model: "nobody", Messages: messages}, http.StatusNotFound, "model", "GET /v1/models"},
		{"another's collection", limited, openai.ChatCompletionNewParams{Model: "other", Messages: messages}, http.StatusNotFound, "model", "other"},
		{"a model with a limited token", limited, openai.ChatCompletionNewParams{Model: "models/plain", Messages: messages}, http.StatusNotFound, "model", "models/plain"},
		{"wrong token", dial("wrong"), openai.ChatCompletionNewParams{Model: "handbook", Messages: messages}, http.StatusUnauthorized, "", "token"},
		{"two choices", client, openai.ChatCompletionNewParams{Model: "handbook", N: openai.Int(2), Messages: messages}, http.StatusBadRequest, "n", "only 1"},
		{"no messages", client, openai.ChatCompletionNewParams{Model: "handbook", Messages: []openai.ChatCompletionMessageParamUnion{}}, http.StatusBadRequest, "messages", "there is none"},
		{"no question", client, openai.ChatCompletionNewParams{Model: "handbook", Messages: messages[:1]}, http.StatusBadRequest, "messages", "none is the user's"},
		{"a form that is not done", client, openai.ChatCompletionNewParams{Model: "models/plain", ResponseFormat: pattern, Messages: messages}, http.StatusBadRequest, "response_format", `"pattern" is not done here`},
		{"empty stop", client, openai.ChatCompletionNewParams{Model: "handbook", Stop: openai.ChatCompletionNewParamsStopUnion{OfStringArray: []string{""}}, Messages: messages}, http.StatusBadRequest, "stop", "empty text"},
		{"hot", client, openai.ChatCompletionNewParams{Model: "handbook", Temperature: openai.Float(3), Messages: messages}, http.StatusBadRequest, "temperature", "0 to 2"},
		{"picture", client, openai.ChatCompletionNewParams{Model: "handbook", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
			openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "https://example.com/x.png"}),
		})}}, http.StatusBadRequest, "messages", "image_url"},
		{"long conversation", client, openai.ChatCompletionNewParams{Model: "models/plain", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(strings.Repeat("long ", 100))}}, http.StatusBadRequest, "", "holds 400"},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := x.client.Chat.Completions.New(ctx, x.r)
			var fault *openai.Error
			require.ErrorAs(t, err, &fault)
			assert.Equal(t, x.status, fault.StatusCode)
			assert.Equal(t, x.param, fault.Param)
			assert.Contains(t, fault.Message, x.text)
		})
	}

	// A fault before the first piece is an error, not a stream.
	question.Model = "nobody"
	stream = client.Chat.Completions.NewStreaming(ctx, question)
	assert.False(t, stream.Next())
	var fault *openai.Error
	require.ErrorAs(t, stream.Err(), &fault)
	assert.Contains(t, fault.Message, "nobody")

	for _, body := range []string{"", "{", `{"model": 3}`, `{"model": "handbook", "messages": [{"role": "robot", "content": "x"}]}`, `{"model": "handbook", "messages": [{"role": "user", "content": "x"}], "tools": [{}]}`, `{"model": "handbook", "messages": [{"role": "user", "content": "x"}], "clara": {"context": "all"}}`} {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.Server.Addr()+"/v1/chat/completions", strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+everything)
		reply, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, reply.StatusCode, body)
		require.NoError(t, reply.Body.Close())
	}
}
