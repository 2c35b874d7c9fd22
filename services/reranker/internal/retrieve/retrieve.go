// Package retrieve finds the passages of a collection that answer a question,
// and orders given passages by one.
//
// What a search finds is shown only if its document's record is there at that
// moment: a deleted document never answers, whatever the index still holds.
package retrieve

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/topk"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

const (
	// MaxK is the most passages that a request may ask for.
	MaxK = 1000
	// DefaultK is asked for where neither request nor model says how many.
	DefaultK = 5
	// depth bounds how many candidates a search goes through to fill k places.
	depth = 16 * MaxK
	// encodeAtOnce is how many questions of a batch go to the engine in one call.
	encodeAtOnce = 64
)

// Finder searches. Safe for concurrent use.
type Finder struct {
	Log        *slog.Logger
	Index      *index.Client
	Models     models.Models
	Packages   *modelstore.Store
	Ingest     ingestv1connect.IngestServiceClient
	Compressor compressorv1connect.CompressorServiceClient

	mu   sync.Mutex
	open map[string]*index.Index // by physical name: what it holds changes, its shape does not
}

// Retrieve returns the best passages of a collection for a question. It fails with Invalid for an empty question or
// an impossible k, NotFound for an unknown collection, State for memories that the model does not make.
func (f *Finder) Retrieve(ctx context.Context, r *rerankerv1.RetrieveRequest) (*rerankerv1.RetrieveResponse, error) {
	begin := time.Now()
	if strings.TrimSpace(r.Question) == "" {
		return nil, clara.Errorf(clara.Invalid, "the question is empty")
	}
	if r.TopK < 0 || r.TopK > MaxK {
		return nil, clara.Errorf(clara.Invalid, "top_k %d: want 1 to %d, or 0 for the model's own", r.TopK, MaxK)
	}
	c, err := f.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: r.Collection})
	if err != nil {
		return nil, err
	}
	mode, err := chooseMode(c, r.Mode)
	if err != nil {
		return nil, err
	}
	k := int(r.TopK)
	if k == 0 {
		if k, err = f.defaultK(ctx, c.Model); err != nil {
			return nil, err
		}
	}
	out := &rerankerv1.RetrieveResponse{Index: c.Index, Model: c.Model, Mode: mode, Memory: c.Memory}
	s := search{finder: f, collection: strings.TrimPrefix(c.Name, "collections/"), question: r.Question, mode: mode}
	if s.index, err = f.openIndex(ctx, c.Index); err != nil {
		return nil, err
	}
	if s.index != nil && mode != rerankerv1.Mode_MODE_LEXICAL {
		lease, err := f.Models.Acquire(ctx, c.Model)
		if err != nil {
			return nil, err
		}
		defer lease.Release()
		q, err := lease.EncodeQueries(ctx, []string{r.Question})
		if err != nil {
			return nil, fmt.Errorf("encode question: %w", err)
		}
		s.query = q[0]
	}
	var found []clara.Candidate
	if s.index != nil {
		found, err = s.live(ctx, k)
		if clara.KindOf(err) == clara.NotFound {
			f.forget(c.Index) // dropped meanwhile
			s.index, found, err = nil, nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		if out.Empty, err = s.empty(ctx); err != nil {
			return nil, err
		}
	}
	for _, x := range found {
		out.Candidates = append(out.Candidates, candidate(x))
	}
	out.Seconds = time.Since(begin).Seconds()
	return out, nil
}

