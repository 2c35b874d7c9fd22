package evaluate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/index/bm25"
	"github.com/clara-suite/clara/libs/score"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// Modes.
const (
	EndToEnd    = "end-to-end"
	Instruction = "instruction"
	Paraphrase  = "paraphrase"
	MSE         = "mse"
)

// Settings.
const (
	Normal = "normal"
	Oracle = "oracle"
)

// Contexts.
const (
	Memory = "memory"
	Text   = "text"
	None   = "none"
)

// Config says what to measure. Its JSON is what makes one evaluation differ from another.
type Config struct {
	Model   string   `json:"model"` // "models/{model}"; empty: the active one
	Data    []string `json:"-"`     // JSONL files
	Mode    string   `json:"mode"`
	Setting string   `json:"setting"`
	// Contexts to answer from; empty: all that the model can.
	Contexts   []string `json:"contexts"`
	TopK       int      `json:"top_k"`       // 0: the model's
	MaxTokens  int      `json:"max_tokens"`  // 0: 64
	MaxSamples int      `json:"max_samples"` // of each file; 0: all
	Batch      int      `json:"-"`           // samples in one call; 0: 8
}

// Validate returns all faults of the settings, as one Invalid error.
func (c Config) Validate() error {
	var faults []error
	one := func(name, value string, of ...string) {
		if !slices.Contains(of, value) {
			faults = append(faults, fmt.Errorf("%s %q: give %s", name, value, strings.Join(of, ", ")))
		}
	}
	one("mode", c.Mode, EndToEnd, Instruction, Paraphrase, MSE)
	one("setting", c.Setting, Normal, Oracle)
	for _, x := range c.Contexts {
		one("context", x, Memory, Text, None)
	}
	if c.memories() && (c.Setting != Normal || len(c.Contexts) > 1 || len(c.Contexts) == 1 && c.Contexts[0] != Memory) {
		faults = append(faults, fmt.Errorf("mode %s has one setting, normal, and one context, memory", c.Mode))
	}
	if len(c.Data) == 0 {
		faults = append(faults, errors.New("data: name a file"))
	}
	if c.TopK < 0 || c.MaxTokens < 0 || c.MaxSamples < 0 || c.Batch < 0 {
		faults = append(faults, errors.New("top_k, max_tokens, max_samples and batch must not be negative"))
	}
	if len(faults) > 0 {
		return clara.Errorf(clara.Invalid, "evaluation: %w", errors.Join(faults...))
	}
	return nil
}

// memories reports whether the mode looks at memories of documents rather than at answers.
func (c Config) memories() bool { return c.Mode == Paraphrase || c.Mode == MSE }

// Generator answers; generatorv1connect.GeneratorServiceClient is one.
type Generator interface {
	Generate(context.Context, *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error)
	Paraphrase(context.Context, *generatorv1.ParaphraseRequest) (*generatorv1.ParaphraseResponse, error)
}

// Reranker ranks; rerankerv1connect.RerankerServiceClient is one.
type Reranker interface {
	Rerank(context.Context, *rerankerv1.RerankRequest) (*rerankerv1.RerankResponse, error)
}

// Compressor compresses; compressorv1connect.CompressorServiceClient is one. The mse mode alone needs it.
type Compressor interface {
	Compress(context.Context, *compressorv1.CompressRequest) (*compressorv1.CompressResponse, error)
}

// Models says what the model is; modelv1connect.ModelServiceClient is one.
type Models interface {
	GetModel(context.Context, *modelv1.GetModelRequest) (*modelv1.Model, error)
}

// Runner measures by way of the services.
type Runner struct {
	Generator  Generator
	Reranker   Reranker
	Compressor Compressor
	Models     Models
	// Progress, if given, is told how many of all answers are there.
	Progress func(done, total int, what string)
}

// Run measures and writes predictions and reports into the folder.
func (r Runner) Run(ctx context.Context, cfg Config, dir string) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	files, err := read(cfg)
	if err != nil {
		return nil, err
	}
	model, err := r.resolve(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	log, err := openPredictions(dir, cfg, model.Digest, files)
	if err != nil {
		return nil, err
	}
	err = r.answer(ctx, cfg, model, files, log)
	if err := errors.Join(err, log.close()); err != nil {
		return nil, err
	}
	report := summarize(cfg, model, files, log.all)
	return report, report.write(dir)
}

