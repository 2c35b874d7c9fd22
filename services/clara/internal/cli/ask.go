package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// Sampling flags of every command that generates.
type Sampling struct {
	MaxTokens   int32    `help:"Tokens to generate at most." default:"128"`
	Temperature float64  `help:"0 is greedy."`
	TopP        float64  `help:"Nucleus to sample from; 0: all." name:"top-p"`
	SampleTopK  int32    `help:"Tokens to sample from; 0: all." name:"sample-top-k"`
	Seed        int64    `help:"Seed of sampling."`
	Stop        []string `help:"Text that ends the answer." sep:"none"`
}

func (s Sampling) proto() *generatorv1.Sampling {
	return &generatorv1.Sampling{Temperature: s.Temperature, TopP: s.TopP, TopK: s.SampleTopK, Seed: s.Seed, Stop: s.Stop}
}

// Ask answers a question from a collection.
type Ask struct {
	Question   []string `arg:"" help:"The question; - reads it from standard input."`
	Collection string   `help:"Collection to ask." short:"c" env:"CLARA_COLLECTION" default:"default"`
	Context    string   `help:"What the model reads: memory, text, mixed or none; default: the model's best." enum:"memory,text,mixed,none,auto" default:"auto"`
	Retrieve   string   `help:"How passages are found: memory, lexical or hybrid; default: the model's best." enum:"memory,lexical,hybrid,auto" default:"auto"`
	TopK       int32    `help:"Passages to read; default: the model's own."`
	Model      string   `help:"Model for --context none; default: the active one."`
	Sampling
}

var contexts = map[string]generatorv1.Context{
	"auto": generatorv1.Context_CONTEXT_UNSPECIFIED, "memory": generatorv1.Context_CONTEXT_MEMORY, "text": generatorv1.Context_CONTEXT_TEXT,
	"mixed": generatorv1.Context_CONTEXT_MIXED, "none": generatorv1.Context_CONTEXT_NONE,
}

var modes = map[string]rerankerv1.Mode{
	"auto": rerankerv1.Mode_MODE_UNSPECIFIED, "memory": rerankerv1.Mode_MODE_MEMORY,
	"lexical": rerankerv1.Mode_MODE_LEXICAL, "hybrid": rerankerv1.Mode_MODE_HYBRID,
}

func name[T comparable](of map[string]T, v T) string {
	for n, x := range of {
		if x == v {
			return n
		}
	}
	return "?"
}

// defaultCollection is asked where none is named.
const defaultCollection = "default"

// Run streams the answer, then its sources and timings.
func (a *Ask) Run(ctx context.Context, e *Env) error {
	question := strings.Join(a.Question, " ")
	if question == "-" {
		b, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
		if err != nil {
			return clara.Errorf(clara.Invalid, "read the question from standard input: %w", err)
		}
		question = strings.TrimSpace(string(b))
	}
	from := collection(a.Collection)
	if a.Context == "none" && a.Collection == defaultCollection {
		from = "" // nothing is read from it, so it need not be there
	}
	client, err := e.generator()
	if err != nil {
		return err
	}
	request := &generatorv1.AnswerRequest{
		Collection: from, Question: question, Context: contexts[a.Context], Retrieve: modes[a.Retrieve],
		TopK: a.TopK, MaxTokens: a.MaxTokens, Sampling: a.Sampling.proto(), Model: withPrefix("models/", a.Model),
	}
	// Somebody at a terminal would only ask again: a suite that is busy is waited for, a while.
	for deadline := time.Now().Add(patience); ; {
		began, err := a.answer(ctx, e, client, request)
		after := max(clara.RetryAfter(err), time.Second)
		if clara.KindOf(err) != clara.Busy || began || time.Now().Add(after).After(deadline) {
			return a.named(err)
		}
		fmt.Fprintf(e.Err, "(busy; asking again in %s)\n", after.Round(time.Second))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(after):
		}
	}
}

// patience is how long a suite that is busy is waited for.
const patience = 2 * time.Minute

// answer asks once and prints what comes. began reports whether anything of an answer did.
func (a *Ask) answer(ctx context.Context, e *Env, client generatorv1connect.GeneratorServiceClient, request *generatorv1.AnswerRequest) (began bool, err error) {
	stream, err := client.Answer(ctx, request)
	if err != nil {
		return false, err
	}
	defer stream.Close()
	var retrieved *generatorv1.Retrieved
	for stream.Receive() {
		msg := stream.Msg()
		if !began && msg.GetRetrieved() == nil {
			began = true
			if e.JSON && retrieved != nil { // held back until now, as a busy suite is asked again from the beginning
				if err := e.print(nil, &generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Retrieved{Retrieved: retrieved}}); err != nil {
					return true, err
				}
			}
		}
		if e.JSON && began {
			if err := e.print(nil, msg); err != nil {
				return true, err
			}
			continue
		}
		switch part := msg.Part.(type) {
		case *generatorv1.AnswerResponse_Retrieved:
			retrieved = part.Retrieved
			if retrieved.Note != "" && !e.JSON {
				fmt.Fprintf(e.Err, "(%s)\n", retrieved.Note)
			}
		case *generatorv1.AnswerResponse_Piece:
			fmt.Fprint(e.Out, part.Piece.Text)
		case *generatorv1.AnswerResponse_Done:
			fmt.Fprintln(e.Out)
			if part.Done.FinishReason == "length" {
				fmt.Fprintf(e.Err, "(cut at --max-tokens %d)\n", a.MaxTokens)
			}
			sources(e.Out, retrieved)
			timings(e.Out, retrieved, part.Done.Timings)
		}
	}
	return began, stream.Err()
}

// named adds to the error for a collection that nobody named how to name one.
func (a *Ask) named(err error) error {
	if a.Collection == defaultCollection && clara.KindOf(err) == clara.NotFound {
		return clara.Errorf(clara.NotFound, "%w; name one with -c", err)
	}
	return err
}

// sources prints where the answer comes from: file, page, heading, score.
func sources(w io.Writer, r *generatorv1.Retrieved) {
	if r == nil || len(r.Candidates) == 0 {
		return
	}
	fmt.Fprintln(w, "\nSources")
	for i, c := range r.Candidates {
		fmt.Fprintf(w, "  %d. %s%s%s  (score %.4g)\n", i+1, c.File, pageRange(c.PageFirst, c.PageLast), headingPath(c.Headings), c.Score)
	}
}

func pageRange(first, last int32) string {
	switch {
	case first == 0:
		return ""
	case last > first:
		return fmt.Sprintf(", pages %d-%d", first, last)
	}
	return fmt.Sprintf(", page %d", first)
}

func headingPath(h []string) string {
	if len(h) == 0 {
		return ""
	}
	return ", " + strings.Join(h, " > ")
}

func timings(w io.Writer, r *generatorv1.Retrieved, t *generatorv1.Timings) {
	if t == nil {
		return
	}
	fmt.Fprintf(w, "\nretrieve %.0f ms, prefill %.0f ms (%d tokens), %d tokens at %.1f tokens/s, first token after %.0f ms",
		t.RetrieveSeconds*1e3, t.PrefillSeconds*1e3, t.PromptTokens, t.OutputTokens, t.TokensPerSecond, t.FirstTokenSeconds*1e3)
	if r != nil {
		fmt.Fprintf(w, "; context %s", name(contexts, r.Context))
		if r.Mode != rerankerv1.Mode_MODE_UNSPECIFIED {
			fmt.Fprintf(w, ", retrieval %s", name(modes, r.Mode))
		}
		fmt.Fprintf(w, ", %s", short(r.Model))
	}
	fmt.Fprintln(w)
}