// chooseMode settles how a collection is searched.
func chooseMode(c *ingestv1.Collection, asked rerankerv1.Mode) (rerankerv1.Mode, error) {
	switch asked {
	case rerankerv1.Mode_MODE_UNSPECIFIED:
		if c.Memory {
			return rerankerv1.Mode_MODE_MEMORY, nil
		}
		return rerankerv1.Mode_MODE_LEXICAL, nil
	case rerankerv1.Mode_MODE_LEXICAL:
		return asked, nil
	case rerankerv1.Mode_MODE_MEMORY, rerankerv1.Mode_MODE_HYBRID:
		if c.Memory {
			return asked, nil
		}
		why := "has no model"
		if c.Model != "" {
			why = "uses " + c.Model + ", which has no adapters"
		}
		return 0, clara.Errorf(clara.State, "%s %s, so it can't be searched by memory: search it by words (lexical), or import a CLaRa checkpoint (clara models import --checkpoint) and activate it", c.Name, why)
	}
	return 0, clara.Errorf(clara.Invalid, "retrieval mode %d is none that there is", asked)
}

func (f *Finder) defaultK(ctx context.Context, model string) (int, error) {
	if model == "" {
		return DefaultK, nil
	}
	m, err := f.Packages.Manifest(ctx, strings.TrimPrefix(model, "models/"))
	if clara.KindOf(err) == clara.NotFound {
		return DefaultK, nil // words can be searched without it
	}
	if err != nil {
		return 0, err
	}
	if m.GenerationTopK <= 0 {
		return DefaultK, nil
	}
	return min(m.GenerationTopK, MaxK), nil
}

// openIndex returns a physical index, nil if there is none yet.
func (f *Finder) openIndex(ctx context.Context, name string) (*index.Index, error) {
	if name == "" {
		return nil, nil
	}
	f.mu.Lock()
	known := f.open[name]
	f.mu.Unlock()
	if known != nil {
		return known, nil
	}
	x, err := f.Index.Index(ctx, name)
	if clara.KindOf(err) == clara.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[string]*index.Index{}
	}
	f.open[name] = x
	return x, nil
}

func (f *Finder) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, name)
}

// search is one question to one index.
type search struct {
	finder     *Finder
	index      *index.Index // nil: nothing was indexed yet
	collection string
	question   string
	query      clara.Memory
	mode       rerankerv1.Mode
	dead       []string // documents that are not to be found
}

func (s *search) find(ctx context.Context, k int) ([]clara.Candidate, error) {
	filter := index.Filter{Collection: s.collection, ExcludeDocuments: s.dead}
	switch s.mode {
	case rerankerv1.Mode_MODE_MEMORY:
		return s.index.SearchMemory(ctx, s.query, k, filter)
	case rerankerv1.Mode_MODE_HYBRID:
		return s.index.SearchHybrid(ctx, s.query, s.question, k, filter)
	}
	return s.index.SearchText(ctx, s.question, k, filter)
}

// live returns the best k passages of documents that are there: whatever else the index brings up is left out, and
// its place filled by the next best.
func (s *search) live(ctx context.Context, k int) ([]clara.Candidate, error) {
	for n := k; ; n = min(2*n, depth) {
		found, err := s.find(ctx, n)
		if err != nil {
			return nil, err
		}
		kept, err := s.keep(ctx, found)
		if err != nil {
			return nil, err
		}
		if len(kept) >= k || len(found) < n || n == depth {
			return kept[:min(k, len(kept))], nil
		}
	}
}

// keep leaves out passages of documents that are gone, and those that a newer revision among the rest replaces.
func (s *search) keep(ctx context.Context, found []clara.Candidate) ([]clara.Candidate, error) {
	// A document that is being written anew may be found in two revisions; the record can't tell, for it has moved on
	// since the search.
	newest := map[string]int64{}
	var names []string
	for _, x := range found {
		revision, known := newest[x.Passage.Document]
		if !known {
			names = append(names, s.name(x.Passage.Document))
		}
		newest[x.Passage.Document] = max(revision, x.Revision)
	}
	records := map[string]*ingestv1.Document{}
	for some := range slices.Chunk(names, MaxK) {
		reply, err := s.finder.Ingest.BatchGetDocuments(ctx, &ingestv1.BatchGetDocumentsRequest{Names: some})
		if err != nil {
			return nil, err
		}
		for _, d := range reply.Documents {
			records[d.Name] = d
		}
	}
	for document := range newest {
		d := records[s.name(document)]
		if d == nil || d.State == ingestv1.Document_STATE_DELETED {
			s.dead = append(s.dead, document)
			records[s.name(document)] = nil
		}
	}
	return slices.DeleteFunc(slices.Clone(found), func(x clara.Candidate) bool {
		return records[s.name(x.Passage.Document)] == nil || x.Revision < newest[x.Passage.Document]
	}), nil
}