// resolve fills in what the model decides.
func (r Runner) resolve(ctx context.Context, cfg *Config) (*modelv1.Model, error) {
	name := cfg.Model
	if name == "" {
		name = "models/active"
	}
	m, err := r.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: name})
	if err != nil {
		return nil, err
	}
	cfg.Model = m.Name
	memory := m.MemoryTokens > 0
	switch {
	case cfg.memories():
		cfg.Contexts = []string{Memory}
	case len(cfg.Contexts) == 0 && memory:
		cfg.Contexts = []string{Memory, Text, None}
	case len(cfg.Contexts) == 0:
		cfg.Contexts = []string{Text, None}
	}
	if !memory && slices.Contains(cfg.Contexts, Memory) {
		return nil, clara.Errorf(clara.State, "%s has no adapters: it answers from text and none only", m.Name)
	}
	if cfg.TopK == 0 {
		cfg.TopK = cmp.Or(int(m.GenerationTopK), 5)
	}
	cfg.MaxTokens = cmp.Or(cfg.MaxTokens, 64)
	if cfg.Mode == Paraphrase && cfg.MaxTokens < 128 {
		cfg.MaxTokens = 128
	}
	cfg.Batch = cmp.Or(cfg.Batch, 8)
	return m, nil
}

// file is a data file and its samples.
type file struct {
	Path    string
	Name    string // for tables
	Hash    string // of its bytes, hex
	samples []dataset.Sample
	// Excluded counts samples that the setting cannot use.
	excluded int
}

