package endpoint

import (
	"context"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
)

// Generator is the suite's own generator as a model. It has no pictures and no forms of output.
type Generator struct {
	Client generatorv1connect.GeneratorServiceClient
}

// maxTokens bounds an answer: small models go on and on.
const maxTokens = 2048

// Chat implements llm.Model. The model "active" is the active package.
func (g Generator) Chat(ctx context.Context, r llm.Request) (llm.Response, error) {
	var parts []string
	for _, m := range r.Messages {
		if len(m.Images) > 0 {
			return llm.Response{}, clara.Errorf(clara.Unsupported, "the suite's generator reads no pictures: set VISION_MODEL at another endpoint")
		}
		parts = append(parts, m.Text)
	}
	model := r.Model
	if model == "active" {
		model = ""
	} else if !strings.HasPrefix(model, "models/") {
		model = "models/" + model
	}
	out, err := g.Client.Generate(ctx, &generatorv1.GenerateRequest{
		Model: model, Context: generatorv1.Context_CONTEXT_NONE, MaxTokens: int32(min(r.MaxTokens, maxTokens)),
		Items:    []*generatorv1.GenerateRequest_Item{{Question: strings.Join(parts, "\n\n")}},
		Sampling: &generatorv1.Sampling{Temperature: r.Temperature, Seed: r.Seed},
	})
	if clara.IsContext(err) && ctx.Err() == nil {
		// The call's own time limit: that of one answer, and not the end of the work.
		return llm.Response{}, clara.Errorf(clara.Unavailable, "the suite's generator did not finish an answer in time: %s", err.Error())
	}
	if err != nil {
		return llm.Response{}, err
	}
	if len(out.Outputs) != 1 {
		return llm.Response{}, clara.Errorf(clara.Corrupt, "the generator gave %d outputs for one prompt", len(out.Outputs))
	}
	o := out.Outputs[0]
	used := llm.Usage{Requests: 1, PromptTokens: int64(o.GetTimings().GetPromptTokens()), CompletionTokens: int64(o.GetTimings().GetOutputTokens())}
	r.Meter.Add(used)
	return llm.Response{Text: o.Text, Finish: o.FinishReason, Model: out.Model, Usage: used}, nil
}
