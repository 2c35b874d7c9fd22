package evaluate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/evaluate"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// services answer with the first word of the first passage, and rank the last passage first.
type services struct {
	memory int32
	calls  int
	fail   int // the call, from 1, that is the last to work
}

func (s *services) GetModel(_ context.Context, r *modelv1.GetModelRequest) (*modelv1.Model, error) {
	return &modelv1.Model{Name: "models/tiny", MemoryTokens: s.memory, Hidden: 48, GenerationTopK: 2, Parameters: 1000, Digest: "d"}, nil
}

func (s *services) Rerank(_ context.Context, r *rerankerv1.RerankRequest) (*rerankerv1.RerankResponse, error) {
	out := &rerankerv1.RerankResponse{}
	for _, q := range r.Queries {
		x := &rerankerv1.RerankResponse_Ranking{}
		for i := range q.Passages { // the last first
			x.Indices, x.Scores = append(x.Indices, int32(len(q.Passages)-1-i)), append(x.Scores, 1/float64(1+i))
		}
		out.Rankings = append(out.Rankings, x)
	}
	return out, nil
}

func (s *services) Generate(_ context.Context, r *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error) {
	s.calls++
	if s.fail > 0 && s.calls > s.fail {
		return nil, clara.Errorf(clara.Unavailable, "generator is away")
	}
	out := &generatorv1.GenerateResponse{}
	for _, i := range r.Items {
		if strings.Contains(i.Question, "too long") {
			return nil, clara.Errorf(clara.Invalid, "the prompt is too long")
		}
		answer := "nothing"
		if len(i.Passages) > 0 {
			answer = strings.Fields(i.Passages[0])[0]
		}
		out.Outputs = append(out.Outputs, &generatorv1.Output{Text: answer, FinishReason: "stop", Timings: &generatorv1.Timings{PromptTokens: 10, OutputTokens: 1, FirstTokenSeconds: 0.5}})
	}
	return out, nil
}

func (s *services) Paraphrase(_ context.Context, r *generatorv1.ParaphraseRequest) (*generatorv1.ParaphraseResponse, error) {
	out := &generatorv1.ParaphraseResponse{}
	for _, d := range r.Documents {
		out.Outputs = append(out.Outputs, &generatorv1.Output{Text: d})
	}
	return out, nil
}

func (s *services) runner() evaluate.Runner {
	return evaluate.Runner{Generator: s, Reranker: s, Models: s}
}

// data writes n samples whose answer is the first word of the positive, which is the last of three documents; the last
// sample's prompt is too long.
func data(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quiz", "dev.end_to_end_data.jsonl")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	var b strings.Builder
	for i := range n {
		question := fmt.Sprintf("what is thing%d?", i)
		if i == n-1 {
			question = "too long"
		}
		line, err := json.Marshal(map[string]any{"question": question, "docs": []string{"red herring", "blue herring", fmt.Sprintf("word%d is thing%d", i, i)}, "gold_answer": fmt.Sprintf("word%d", i), "pos_index": []int{2}})
		require.NoError(t, err)
		fmt.Fprintf(&b, "%s\n", line)
	}
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

func find(t *testing.T, r *evaluate.Report, context string) evaluate.Row {
	t.Helper()
	for _, x := range r.Rows {
		if x.Context == context {
			return x
		}
	}
	t.Fatalf("no row of %s", context)
	return evaluate.Row{}
}

func TestEndToEnd(t *testing.T) {
	dir, s := t.TempDir(), &services{memory: 4}
	cfg := evaluate.Config{Data: []string{data(t, 10)}, Mode: evaluate.EndToEnd, Setting: evaluate.Normal, Batch: 4}
	r, err := s.runner().Run(t.Context(), cfg, dir)
	require.NoError(t, err)
	assert.Equal(t, []string{"memory", "text", "none"}, r.Contexts)
	assert.Equal(t, "the model", r.Ranked)
	m := find(t, r, "memory")
	assert.Equal(t, "quiz/dev", m.Data)
	assert.Equal(t, 10, m.Samples)
	assert.Equal(t, 1, m.Errors)
	assert.InDelta(t, 0.9, m.EM.Mean, 1e-9)
	assert.InDelta(t, 1, m.Recall[1].Mean, 1e-9)
	assert.InDelta(t, 1.0/3, m.Precision[3].Mean, 1e-9)
	assert.InDelta(t, 2*4*48*2, m.ContextBytes, 1e-9, "k = 2 memories of 4 x 48 halves")
	assert.InDelta(t, 9, m.PromptTokens, 1e-9)
	assert.InDelta(t, 0, find(t, r, "none").EM.Mean, 1e-9)

	md, err := os.ReadFile(filepath.Join(dir, evaluate.ReportMarkdown))
	require.NoError(t, err)
	assert.Contains(t, string(md), "| quiz/dev | memory | 10 | 90.0 (")
	assert.Contains(t, string(md), "CLaRa 16x (paper)")
	html, err := os.ReadFile(filepath.Join(dir, evaluate.ReportHTML))
	require.NoError(t, err)
	assert.Contains(t, string(html), "<td>quiz/dev</td><td>memory</td>")
	again, err := evaluate.ReadReport(dir)
	require.NoError(t, err)
	assert.Equal(t, r.Rows[0].EM, again.Rows[0].EM)

	cfg.TopK = 3
	_, err = s.runner().Run(t.Context(), cfg, dir)
	assert.Equal(t, clara.Exists, clara.KindOf(err), "a folder of another evaluation: %v", err)
}

func TestResumes(t *testing.T) {
	path := data(t, 9)
	whole, dir := t.TempDir(), t.TempDir()
	cfg := evaluate.Config{Data: []string{path}, Mode: evaluate.Instruction, Setting: evaluate.Oracle, Contexts: []string{"memory", "text"}, Batch: 2}
	all := &services{memory: 4}
	want, err := all.runner().Run(t.Context(), cfg, whole)
	require.NoError(t, err)

	broken := &services{memory: 4, fail: 5}
	_, err = broken.runner().Run(t.Context(), cfg, dir)
	require.Equal(t, clara.Unavailable, clara.KindOf(err))
	// The crash came in the middle of a line.
	f, err := os.OpenFile(filepath.Join(dir, evaluate.PredictionsFile), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"file":0,"sam`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	rest := &services{memory: 4}
	got, err := rest.runner().Run(t.Context(), cfg, dir)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, all.calls, broken.calls-1+rest.calls, "nothing is asked twice")
	a, err := os.ReadFile(filepath.Join(whole, evaluate.PredictionsFile))
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, evaluate.PredictionsFile))
	require.NoError(t, err)
	assert.Equal(t, string(a), string(b))
}

