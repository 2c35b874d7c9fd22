package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/evaluate"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
)

// Eval measures a model on data through the running services (spec clara-model §8).
type Eval struct {
	Data       []string `arg:"" help:"JSONL files with questions, documents and answers, or folders of them." placeholder:"PATH"`
	Model      string   `help:"Model; default: the active one."`
	Mode       string   `help:"${enum}: choose among the candidates and answer; answer from all documents; say each document again; how far memories lie from their texts." enum:"end-to-end,instruction,paraphrase,mse" default:"end-to-end"`
	Setting    string   `help:"${enum}: documents as they are; the positives alone." enum:"normal,oracle" default:"normal"`
	Context    []string `help:"memory, text, none; default: all that the model can, side by side."`
	TopK       int      `help:"Documents that an answer is read from; 0: the model's."`
	MaxTokens  int      `help:"Tokens of an answer at most; 0: 64, of a paraphrase 128."`
	MaxSamples int      `help:"Samples of each file; 0: all."`
	Batch      int      `help:"Samples in one call." default:"8"`
	Out        string   `short:"o" help:"Folder of predictions and reports; one that was broken off is gone on with. Default: eval/MODEL-MODE-SETTING." placeholder:"DIR"`
}

// Run measures and prints the report.
func (c *Eval) Run(ctx context.Context, e *Env) error {
	files, err := dataFiles(c.Data, c.Mode)
	if err != nil {
		return err
	}
	generator, err := e.generator()
	if err != nil {
		return err
	}
	models, err := e.models()
	if err != nil {
		return err
	}
	reranker, err := e.reranker()
	if err != nil {
		return err
	}
	out := c.Out
	if out == "" {
		name := short(c.Model)
		if name == "" {
			name = "active"
		}
		out = filepath.Join("eval", strings.Join([]string{name, c.Mode, c.Setting}, "-"))
	}
	compressor, err := e.compressor()
	if err != nil {
		return err
	}
	show := newEvalMeter(e)
	r := evaluate.Runner{Generator: generator, Reranker: reranker, Compressor: compressor, Models: models, Progress: show.update}
	report, err := r.Run(ctx, evaluate.Config{
		Model: withPrefix("models/", c.Model), Data: files, Mode: c.Mode, Setting: c.Setting, Contexts: c.Context,
		TopK: c.TopK, MaxTokens: c.MaxTokens, MaxSamples: c.MaxSamples, Batch: c.Batch,
	}, out)
	show.end()
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(e.Err, "what was answered is kept in %s; the same command goes on from there\n", out)
		}
		return err
	}
	if e.JSON {
		raw, err := os.ReadFile(filepath.Join(out, evaluate.ReportJSON))
		if err != nil {
			return clara.Errorf(clara.Unavailable, "read report: %w", err)
		}
		_, err = e.Out.Write(raw)
		return err
	}
	fmt.Fprintln(e.Out, report.Markdown())
	fmt.Fprintf(e.Err, "predictions and reports are in %s\n", out)
	return nil
}

// dataFiles are the files to read: of a folder those that the mode can use, the dev part where there are parts.
func dataFiles(paths []string, mode string) ([]string, error) {
	kind := "end_to_end_data.jsonl"
	switch mode {
	case evaluate.Instruction:
		kind = "instruction_data.jsonl"
	case evaluate.Paraphrase, evaluate.MSE:
		kind = "pretrain_data.jsonl"
	}
	var out []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, clara.Errorf(clara.NotFound, "open data: %w", err)
		}
		if !info.IsDir() {
			out = append(out, p)
			continue
		}
		var found []string
		for _, pattern := range []string{"dev." + kind, "*/dev." + kind, kind, "*/" + kind} {
			if found, err = filepath.Glob(filepath.Join(p, pattern)); err == nil && len(found) > 0 {
				break
			}
		}
		if len(found) == 0 {
			return nil, clara.Errorf(clara.NotFound, "%s holds no %s, dev.%s, nor a folder with one", p, kind, kind)
		}
		out = append(out, found...)
	}
	return out, nil
}

func (e *Env) reranker() (rerankerv1connect.RerankerServiceClient, error) {
	c, err := e.dial(e.RerankerAddr)
	if err != nil {
		return nil, err
	}
	return rerankerv1connect.NewRerankerServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

func (e *Env) compressor() (compressorv1connect.CompressorServiceClient, error) {
	c, err := e.dial(e.CompressorAddr)
	if err != nil {
		return nil, err
	}
	return compressorv1connect.NewCompressorServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

// evalMeter shows how far an evaluation is.
type evalMeter struct {
	e        *Env
	terminal bool
	begun    time.Time
	first    int // answers that were there before
	last     time.Time
}

func newEvalMeter(e *Env) *evalMeter {
	_, terminal := isTerminal(e.Err)
	return &evalMeter{e: e, terminal: terminal, first: -1}
}

func (m *evalMeter) update(done, total int, what string) {
	now := time.Now()
	if m.first < 0 {
		m.first, m.begun = done, now
	}
	if m.e.JSON || now.Sub(m.last) < 2*time.Second && done < total {
		return
	}
	m.last = now
	left := ""
	if n := done - m.first; n > 0 {
		left = ", " + (time.Duration(float64(now.Sub(m.begun)) / float64(n) * float64(total-done)).Round(time.Second)).String() + " left"
	}
	end := "\n"
	if m.terminal {
		fmt.Fprint(m.e.Err, "\r\x1b[2K")
		end = ""
	}
	fmt.Fprintf(m.e.Err, "%s: %d of %d answers%s%s", what, done, total, left, end)
}

func (m *evalMeter) end() {
	if m.terminal && m.first >= 0 {
		fmt.Fprintln(m.e.Err)
	}
}
