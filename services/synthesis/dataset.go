package synthesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/llm"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
	"github.com/clara-suite/clara/services/synthesis/internal/build"
	"github.com/clara-suite/clara/services/synthesis/internal/endpoint"
	"github.com/clara-suite/clara/services/synthesis/internal/picture"
	"github.com/clara-suite/clara/services/synthesis/internal/results"
	"github.com/clara-suite/clara/services/synthesis/internal/server"
)

// dataset builds the data set of a job and brings its record up to date.
func (s *Service) dataset(run *job.Run) error {
	ctx := run.Context()
	name, recipe, err := server.ParseSpec(run.Job())
	if err != nil {
		return err
	}
	var stale time.Time
	if _, err := s.records.Modify(ctx, name, func(d *synthesisv1.Dataset) error {
		stale = time.Time{}
		if d.StaleTime != nil {
			stale = d.StaleTime.AsTime()
		}
		d.State, d.Error, d.UpdateTime = synthesisv1.Dataset_STATE_BUILDING, "", timestamppb.Now()
		return nil
	}); err != nil {
		return err
	}
	card, files, err := s.make(ctx, run, name, recipe)
	// The record must tell how it ended even when the job was cancelled; not when it goes on elsewhere.
	if clara.IsContext(err) && !errors.Is(context.Cause(ctx), job.ErrCancelled) {
		return err
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, merr := s.records.Modify(after, name, func(d *synthesisv1.Dataset) error {
		d.UpdateTime = timestamppb.Now()
		if card != nil {
			d.Statistics = statistics(card)
		}
		if err != nil {
			d.State, d.Error = synthesisv1.Dataset_STATE_FAILED, err.Error()
			if len(d.Files) > 0 {
				d.State = synthesisv1.Dataset_STATE_PARTIAL // the files of the build before are still there
			}
			return nil
		}
		d.State, d.Files, d.Revision = synthesisv1.Dataset_STATE_READY, files, d.Revision+1
		if !card.Complete {
			d.State, d.Error = synthesisv1.Dataset_STATE_PARTIAL, card.Stopped
		}
		if d.StaleTime != nil && d.StaleTime.AsTime().Equal(stale) {
			d.StaleTime = nil
		}
		return nil
	})
	if clara.KindOf(merr) == clara.NotFound { // deleted meanwhile
		return errors.Join(err, server.Purge(after, s.app.Files, name))
	}
	if err != nil || merr != nil {
		return errors.Join(err, merr)
	}
	for _, f := range card.Failures {
		run.SetItem(&jobv1.Item{Name: f.Item, Label: f.Item, State: jobv1.Job_STATE_FAILED, Error: f.Reason})
	}
	if !card.Complete && len(card.Failures) == 0 {
		run.SetItem(&jobv1.Item{Name: "rest", Label: "rest of the chunks", State: jobv1.Job_STATE_PARTIAL, Error: card.Stopped})
	}
	run.Detail(fmt.Sprintf("%d pairs of %d chunks, cost %.4f", card.PairCount(), card.Chunks.Done, card.Usage.Cost))
	s.removeOld(after, name, files)
	return s.app.Conn.Publish(after, "dataset-"+run.Name(), &eventv1.DatasetReady{Dataset: name, Job: run.Name()})
}

// make gathers the documents, has pictures described, and builds.
func (s *Service) make(ctx context.Context, run *job.Run, name string, r *synthesisv1.Recipe) (*Card, []*synthesisv1.DatasetFile, error) {
	collection, _, err := server.ParseName(name)
	if err != nil {
		return nil, nil, err
	}
	store := results.Bucket{Files: s.app.Files, Prefix: server.Prefix(name) + "results/"}
	use := Use{Endpoint: r.Endpoint, Model: r.Model, VisionModel: r.VisionModel, MiniLM: s.cfg.MiniLM, Meter: llm.NewMeter(r.Budget, llm.Usage{})}
	e, err := s.endpoints.For(endpoint.Vision, r.Endpoint)
	if err != nil {
		return nil, nil, err
	}
	docs, pictures, err := s.documents(ctx, run, collection, r.VisionModel != "" || e.VisionModel != "")
	if err != nil {
		return nil, nil, err
	}
	m := &Models{s.endpoints}
	var mu sync.Mutex
	done := 0
	described, err := m.Describe(ctx, use, store, pictures, func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		run.Progress(int64(done), int64(len(pictures)), "pictures", "describing pictures")
	})
	if err != nil {
		return nil, nil, err
	}
	docs = append(docs, DescribedDocuments(described, pictures)...)
	dir, err := os.MkdirTemp("", "clara-dataset-*")
	if err != nil {
		return nil, nil, clara.Errorf(clara.Unavailable, "make room for the files: %w", err)
	}
	defer os.RemoveAll(dir)
	card, err := m.Build(ctx, Build{
		Documents: docs, Recipe: convertRecipe(r), Use: use, Store: store, Described: described, Dir: dir,
		Progress: func(p Progress) {
			run.Progress(int64(p.Done), int64(p.Total), p.Unit, p.Stage)
			run.Detail(fmt.Sprintf("%s, %d tokens, cost %.4f", p.Stage, p.Usage.PromptTokens+p.Usage.CompletionTokens, p.Usage.Cost))
		},
	})
	if err != nil {
		return card, nil, err
	}
	files, err := s.upload(ctx, name, dir, card)
	return card, files, err
}