func TestWithoutAdapters(t *testing.T) {
	s := &services{}
	cfg := evaluate.Config{Data: []string{data(t, 5)}, Mode: evaluate.EndToEnd, Setting: evaluate.Normal}
	r, err := s.runner().Run(t.Context(), cfg, t.TempDir())
	require.NoError(t, err)
	assert.Equal(t, []string{"text", "none"}, r.Contexts)
	assert.Equal(t, "BM25", r.Ranked)
	assert.InDelta(t, 0.8, find(t, r, "text").EM.Mean, 1e-9)
	cfg.Contexts = []string{"memory"}
	_, err = s.runner().Run(t.Context(), cfg, t.TempDir())
	assert.Equal(t, clara.State, clara.KindOf(err))
}

func TestParaphrase(t *testing.T) {
	s := &services{memory: 4}
	r, err := s.runner().Run(t.Context(), evaluate.Config{Data: []string{data(t, 3)}, Mode: evaluate.Paraphrase, Setting: evaluate.Normal}, t.TempDir())
	require.NoError(t, err)
	require.Len(t, r.Rows, 1)
	assert.InDelta(t, 1, r.Rows[0].F1.Mean, 1e-9)
}

func TestValidate(t *testing.T) {
	err := evaluate.Config{Mode: "x", Setting: "y", Contexts: []string{"z"}, TopK: -1}.Validate()
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	for _, says := range []string{`mode "x"`, `setting "y"`, `context "z"`, "name a file", "negative"} {
		assert.ErrorContains(t, err, says)
	}
}

func (s *services) Compress(_ context.Context, r *compressorv1.CompressRequest) (*compressorv1.CompressResponse, error) {
	out := &compressorv1.CompressResponse{}
	for i := range r.Texts {
		if r.Distance {
			out.Distances = append(out.Distances, float64(1+i))
		}
	}
	return out, nil
}

func TestMSE(t *testing.T) {
	dir, s := t.TempDir(), &services{memory: 4}
	r, err := evaluate.Runner{Compressor: s, Models: s}.Run(t.Context(), evaluate.Config{Data: []string{data(t, 4)}, Mode: evaluate.MSE, Setting: evaluate.Normal, Batch: 4}, dir)
	require.NoError(t, err)
	require.Len(t, r.Rows, 1)
	assert.InDelta(t, 2.5, r.Rows[0].Distance.Mean, 1e-9)
	assert.Contains(t, r.Markdown(), "| quiz/dev | 4 | 2.5 |")
	svg, err := os.ReadFile(filepath.Join(dir, "distance-1.svg"))
	require.NoError(t, err)
	assert.Contains(t, string(svg), "quiz/dev")
	page, err := os.ReadFile(filepath.Join(dir, evaluate.ReportHTML))
	require.NoError(t, err)
	assert.Contains(t, string(page), "<svg ")
}
