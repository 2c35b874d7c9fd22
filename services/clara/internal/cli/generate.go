package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/clara-suite/clara/libs/clara"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// Generate holds the model's three entry points (spec clara-model §6), in batches.
type Generate struct {
	Paraphrase GenerateParaphrase `cmd:"" help:"Tell what the memory of each document says."`
	Answer     GenerateAnswer     `cmd:"" help:"Answer each question from the passages given with it."`
	Select     GenerateSelect     `cmd:"" help:"Choose the best candidates for each question and answer from them."`
}

// input is a line of a batch file. Keys are those of the training files.
type input struct {
	Question string   `json:"question"`
	Docs     []string `json:"docs"`
}

// readInputs reads JSON lines from a file, or standard input for "-".
func readInputs(path string) ([]input, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, clara.Errorf(clara.Invalid, "open batch: %w", err)
		}
		defer f.Close()
	}
	var (
		out []input
		in  = bufio.NewReader(f)
	)
	for line := 1; ; line++ {
		b, err := in.ReadBytes('\n')
		if len(b) > 1 {
			var i input
			if e := json.Unmarshal(b, &i); e != nil {
				return nil, clara.Errorf(clara.Invalid, `%s line %d: %w; want {"question": "..", "docs": ["..", ..]}`, path, line, e)
			}
			out = append(out, i)
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "read %s: %w", path, err)
		}
	}
}

// batch returns the file's lines, or the one made of flags.
func batch(path, question string, docs []string) ([]input, error) {
	if path != "" {
		return readInputs(path)
	}
	return []input{{Question: question, Docs: docs}}, nil
}

// GenerateParaphrase is generate_from_paraphrase.
type GenerateParaphrase struct {
	Document  []string `arg:"" optional:"" help:"Document to compress and paraphrase."`
	Batch     string   `help:"File of JSON lines with docs; - is standard input." placeholder:"FILE"`
	Model     string   `help:"Model; default: the active one."`
	MaxTokens int32    `help:"Tokens to generate at most." default:"128"`
	Seed      int64    `help:"Chooses the instruction for each document."`
}

// Run prints one paraphrase a document.
func (g *GenerateParaphrase) Run(ctx context.Context, e *Env) error {
	docs := g.Document
	if g.Batch != "" {
		in, err := readInputs(g.Batch)
		if err != nil {
			return err
		}
		for _, i := range in {
			docs = append(docs, i.Docs...)
		}
	}
	if len(docs) == 0 {
		return clara.Errorf(clara.Invalid, "no document: name one, or give --batch FILE")
	}
	client, err := e.generator()
	if err != nil {
		return err
	}
	r, err := client.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Model: withPrefix("models/", g.Model), Documents: docs, MaxTokens: g.MaxTokens, Seed: g.Seed})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		for _, o := range r.Outputs {
			fmt.Fprintln(w, o.Text)
		}
	}, r)
}

// GenerateAnswer is generate_from_text.
type GenerateAnswer struct {
	Question string   `help:"The question." short:"q"`
	Passage  []string `help:"A passage; repeat for more." short:"p" sep:"none"`
	Batch    string   `help:"File of JSON lines with question and docs; - is standard input." placeholder:"FILE"`
	Context  string   `help:"What the model reads: memory, text or none; default: the model's best." enum:"memory,text,mixed,none,auto" default:"auto"`
	Model    string   `help:"Model; default: the active one."`
	Sampling
}

// Run prints one answer a question.
func (g *GenerateAnswer) Run(ctx context.Context, e *Env) error {
	in, err := batch(g.Batch, g.Question, g.Passage)
	if err != nil {
		return err
	}
	req := &generatorv1.GenerateRequest{Model: withPrefix("models/", g.Model), Context: contexts[g.Context], MaxTokens: g.MaxTokens, Sampling: g.Sampling.proto()}
	for _, i := range in {
		req.Items = append(req.Items, &generatorv1.GenerateRequest_Item{Question: i.Question, Passages: i.Docs})
	}
	client, err := e.generator()
	if err != nil {
		return err
	}
	r, err := client.Generate(ctx, req)
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		for _, o := range r.Outputs {
			fmt.Fprintln(w, o.Text)
		}
	}, r)
}

// GenerateSelect is generate_from_questions.
type GenerateSelect struct {
	Question  string   `help:"The question." short:"q"`
	Candidate []string `help:"A candidate passage; repeat for more." short:"p" sep:"none"`
	Batch     string   `help:"File of JSON lines with question and docs; - is standard input." placeholder:"FILE"`
	TopK      int32    `help:"Candidates to keep; default: the model's own."`
	MaxTokens int32    `help:"Tokens to generate at most." default:"128"`
	Model     string   `help:"Model; default: the active one."`
}

// Run prints, for each question, the answer and the indices of the candidates it was read from.
func (g *GenerateSelect) Run(ctx context.Context, e *Env) error {
	in, err := batch(g.Batch, g.Question, g.Candidate)
	if err != nil {
		return err
	}
	req := &generatorv1.SelectRequest{Model: withPrefix("models/", g.Model), TopK: g.TopK, MaxTokens: g.MaxTokens}
	for _, i := range in {
		req.Items = append(req.Items, &generatorv1.SelectRequest_Item{Question: i.Question, Candidates: i.Docs})
	}
	client, err := e.generator()
	if err != nil {
		return err
	}
	r, err := client.Select(ctx, req)
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		for _, s := range r.Selections {
			fmt.Fprintf(w, "%s\n  chosen:", s.Output.GetText())
			for i, index := range s.Indices {
				fmt.Fprintf(w, " %d (%.4f)", index, s.Scores[i])
			}
			fmt.Fprintln(w)
		}
	}, r)
}
