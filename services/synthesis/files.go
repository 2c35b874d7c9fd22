package synthesis

import (
	"context"
	"image"
	"log/slog"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/services/synthesis/internal/build"
	"github.com/clara-suite/clara/services/synthesis/internal/candidate"
	"github.com/clara-suite/clara/services/synthesis/internal/describe"
	"github.com/clara-suite/clara/services/synthesis/internal/endpoint"
	"github.com/clara-suite/clara/services/synthesis/internal/results"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// Names of the work on files, for programs that build data sets without the service.
type (
	// Recipe is how a data set is made.
	Recipe = build.Recipe
	// Card says what a data set was made of and how.
	Card = build.Card
	// Pictures is what became of pictures, for the card.
	Pictures = build.Pictures
	// Progress says how far a build is.
	Progress = build.Progress
	// Picture is one to be described.
	Picture = describe.Picture
	// Description is what became of a picture.
	Description = describe.Result
	// Results keeps what models have answered.
	Results = results.Log
	// ReadPicture recognises the text in a picture.
	ReadPicture = func(ctx context.Context, img image.Image) (string, error)
)

// Ways to choose wrong candidates.
const (
	Random    = build.Random
	BM25      = build.BM25
	Embedding = build.Embedding
)

// Names of the files of a data set.
const (
	PretrainFile    = build.PretrainFile
	InstructionFile = build.InstructionFile
	EndToEndFile    = build.EndToEndFile
	TrainingFile    = build.TrainingFile
	CardFile        = build.CardFile
)

// WriteFile writes a file that appears whole, on disk, or not at all.
var WriteFile = build.WriteFile

// OpenResults opens the log of results in a file, making it if it is not there. Conflict if another build uses it.
func OpenResults(path string) (*Results, error) { return results.OpenLog(path) }

// Models are the language models there are to ask.
type Models struct{ set *endpoint.Set }

// OpenModels makes the endpoints of the settings, and that of the suite's own generator unless it is nil. Nothing is
// connected yet. Invalid.
func OpenModels(c ModelsConfig, generator generatorv1connect.GeneratorServiceClient, log *slog.Logger) (*Models, error) {
	var own llm.Model
	if generator != nil {
		own = endpoint.Generator{Client: generator}
	}
	set, err := endpoint.Open(c, own, log)
	if err != nil {
		return nil, err
	}
	return &Models{set}, nil
}

// Close closes idle connections.
func (m *Models) Close() { m.set.Close() }

// Use is what a piece of work asks and where. Empty names are the endpoint's own models, the first endpoint.
type Use struct {
	Endpoint, Model, VisionModel, EmbeddingModel string
	// Read recognises text in pictures; nil: it is not recognised.
	Read  ReadPicture
	Meter *llm.Meter
	// MiniLM is the folder of the model for embeddings where the endpoint has none; empty: the project's cache.
	MiniLM string
}

// Check reports whether there is a model to write with, before any work is done. State, NotFound.
func (m *Models) Check(u Use) error {
	e, err := m.set.Get(u.Endpoint)
	if err == nil && u.Model == "" && e.Model == "" {
		err = clara.Errorf(clara.State, "endpoint %s: no model is named: set MODEL", e.Name)
	}
	return err
}

// Describe has pictures described by the vision model, or their text read where there is none. done is called after
// each. The results until an error that stopped the work are good and stored.
func (m *Models) Describe(ctx context.Context, u Use, store results.Store, pictures []Picture, done func()) ([]Description, error) {
	d := describe.Describer{Read: u.Read, Store: store, Meter: u.Meter, Concurrency: 2}
	e, err := m.set.For(endpoint.Vision, u.Endpoint)
	switch {
	case err == nil:
		if d.Model = u.VisionModel; d.Model == "" {
			d.Model = e.VisionModel
		}
		if d.Model != "" {
			d.Chat, d.Concurrency = e.Chat, e.Concurrency
		}
	case u.Endpoint != "" || clara.KindOf(err) != clara.State:
		return nil, err // no endpoint at all: text is read
	}
	return d.All(ctx, pictures, done)
}

// Build is what a data set is made from.
type Build struct {
	// Documents are lines of raw_knowledge.jsonl.
	Documents []dataset.Document
	Recipe    Recipe
	Use       Use
	Store     results.Store
	// Described are the pictures' results, for the card and so that they stay stored; nil: pictures are another's work,
	// and all of their results stay.
	Described []Description
	// Dir is where the files go.
	Dir      string
	Progress func(Progress)
}

// Build makes the files of a data set. The card is there even with an error; Card.Complete says whether all was done.
func (m *Models) Build(ctx context.Context, b Build) (*Card, error) {
	e, err := m.set.Get(b.Use.Endpoint)
	if err != nil {
		return nil, err
	}
	o := build.Options{
		Documents: b.Documents, Recipe: b.Recipe, Chat: e.Chat, Model: b.Use.Model, Endpoint: e.URL, Concurrency: e.Concurrency, Meter: b.Use.Meter,
		Store: b.Store, Keys: map[string]bool{}, KeepPictures: b.Described == nil, Dir: b.Dir, Progress: b.Progress,
	}
	if o.Model == "" {
		o.Model = e.Model
	}
	if o.Model == "" {
		return nil, clara.Errorf(clara.State, "endpoint %s: no model is named: set MODEL", e.Name)
	}
	judge, err := m.set.For(endpoint.Judging, b.Use.Endpoint)
	if err != nil {
		return nil, err
	}
	o.JudgeChat, o.JudgeModel = judge.Chat, judge.JudgeModel
	if o.JudgeModel == "" && judge.Name != e.Name {
		o.JudgeModel = judge.Model
	}
	eyes, err := m.set.For(endpoint.Vision, b.Use.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.Pictures.Model = b.Use.VisionModel; o.Pictures.Model == "" {
		o.Pictures.Model = eyes.VisionModel
	}
	for _, d := range b.Described {
		o.Keys[d.Key] = true
		switch {
		case d.Err != nil:
			o.Pictures.Failed++
		case d.Skipped != "":
			o.Pictures.Skipped++
		case d.By == describe.ByOCR:
			o.Pictures.Read++
		default:
			o.Pictures.Described++
		}
	}
	if b.Recipe.Negatives == Embedding {
		embedder, err := m.newEmbedder(b.Use)
		if err != nil {
			return nil, err
		}
		defer embedder.close()
		o.Embed, o.EmbeddingModel = embedder.embed, embedder.name
	}
	return build.Run(ctx, o)
}

// embedBatch is how many texts are embedded between two reports.
const embedBatch = 64

// Candidates chooses the documents of questions anew: samples are of a pretraining file (whose documents are the
// positives) or of any file with pos_index. progress, unless nil, is told how far embeddings are, which take the time. It
// returns the samples of stages 2 and 3. Invalid.
func (m *Models) Candidates(ctx context.Context, u Use, samples []dataset.Sample, r Recipe, progress func(Progress)) (instruction, endToEnd []dataset.Sample, err error) {
	r = r.WithDefaults()
	if err := r.Check(); err != nil {
		return nil, nil, err
	}
	var chunks []string
	at := map[string]int{}
	add := func(s string) int {
		i, ok := at[s]
		if !ok {
			i = len(chunks)
			at[s] = i
			chunks = append(chunks, s)
		}
		return i
	}
	for _, s := range samples {
		for _, d := range s.Docs {
			add(d)
		}
	}
	var ranker candidate.Ranker
	switch r.Negatives {
	case Random:
		ranker = candidate.Random{N: len(chunks), Seed: r.Seed}
	case BM25:
		ranker = candidate.NewBM25(chunks)
	case Embedding:
		embedder, err := m.newEmbedder(u)
		if err != nil {
			return nil, nil, err
		}
		defer embedder.close()
		var vectors [][]float32
		for part := range slices.Chunk(chunks, embedBatch) {
			if progress != nil {
				progress(Progress{Stage: "embeddings", Done: len(vectors), Total: len(chunks), Unit: "chunks", Usage: u.Meter.Usage()})
			}
			some, err := embedder.embed(ctx, part)
			if err != nil {
				return nil, nil, err
			}
			vectors = append(vectors, some...)
		}
		ranker = candidate.NewVectors(vectors)
	}
	selector := candidate.NewSelector(chunks, ranker, r.TopK, r.Seed)
	seen := map[string]bool{}
	for _, s := range samples {
		var positives []int
		switch {
		case s.Kind == dataset.Pretrain && s.DataType == dataset.QA:
			positives = []int{add(s.Docs[0])}
		case s.PosIndex != nil:
			for _, p := range s.PosIndex {
				positives = append(positives, add(s.Docs[p]))
			}
		default:
			continue // a paraphrase, or a question whose positives nobody knows
		}
		for i, q := range s.Questions {
			if seen[text.Normal(q)] {
				continue
			}
			seen[text.Normal(q)] = true
			answer := s.Answer()
			if i < len(s.Answers) {
				answer = s.Answers[i]
			}
			ask := candidate.Question{ID: q, Text: q, Answer: answer, Positives: positives}
			if len(positives) == 0 {
				ask.Answer = ""
			}
			if len(positives) > r.TopK {
				return nil, nil, clara.Errorf(clara.Invalid, "%s:%d: %d positives do not fit into top k %d", s.File, s.Line, len(positives), r.TopK)
			}
			c, err := selector.Choose(ctx, ask)
			if err != nil {
				return nil, nil, err
			}
			out := dataset.Sample{Kind: dataset.Instruction, ID: s.ID, DataType: dataset.QA, Questions: []string{q}, Answers: []string{answer}, PosIndex: nil}
			for _, x := range c.Chunks {
				out.Docs = append(out.Docs, chunks[x])
			}
			instruction = append(instruction, out)
			out.Kind, out.PosIndex = dataset.EndToEnd, c.Positives
			endToEnd = append(endToEnd, out)
		}
	}
	if len(endToEnd) == 0 {
		return nil, nil, clara.Errorf(clara.Invalid, "no question with known positives: give a pretrain_data.jsonl or a file with pos_index")
	}
	return instruction, endToEnd, nil
}

// Replacer finds other wrong documents for questions: those of a pool, hard ones by BM25. Not safe for concurrent use.
type Replacer struct {
	pool     []string
	at       map[string]int
	selector *candidate.Selector
}

// NewReplacer prepares the choice among the documents of a pool, which are distinct.
func NewReplacer(pool []string, topK int, seed int64) *Replacer {
	r := &Replacer{pool: pool, at: map[string]int{}, selector: candidate.NewSelector(pool, candidate.NewBM25(pool), topK, seed)}
	for i, d := range pool {
		r.at[d] = i
	}
	return r
}

// Replace puts documents of the pool in the places of those of a question that are not in it, positives excepted. Where
// the pool has too few that do not answer the question, the rest goes, and pos_index with it.
func (r *Replacer) Replace(ctx context.Context, s dataset.Sample, positives []string) (dataset.Sample, error) {
	q := candidate.Question{ID: s.Question(), Text: s.Question(), Answer: s.Answer()}
	var keep, foreign []int
	for i, d := range s.Docs {
		at, ok := r.at[d]
		switch {
		case slices.Contains(positives, d):
			if ok {
				q.Positives = append(q.Positives, at)
			}
		case ok:
			keep = append(keep, at)
		default:
			foreign = append(foreign, i)
		}
	}
	if len(foreign) == 0 {
		return s, nil
	}
	if len(positives) == 0 {
		q.Answer = "" // it says that nothing answers
	}
	others, _, err := r.selector.Negatives(ctx, q, keep, len(foreign))
	if err != nil {
		return s, err
	}
	out := s
	out.Docs, out.PosIndex = nil, nil
	if s.PosIndex != nil {
		out.PosIndex = []int{}
	}
	for i, d := range s.Docs {
		if slices.Contains(foreign, i) {
			if len(others) == 0 {
				continue
			}
			d, others = r.pool[others[0]], others[1:]
		}
		if slices.Contains(s.PosIndex, i) {
			out.PosIndex = append(out.PosIndex, len(out.Docs))
		}
		out.Docs = append(out.Docs, d)
	}
	return out, nil
}

// ImageRefs are the pictures that a document names.
func ImageRefs(d dataset.Document) []string { return text.Refs(d) }

// Language guesses the language of a text, such as "en" or "zh".
func Language(s string) string { return text.Language(s) }