// documents reads the documents of a collection as lines of raw_knowledge.jsonl, and their pictures. Without a vision
// model a stand-alone picture is what ingest has read in it.
func (s *Service) documents(ctx context.Context, run *job.Run, collection string, vision bool) ([]dataset.Document, []Picture, error) {
	var (
		docs     []dataset.Document
		pictures []Picture
		seen     = map[string]bool{}
	)
	for token := ""; ; {
		list, err := s.app.Ingest.ListDocuments(ctx, &ingestv1.ListDocumentsRequest{Parent: "collections/" + collection, PageToken: token})
		if err != nil {
			return nil, nil, err
		}
		for _, d := range list.Documents {
			if d.Extract == "" {
				continue // not read, or not yet
			}
			if d.Format == "image" && vision {
				pictures = append(pictures, Picture{Path: d.File, Load: func(ctx context.Context) ([]byte, error) {
					return s.app.Files.ReadAll(ctx, "files/"+d.ContentHash, picture.MaxBytes)
				}})
				continue
			}
			md, err := s.app.Ingest.GetMarkdown(ctx, &ingestv1.GetMarkdownRequest{Name: d.Name})
			if k := clara.KindOf(err); err != nil && (k == clara.NotFound || k == clara.State) {
				continue // deleted or being read anew meanwhile
			}
			if err != nil {
				return nil, nil, err
			}
			x := dataset.Document{FilePath: d.File, Filename: path.Base(d.File), Content: md.Markdown, ProductArea: area(d.File)}
			language := Language(x.Content)
			for _, ref := range ImageRefs(x) {
				// A document's text decides on the marks in it: only pictures of that very file are read.
				if seen[ref] || !strings.HasPrefix(ref, "images/"+d.ContentHash+"/") || path.Clean(ref) != ref {
					continue
				}
				seen[ref] = true
				pictures = append(pictures, Picture{Path: ref, Language: language, Load: func(ctx context.Context) ([]byte, error) {
					return s.app.Files.ReadAll(ctx, ref, picture.MaxBytes)
				}})
			}
			docs = append(docs, x)
			run.Progress(int64(len(docs)), 0, "documents", "reading documents")
		}
		if token = list.NextPageToken; token == "" {
			return docs, pictures, nil
		}
	}
}

// area is the name of the folder that a file lies in.
func area(file string) string {
	if dir := path.Dir(file); dir != "." && dir != "/" {
		return path.Base(dir)
	}
	return ""
}