// empty reports whether there is nothing that any question could find.
func (s *search) empty(ctx context.Context) (bool, error) {
	if s.index == nil {
		return true, nil
	}
	n, err := s.index.Count(ctx, index.Filter{Collection: s.collection, ExcludeDocuments: s.dead})
	if clara.KindOf(err) == clara.NotFound {
		return true, nil
	}
	return n == 0, err
}

func (s *search) name(document string) string {
	return "collections/" + s.collection + "/documents/" + document
}

func candidate(x clara.Candidate) *rerankerv1.Candidate {
	p := x.Passage
	return &rerankerv1.Candidate{
		Id: x.PointID, Document: "collections/" + p.Collection + "/documents/" + p.Document, File: p.File, Ordinal: int32(p.Ordinal),
		Headings: p.Headings, PageFirst: int32(p.PageFirst), PageLast: int32(p.PageLast), Text: p.Text, Score: x.Score,
	}
}

// Rerank orders given passages by question: cosine in float32 between the question's memory and each passage's
// (spec clara-model §5). State for a model without adapters.
func (f *Finder) Rerank(ctx context.Context, r *rerankerv1.RerankRequest) (*rerankerv1.RerankResponse, error) {
	if r.TopK < 0 {
		return nil, clara.Errorf(clara.Invalid, "top_k %d is negative", r.TopK)
	}
	questions, passages := make([]string, len(r.Queries)), []string(nil)
	for i, q := range r.Queries {
		if strings.TrimSpace(q.Question) == "" {
			return nil, clara.Errorf(clara.Invalid, "query %d: the question is empty", i)
		}
		questions[i] = q.Question
		passages = append(passages, q.Passages...)
	}
	lease, err := f.Models.Acquire(ctx, r.Model)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	m := lease.Manifest()
	if !m.HasAdapters() {
		return nil, clara.Errorf(clara.State, "model %s has no adapters, so it can't compare passages with questions: import it with a CLaRa checkpoint (clara models import --checkpoint)", lease.Name)
	}
	var queries []clara.Memory
	for some := range slices.Chunk(questions, encodeAtOnce) {
		memories, err := lease.EncodeQueries(ctx, some)
		if err != nil {
			return nil, err
		}
		queries = append(queries, memories...)
	}
	memories, err := models.Compress(ctx, f.Compressor, lease.Name, passages, 4*m.M*m.H)
	if err != nil {
		return nil, err
	}
	out := &rerankerv1.RerankResponse{Model: lease.Name}
	for i, q := range r.Queries {
		n := len(q.Passages)
		ranking, err := rank(queries[i], memories[:n], int(r.TopK))
		if err != nil {
			return nil, err
		}
		memories = memories[n:]
		out.Rankings = append(out.Rankings, ranking)
	}
	return out, nil
}

// rank returns the k best of the passages, 0 is all.
func rank(query clara.Memory, passages []clara.Memory, k int) (*rerankerv1.RerankResponse_Ranking, error) {
	out := &rerankerv1.RerankResponse_Ranking{}
	if len(passages) == 0 {
		return out, nil
	}
	scores, err := models.Scores(query, passages)
	if err != nil {
		return nil, err
	}
	if k == 0 || k > len(passages) {
		k = len(passages)
	}
	best, err := topk.Select(scores, k)
	if err != nil {
		return nil, err
	}
	for _, i := range best {
		out.Indices = append(out.Indices, int32(i))
		out.Scores = append(out.Scores, scores[i])
	}
	return out, nil
}
