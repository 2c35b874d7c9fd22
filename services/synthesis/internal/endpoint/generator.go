package endpoint

import (
	"context"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
)

// Generator is the suite's own generator as a model: it reads no pictures, and holds answers to their schema.
type Generator struct {
	Client generatorv1connect.GeneratorServiceClient
}

const (
	// maxTokens bounds an answer: small models go on and on.
	maxTokens = 2048
	// streams is how many requests at once the generator is given: half of what it batches, so that people who ask find
	// a place.
	streams = 4
	// busyTries is how often a request is made that finds the generator's queue full.
	busyTries = 20
	// longestPause between two of them.
	longestPause = 10 * time.Second
)

// Chat implements llm.Model. The model "active" is the active package. Requests are patient: questions of people go first.
func (g Generator) Chat(ctx context.Context, r llm.Request) (llm.Response, error) {
	ask := &generatorv1.AnswerRequest{
		Context: generatorv1.Context_CONTEXT_NONE, Model: "models/" + strings.TrimPrefix(r.Model, "models/"), MaxTokens: int32(min(r.MaxTokens, maxTokens)),
		Sampling: &generatorv1.Sampling{Temperature: r.Temperature, Seed: r.Seed}, Patient: true,
	}
	for _, m := range r.Messages {
		if len(m.Images) > 0 {
			return llm.Response{}, clara.Errorf(clara.Unsupported, "the suite's generator reads no pictures: set VISION_MODEL at another endpoint")
		}
		ask.Messages = append(ask.Messages, &generatorv1.Message{Role: m.Role, Text: m.Text})
	}
	if r.Schema != nil {
		ask.JsonSchema = string(r.Schema.JSON)
		if r.Schema.Bounded != nil {
			ask.JsonSchema = string(r.Schema.Bounded)
		}
	}
	for try := 1; ; try++ {
		res, err := g.answer(ctx, ask)
		if clara.KindOf(err) != clara.Busy || try == busyTries {
			r.Meter.Add(res.Usage)
			return res, err
		}
		pause := time.NewTimer(min(max(clara.RetryAfter(err), 100*time.Millisecond), longestPause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return llm.Response{}, ctx.Err()
		}
	}
}

func (g Generator) answer(ctx context.Context, ask *generatorv1.AnswerRequest) (llm.Response, error) {
	stream, err := g.Client.Answer(ctx, ask)
	if err != nil {
		return llm.Response{}, err
	}
	defer stream.Close()
	res := llm.Response{Usage: llm.Usage{Requests: 1}}
	for stream.Receive() {
		switch p := stream.Msg().Part.(type) {
		case *generatorv1.AnswerResponse_Retrieved:
			res.Model = p.Retrieved.Model
		case *generatorv1.AnswerResponse_Done:
			t := p.Done.GetTimings()
			res.Text, res.Finish = p.Done.Answer, p.Done.FinishReason
			res.Usage.PromptTokens, res.Usage.CompletionTokens = int64(t.GetPromptTokens()), int64(t.GetOutputTokens())
			return res, nil
		}
	}
	err = stream.Err()
	if clara.IsContext(err) && ctx.Err() == nil {
		// The call's own time limit: that of one answer, and not the end of the work.
		return llm.Response{}, clara.Errorf(clara.Unavailable, "the suite's generator did not finish an answer in time: %s", err.Error())
	}
	if err != nil {
		return llm.Response{}, err
	}
	return llm.Response{}, clara.Errorf(clara.Unavailable, "the suite's generator ended an answer before its end")
}