// upload stores the files under their content.
func (s *Service) upload(ctx context.Context, name, dir string, card *Card) ([]*synthesisv1.DatasetFile, error) {
	var out []*synthesisv1.DatasetFile
	samples := map[string]int{}
	for _, f := range card.Files {
		samples[f.Name] = f.Samples
	}
	for _, file := range []string{build.PretrainFile, build.InstructionFile, build.EndToEndFile, build.TrainingFile, build.CardFile, build.CardText} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "store %s: %w", file, err)
		}
		key, hash, size, err := s.app.Files.PutContent(ctx, server.Prefix(name)+"files", f, 0)
		f.Close()
		if err != nil {
			return nil, err
		}
		out = append(out, &synthesisv1.DatasetFile{File: file, Samples: int64(samples[file]), SizeBytes: size, Sha256: hash, Blob: key})
	}
	return out, nil
}

// removeOld deletes the files of builds before the last. What fails goes with the next build.
func (s *Service) removeOld(ctx context.Context, name string, files []*synthesisv1.DatasetFile) {
	keep := map[string]bool{}
	for _, f := range files {
		keep[f.Blob] = true
	}
	for e, err := range s.app.Files.List(ctx, server.Prefix(name)+"files/") {
		if err == nil && !keep[e.Key] {
			err = s.app.Files.Delete(ctx, e.Key)
		}
		if err != nil {
			s.app.Log.WarnContext(ctx, "remove old files of data set", "dataset", name, "err", err)
			return
		}
	}
}

// DescribedDocuments are the lines of raw_knowledge.jsonl of pictures that have a description.
func DescribedDocuments(described []Description, pictures []Picture) []dataset.Document {
	var out []dataset.Document
	for i, d := range described {
		if d.Text == "" || i >= len(pictures) {
			continue
		}
		name := path.Base(filepath.ToSlash(d.Path))
		out = append(out, dataset.Document{
			FilePath: d.Path, Filename: name, Content: "[IMAGE DESCRIPTION of " + name + "]\n" + d.Text, ProductArea: area(filepath.ToSlash(d.Path)), SourceType: dataset.SourceImage,
		})
	}
	return out
}

func convertRecipe(r *synthesisv1.Recipe) Recipe {
	return Recipe{
		ChunkChars: int(r.GetChunkChars()), TopK: int(r.GetTopK()), Seed: r.GetSeed(), MultiHop: int(r.GetMultiHopPercent()),
		Unanswerable: int(r.GetUnanswerablePercent()), Judge: r.GetJudge(),
		Negatives: map[synthesisv1.Negatives]build.Negatives{
			synthesisv1.Negatives_NEGATIVES_RANDOM: Random, synthesisv1.Negatives_NEGATIVES_BM25: BM25, synthesisv1.Negatives_NEGATIVES_EMBEDDING: Embedding,
		}[r.GetNegatives()],
	}
}

func statistics(c *Card) *synthesisv1.Statistics {
	out := &synthesisv1.Statistics{
		Documents: int64(c.Documents), Chunks: int64(c.Chunks.Total), FailedChunks: int64(c.Chunks.Failed), Pairs: int64(c.PairCount()),
		Images: int64(c.Pictures.Described + c.Pictures.Read), Refused: map[string]int64{}, Requests: c.Usage.Requests,
		PromptTokens: c.Usage.PromptTokens, CompletionTokens: c.Usage.CompletionTokens, Cost: c.Usage.Cost, PromptVersion: c.PromptVersion,
	}
	for r, n := range c.Refused {
		out.Refused[string(r)] = int64(n)
	}
	return out
}

// models is the server's view of the endpoints.
type models struct{ s *Service }

func (m models) Endpoints() []*synthesisv1.ListEndpointsResponse_Endpoint {
	var out []*synthesisv1.ListEndpointsResponse_Endpoint
	for _, e := range m.s.endpoints.List() {
		out = append(out, &synthesisv1.ListEndpointsResponse_Endpoint{Name: e.Name, BaseUrl: e.URL, Model: e.Model, VisionModel: e.VisionModel, EmbeddingModel: e.EmbeddingModel})
	}
	return out
}