// read reads all data before any work begins; faulty lines come back together.
func read(cfg Config) ([]*file, error) {
	kind := map[string]dataset.Kind{EndToEnd: dataset.EndToEnd, Instruction: dataset.Instruction, Paraphrase: dataset.Any, MSE: dataset.Any}[cfg.Mode]
	var out []*file
	var errs []error
	for _, path := range cfg.Data {
		samples, err := dataset.ReadFiles(kind, path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sum, err := hash(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f := &file{Path: path, Name: label(path), Hash: sum}
		for _, s := range samples {
			if cfg.MaxSamples > 0 && len(f.samples) == cfg.MaxSamples {
				break
			}
			if cfg.Setting == Oracle && len(s.PosIndex) == 0 {
				f.excluded++
				continue
			}
			f.samples = append(f.samples, s)
		}
		if len(f.samples) == 0 {
			errs = append(errs, clara.Errorf(clara.Invalid, "%s: no sample names its positives (pos_index), which the oracle setting needs", path))
		}
		out = append(out, f)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// label is what a file is called in tables: its folder where the file has one of the usual names.
func label(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	for _, usual := range []string{"end_to_end_data", "instruction_data", "pretrain_data"} {
		if rest, ok := strings.CutSuffix(name, usual); ok {
			return strings.Trim(filepath.Base(filepath.Dir(path))+"/"+strings.Trim(rest, "._-"), "/")
		}
	}
	return name
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", clara.Errorf(clara.NotFound, "open data: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", clara.Errorf(clara.Unavailable, "read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// answer makes the predictions that are not there yet.
func (r Runner) answer(ctx context.Context, cfg Config, model *modelv1.Model, files []*file, log *predictions) error {
	total := 0
	for _, f := range files {
		total += len(f.samples) * len(cfg.Contexts)
	}
	done := 0
	for i, f := range files {
		for from := 0; from < len(f.samples); from += cfg.Batch {
			batch := f.samples[from:min(from+cfg.Batch, len(f.samples))]
			if err := r.batch(ctx, cfg, model, i, from, batch, log); err != nil {
				return err
			}
			done += len(batch) * len(cfg.Contexts)
			if r.Progress != nil {
				r.Progress(done, total, f.Name)
			}
		}
	}
	return nil
}

// batch answers some samples of a file from every context.
func (r Runner) batch(ctx context.Context, cfg Config, model *modelv1.Model, file, first int, samples []dataset.Sample, log *predictions) error {
	var rankings []ranking // made when first needed
	for _, c := range cfg.Contexts {
		var missing []int // in samples
		for i := range samples {
			if !log.has(key{file, first + i, c}) {
				missing = append(missing, i)
			}
		}
		if len(missing) == 0 {
			continue
		}
		if rankings == nil && c != None && cfg.Mode == EndToEnd && cfg.Setting == Normal {
			var err error
			if rankings, err = r.rank(ctx, cfg, model, samples); err != nil {
				return err
			}
		}
		var items []*generatorv1.GenerateRequest_Item
		var out []Prediction
		for _, i := range missing {
			s := samples[i]
			p := Prediction{File: file, Sample: first + i, ID: s.ID, Context: c, Question: question(cfg, s), Golds: s.Golds, Positives: s.PosIndex}
			var docs []string
			docs, p.Documents, p.Ranking, p.Scores = passages(cfg, c, s, at(rankings, i))
			if cfg.memories() {
				p.Golds = docs // what is to be said again, or measured
			}
			items = append(items, &generatorv1.GenerateRequest_Item{Question: p.Question, Passages: docs})
			out = append(out, p)
		}
		if cfg.Mode == MSE {
			if err := r.measure(ctx, cfg, out); err != nil {
				return err
			}
		} else if err := r.generate(ctx, cfg, c, items, out); err != nil {
			return err
		}
		for i := range out {
			out[i].score()
		}
		if err := log.add(out); err != nil {
			return err
		}
	}
	return nil
}

func question(cfg Config, s dataset.Sample) string {
	if cfg.memories() || len(s.Questions) == 0 {
		return ""
	}
	return s.Question()
}

func at(rankings []ranking, i int) ranking {
	if i < len(rankings) {
		return rankings[i]
	}
	return ranking{}
}

// ranking is the candidates of a sample, best first.
type ranking struct {
	order  []int
	scores []float64
}

// passages are what a sample is answered from: the texts, their places in the sample, and how all were ranked.
func passages(cfg Config, c string, s dataset.Sample, rank ranking) (docs []string, places, order []int, scores []float64) {
	switch {
	case c == None:
		return nil, nil, nil, nil
	case cfg.memories():
		places = []int{0}
	case cfg.Setting == Oracle:
		places = slices.Clone(s.PosIndex)
	case cfg.Mode == Instruction:
		for i := range s.Docs {
			places = append(places, i)
		}
	default:
		order, scores = rank.order, rank.scores
		places = order[:min(cfg.TopK, len(order))]
	}
	for _, p := range places {
		docs = append(docs, s.Docs[p])
	}
	return docs, places, order, scores
}

// rank orders the candidates of each sample: by the model, or by BM25 if it has no encoder.
func (r Runner) rank(ctx context.Context, cfg Config, model *modelv1.Model, samples []dataset.Sample) ([]ranking, error) {
	out := make([]ranking, 0, len(samples))
	if model.MemoryTokens == 0 {
		for _, s := range samples {
			out = append(out, lexical(s.Question(), s.Docs))
		}
		return out, nil
	}
	req := &rerankerv1.RerankRequest{Model: cfg.Model}
	for _, s := range samples {
		req.Queries = append(req.Queries, &rerankerv1.RerankRequest_Query{Question: s.Question(), Passages: s.Docs})
	}
	resp, err := patient(ctx, func() (*rerankerv1.RerankResponse, error) { return r.Reranker.Rerank(ctx, req) })
	if err != nil {
		return nil, fmt.Errorf("rank candidates: %w", err)
	}
	if len(resp.Rankings) != len(samples) {
		return nil, clara.Errorf(clara.Internal, "rank candidates: %d rankings for %d questions", len(resp.Rankings), len(samples))
	}
	for _, x := range resp.Rankings {
		k := ranking{scores: x.Scores}
		for _, i := range x.Indices {
			k.order = append(k.order, int(i))
		}
		out = append(out, k)
	}
	return out, nil
}

// lexical ranks by BM25 with the document frequencies of the candidates themselves. Ties take the lower place.
func lexical(question string, docs []string) ranking {
	type doc map[uint32]float32
	var all []doc
	frequency := map[uint32]float64{}
	for _, d := range docs {
		ids, weights := bm25.Document(d)
		m := doc{}
		for i, id := range ids {
			m[id] = weights[i]
			frequency[id]++
		}
		all = append(all, m)
	}
	ids, _ := bm25.Query(question)
	r := ranking{scores: make([]float64, len(docs))}
	scores := make([]float64, len(docs))
	for i, d := range all {
		r.order = append(r.order, i)
		for _, id := range ids {
			idf := math.Log(1 + (float64(len(docs))-frequency[id]+0.5)/(frequency[id]+0.5))
			scores[i] += idf * float64(d[id])
		}
	}
	slices.SortStableFunc(r.order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	for i, d := range r.order {
		r.scores[i] = scores[d]
	}
	return r
}

var contexts = map[string]generatorv1.Context{
	Memory: generatorv1.Context_CONTEXT_MEMORY, Text: generatorv1.Context_CONTEXT_TEXT, None: generatorv1.Context_CONTEXT_NONE,
}

// generate fills in the answers. What the model cannot take (a prompt too long) is an empty answer with the reason.
func (r Runner) generate(ctx context.Context, cfg Config, c string, items []*generatorv1.GenerateRequest_Item, out []Prediction) error {
	outputs, err := patient(ctx, func() ([]*generatorv1.Output, error) { return r.call(ctx, cfg, c, items) })
	if k := clara.KindOf(err); err != nil && (k == clara.Invalid || k == clara.Unsupported) && len(items) > 1 {
		for i := range items { // one of them is at fault: find it
			if err := r.generate(ctx, cfg, c, items[i:i+1], out[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	} else if err != nil && (k == clara.Invalid || k == clara.Unsupported) {
		out[0].Error = err.Error()
		return nil
	}
	if err != nil {
		return fmt.Errorf("answer from %s: %w", c, err)
	}
	if len(outputs) != len(items) {
		return clara.Errorf(clara.Internal, "answer from %s: %d answers to %d questions", c, len(outputs), len(items))
	}
	for i, o := range outputs {
		out[i].Answer, out[i].Finish = o.Text, o.FinishReason
		if t := o.Timings; t != nil {
			out[i].PromptTokens, out[i].OutputTokens, out[i].FirstToken = int(t.PromptTokens), int(t.OutputTokens), t.FirstTokenSeconds
		}
	}
	return nil
}

// measure fills in how far the memories of documents lie from their texts.
func (r Runner) measure(ctx context.Context, cfg Config, out []Prediction) error {
	req := &compressorv1.CompressRequest{Model: cfg.Model, Distance: true}
	for _, p := range out {
		req.Texts = append(req.Texts, p.Golds[0])
	}
	resp, err := patient(ctx, func() (*compressorv1.CompressResponse, error) { return r.Compressor.Compress(ctx, req) })
	if err != nil {
		return fmt.Errorf("compress documents: %w", err)
	}
	if len(resp.Distances) != len(out) {
		return clara.Errorf(clara.Internal, "compress documents: %d distances of %d documents", len(resp.Distances), len(out))
	}
	for i := range out {
		out[i].Distance = resp.Distances[i]
	}
	return nil
}

func (r Runner) call(ctx context.Context, cfg Config, c string, items []*generatorv1.GenerateRequest_Item) ([]*generatorv1.Output, error) {
	if cfg.Mode == Paraphrase {
		req := &generatorv1.ParaphraseRequest{Model: cfg.Model, MaxTokens: int32(cfg.MaxTokens)}
		for _, i := range items {
			req.Documents = append(req.Documents, i.Passages[0])
		}
		resp, err := r.Generator.Paraphrase(ctx, req)
		return resp.GetOutputs(), err
	}
	resp, err := r.Generator.Generate(ctx, &generatorv1.GenerateRequest{Model: cfg.Model, Items: items, Context: contexts[c], MaxTokens: int32(cfg.MaxTokens)})
	return resp.GetOutputs(), err
}

// patient calls again while the service is busy, after the time that it asks for.
func patient[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if clara.KindOf(err) != clara.Busy {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-time.After(max(clara.RetryAfter(err), 100*time.Millisecond)):
		}
	}
}

// score compares a prediction with what counts: the golds, or the document itself for a paraphrase.
func (p *Prediction) score() {
	reference, characters, ok := score.Best(p.Answer, p.Golds)
	if !ok {
		return
	}
	p.EM, p.Cover, p.F1, p.CharF1 = reference.EM, reference.Cover, reference.F1, characters.F1
}