func (m models) CheckRecipe(r *synthesisv1.Recipe) error {
	e, err := m.s.endpoints.Get(r.GetEndpoint())
	if err != nil {
		return err
	}
	if r.GetModel() == "" && e.Model == "" {
		return clara.Errorf(clara.State, "endpoint %s: no model is named: set MODEL, or name one in the recipe", e.Name)
	}
	if r.GetBudget() < 0 {
		return clara.Errorf(clara.Invalid, "budget %g: must not be negative", r.GetBudget())
	}
	if n := r.GetNegatives(); synthesisv1.Negatives_name[int32(n)] == "" {
		return clara.Errorf(clara.Invalid, "negatives %d: no such way", n)
	}
	return convertRecipe(r).Check()
}

const (
	// maxImages and maxTexts bound what one call may ask for.
	maxImages = 64
	maxTexts  = 256
)

func (m models) Describe(ctx context.Context, r *synthesisv1.DescribeImagesRequest) ([]*synthesisv1.DescribeImagesResponse_Description, error) {
	if len(r.Images) == 0 || len(r.Images) > maxImages {
		return nil, clara.Errorf(clara.Invalid, "%d pictures: a call takes 1 to %d", len(r.Images), maxImages)
	}
	list := make([]Picture, len(r.Images))
	for i, img := range r.Images {
		list[i] = Picture{Path: img.File, Language: r.Language, Load: func(context.Context) ([]byte, error) { return img.Data, nil }}
	}
	got, err := (&Models{m.s.endpoints}).Describe(ctx, Use{Endpoint: r.Endpoint, VisionModel: r.VisionModel}, &memory{}, list, nil)
	if err != nil {
		return nil, err
	}
	var out []*synthesisv1.DescribeImagesResponse_Description
	for _, d := range got {
		x := &synthesisv1.DescribeImagesResponse_Description{File: d.Path, Text: d.Text, Error: d.Skipped}
		if d.Err != nil {
			x.Error = d.Err.Error()
		}
		out = append(out, x)
	}
	return out, nil
}

func (m models) Synthesize(ctx context.Context, r *synthesisv1.SynthesizeRequest) ([]*synthesisv1.SynthesizeResponse_Result, error) {
	if len(r.Texts) == 0 || len(r.Texts) > maxTexts {
		return nil, clara.Errorf(clara.Invalid, "%d texts: a call takes 1 to %d", len(r.Texts), maxTexts)
	}
	e, err := m.s.endpoints.Get(r.GetRecipe().GetEndpoint())
	if err != nil {
		return nil, err
	}
	model := r.GetRecipe().GetModel()
	if model == "" {
		model = e.Model
	}
	written, err := build.Write(ctx, build.Options{
		Chat: e.Chat, Model: model, Concurrency: e.Concurrency, Recipe: convertRecipe(r.Recipe), Store: &memory{}, Meter: llm.NewMeter(r.GetRecipe().GetBudget(), llm.Usage{}),
	}, r.Texts)
	if err != nil {
		return nil, err
	}
	var out []*synthesisv1.SynthesizeResponse_Result
	for _, w := range written {
		x := &synthesisv1.SynthesizeResponse_Result{DenseSummary: w.Summary, Refused: map[string]int64{}}
		for _, p := range w.Pairs {
			x.Pairs = append(x.Pairs, &synthesisv1.SynthesizeResponse_Pair{Question: p.Question, Answer: p.Answer, Type: p.Type})
		}
		for reason, n := range w.Refused {
			x.Refused[string(reason)] = int64(n)
		}
		if w.Err != nil {
			x.Error = w.Err.Error()
		}
		out = append(out, x)
	}
	return out, nil
}

// memory is a store for the length of a call.
type memory struct{ m sync.Map }

func (s *memory) Get(_ context.Context, key string) ([]byte, bool, error) {
	v, ok := s.m.Load(key)
	if !ok {
		return nil, false, nil
	}
	return v.(json.RawMessage), true, nil
}

func (s *memory) Put(_ context.Context, key string, value []byte) error {
	s.m.Store(key, json.RawMessage(value))
	return nil
}

func (s *memory) Keep(context.Context, func(string) bool) error { return nil }

var _ results.Store = (*memory)(nil)
