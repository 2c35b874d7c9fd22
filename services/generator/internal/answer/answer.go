// Package answer makes answers: it has passages found or compressed, writes the
// decoder's prompt and streams what the model says (spec clara-model §4, §6).
package answer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
)

const (
	// DefaultTokens is the length of an answer where the request gives none (spec clara-model §6).
	DefaultTokens = 128
	// defaultTexts is how many passages CONTEXT_MIXED gives as text too.
	defaultTexts = 2
	// textTokens is about how many tokens a passage has as text.
	textTokens = 256
)

// Answerer answers. Safe for concurrent use.
type Answerer struct {
	Log        *slog.Logger
	Models     models.Models
	Index      *index.Client
	Ingest     ingestv1connect.IngestServiceClient
	Reranker   rerankerv1connect.RerankerServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	// MaxItems bounds a batch.
	MaxItems int
	// Tokens and FirstToken are what the metrics show.
	Tokens     metric.Int64Counter
	FirstToken metric.Float64Histogram

	forms forms

	mu   sync.Mutex
	open map[string]*index.Index // by physical name
}

// Part is where an answer's parts go as they come.
type Part func(*generatorv1.AnswerResponse) error

// Answer answers a question from a collection: what was found first, then the answer in pieces, then timings.
// Kinds: Invalid (empty or too long a question), NotFound, State (an empty collection, memories asked of a model
// without adapters), Busy, Unavailable.
func (a *Answerer) Answer(ctx context.Context, r *generatorv1.AnswerRequest, send Part) error {
	begin := time.Now()
	if err := checkAsked(r); err != nil {
		return err
	}
	if r.TextPassages < 0 {
		return clara.Errorf(clara.Invalid, "text_passages %d is negative", r.TextPassages)
	}
	if _, ok := generatorv1.Context_name[int32(r.Context)]; !ok {
		return clara.Errorf(clara.Invalid, "context %d is none that there is", r.Context)
	}
	if r.Context == generatorv1.Context_CONTEXT_NONE {
		return a.alone(ctx, r, begin, send)
	}
	if r.Collection == "" {
		return clara.Errorf(clara.Invalid, "no collection named: give collections/NAME, or ask with context none")
	}
	form, err := a.forms.get(r.JsonSchema)
	if err != nil {
		return err
	}
	place, err := a.reserve(ctx, r)
	if err != nil {
		return err
	}
	defer place.Release()
	p, err := a.retrieve(ctx, r)
	if clara.KindOf(err) == clara.NotFound && p != nil {
		// A passage went between search and reading: what is there now is found by searching again.
		p.lease.Release()
		if p, err = a.retrieve(ctx, r); clara.KindOf(err) == clara.NotFound && p != nil {
			err = clara.Errorf(clara.Unavailable, "%w: the collection changes all the time; ask again", err)
		}
	}
	if p != nil {
		defer p.lease.Release()
	}
	if err != nil {
		return err
	}
	if err := send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Retrieved{Retrieved: p.retrieved}}); err != nil {
		return err
	}
	p.request.Output = form
	p.request.Place = place
	return a.stream(ctx, p.lease, p.request, begin, time.Since(begin), send)
}

// reserve asks the collection's model for a place before passages are searched for: who is refused is refused at once, and
// has cost next to nothing. Busy is its only error: what else is wrong the search tells. Patient questions wait and need none.
func (a *Answerer) reserve(ctx context.Context, r *generatorv1.AnswerRequest) (*infer.Place, error) {
	if r.Patient {
		return nil, nil
	}
	c, err := a.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: r.Collection})
	if err != nil {
		return nil, nil
	}
	lease, err := a.Models.Acquire(ctx, c.Model)
	if err != nil {
		return nil, nil
	}
	defer lease.Release()
	m, k := lease.Manifest(), int(r.TopK)
	if k == 0 {
		k = max(m.GenerationTopK, 1)
	}
	each := m.M + 1
	if !m.HasAdapters() || r.Context == generatorv1.Context_CONTEXT_TEXT {
		each = textTokens
	}
	place, err := lease.Reserve(min(k*each, lease.Options().Context), tokens(r.MaxTokens))
	if clara.KindOf(err) != clara.Busy {
		err = nil
	}
	return place, err
}

// plan is a question with what is to be read for it.
type plan struct {
	lease     models.Lease
	retrieved *generatorv1.Retrieved
	request   infer.Request
}

// retrieve finds passages and writes the prompt. A plan that comes with an error is to be released too.
func (a *Answerer) retrieve(ctx context.Context, r *generatorv1.AnswerRequest) (*plan, error) {
	found, err := a.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: r.Collection, Question: r.Question, TopK: r.TopK, Mode: r.Retrieve})
	if err != nil {
		return nil, err
	}
	if len(found.Candidates) == 0 {
		if found.Empty {
			return nil, clara.Errorf(clara.State, "%s has no searchable passages yet: ingest some (clara ingest), wait until they are indexed (clara jobs), or ask with context none", r.Collection)
		}
		return nil, clara.Errorf(clara.State, "no passage of %s matches the question: ask in other words, find passages in another way (retrieve), or ask with context none", r.Collection)
	}
	kind, note, err := choose(r, found)
	if err != nil {
		return nil, err
	}
	lease, err := a.Models.Acquire(ctx, found.Model)
	if err != nil {
		return nil, err
	}
	p := &plan{lease: lease}
	in := input{question: r.Question, kind: kind, texts: int(r.TextPassages)}
	for _, c := range found.Candidates {
		in.passages = append(in.passages, c.Text)
	}
	if kind == generatorv1.Context_CONTEXT_MEMORY || kind == generatorv1.Context_CONTEXT_MIXED {
		ids := make([]string, len(found.Candidates))
		for i, c := range found.Candidates {
			ids[i] = c.Id
		}
		if in.memories, err = a.memories(ctx, found.Index, ids); err != nil {
			return p, err
		}
	}
	max := tokens(r.MaxTokens)
	written, kept, err := write(lease, in, max)
	if err != nil {
		// NotFound would mean that passages have gone.
		p.lease.Release()
		return nil, err
	}
	if kept < len(found.Candidates) {
		note = join(note, fmt.Sprintf("%d of %d passages fit in the context of %d tokens", kept, len(found.Candidates), lease.Options().Context))
	}
	p.retrieved = &generatorv1.Retrieved{Candidates: found.Candidates[:kept], Context: kind, Mode: found.Mode, Model: lease.Name, Note: note}
	p.request = infer.Request{Prompt: written, Adapter: in.adapter(), Sampling: sampling(r.Sampling), Stop: r.Sampling.GetStop(), MaxTokens: max, Patient: r.Patient}
	return p, nil
}

// choose settles what the model reads of the passages, and says why if that is not memories.
func choose(r *generatorv1.AnswerRequest, found *rerankerv1.RetrieveResponse) (generatorv1.Context, string, error) {
	model := strings.TrimPrefix(found.Model, "models/")
	switch {
	case found.Memory && r.Context == generatorv1.Context_CONTEXT_UNSPECIFIED:
		return generatorv1.Context_CONTEXT_MEMORY, "", nil
	case found.Memory || r.Context == generatorv1.Context_CONTEXT_TEXT:
		return r.Context, "", nil
	case r.Context != generatorv1.Context_CONTEXT_UNSPECIFIED:
		why := "has no model of its own yet"
		if model != "" {
			why = "uses model " + model + ", which has no adapters"
		}
		return 0, "", clara.Errorf(clara.State, "%s %s, so there are no memories to read: ask with context text, or import a CLaRa checkpoint (clara models import --checkpoint) and activate it", r.Collection, why)
	}
	how := "found by words"
	if r.Retrieve != rerankerv1.Mode_MODE_UNSPECIFIED && r.Retrieve != rerankerv1.Mode_MODE_LEXICAL {
		how = "found as asked"
	}
	if model == "" {
		return generatorv1.Context_CONTEXT_TEXT, "the collection was ingested without a model: passages are read as text, " + how, nil
	}
	return generatorv1.Context_CONTEXT_TEXT, "model " + model + " has no adapters: passages are read as text, " + how, nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// alone answers from the question, or goes on with the conversation, alone.
func (a *Answerer) alone(ctx context.Context, r *generatorv1.AnswerRequest, begin time.Time, send Part) error {
	form, err := a.forms.get(r.JsonSchema)
	if err != nil {
		return err
	}
	model := r.Model
	if model == "" && r.Collection != "" {
		c, err := a.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: r.Collection})
		if err != nil {
			return err
		}
		model = c.Model
	}
	lease, err := a.Models.Acquire(ctx, model)
	if err != nil {
		return err
	}
	defer lease.Release()
	max := tokens(r.MaxTokens)
	var p infer.Prompt
	if len(r.Messages) > 0 {
		p, err = conversation(lease, r.Messages)
	} else {
		p, _, err = write(lease, input{question: r.Question, kind: generatorv1.Context_CONTEXT_NONE}, max)
	}
	if err != nil {
		return err
	}
	retrieved := &generatorv1.Retrieved{Context: generatorv1.Context_CONTEXT_NONE, Model: lease.Name}
	if err := send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Retrieved{Retrieved: retrieved}}); err != nil {
		return err
	}
	return a.stream(ctx, lease, infer.Request{
		Prompt: p, Sampling: sampling(r.Sampling), Stop: r.Sampling.GetStop(), MaxTokens: max, Patient: r.Patient, Output: form,
	}, begin, 0, send)
}

// conversation writes the prompt of a conversation, as text that no token of the model's own can hide in.
func conversation(lease models.Lease, messages []*generatorv1.Message) (infer.Prompt, error) {
	list := make([]prompt.Message, len(messages))
	for i, m := range messages {
		list[i] = prompt.Message{Role: m.Role, Content: []prompt.Part{prompt.Plain(m.Text)}}
	}
	e, err := lease.Prompts().Chat(list, 0)
	if err != nil {
		return infer.Prompt{}, err
	}
	if C := lease.Options().Context; len(e.IDs) >= C {
		return infer.Prompt{}, clara.Errorf(clara.Invalid, "the conversation has %d tokens; the context of %s holds %d with the answer", len(e.IDs), lease.Name, C)
	}
	return infer.Prompt{IDs: e.IDs}, nil
}

// stream generates, sending pieces as they come, and the end.
func (a *Answerer) stream(ctx context.Context, lease models.Lease, r infer.Request, begin time.Time, retrieve time.Duration, send Part) error {
	out, err := a.generate(ctx, lease, r, begin, func(text string) error {
		return send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Piece{Piece: &generatorv1.Piece{Text: text}}})
	})
	if err != nil {
		return err
	}
	out.Timings.RetrieveSeconds = retrieve.Seconds()
	return send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Done{Done: &generatorv1.Done{
		Answer: out.Text, FinishReason: out.FinishReason, Timings: out.Timings,
	}}})
}

// generate runs one request. piece, if given, gets the text as it comes.
func (a *Answerer) generate(ctx context.Context, lease models.Lease, r infer.Request, begin time.Time, piece func(string) error) (*generatorv1.Output, error) {
	var text strings.Builder
	var ids []int32
	var first time.Duration
	stats, err := lease.Generate(ctx, r, func(t infer.Token) error {
		if first == 0 {
			first = time.Since(begin)
		}
		if t.ID >= 0 {
			ids = append(ids, t.ID)
		}
		text.WriteString(t.Text)
		if piece == nil || t.Text == "" {
			return nil
		}
		return piece(t.Text)
	})
	a.Tokens.Add(ctx, int64(stats.Tokens))
	if err != nil {
		return nil, err
	}
	a.FirstToken.Record(ctx, first.Seconds())
	whole := text.String()
	if len(r.Stop) == 0 {
		// What was streamed was decoded before its end was known: bytes that never became a rune spoil their
		// neighbours only in the whole text, as the reference decodes it.
		whole = lease.Tokenizer().Decode(ids, true)
	}
	return &generatorv1.Output{Text: whole, FinishReason: string(stats.Finish), Timings: &generatorv1.Timings{
		QueueSeconds: stats.Queue.Seconds(), PrefillSeconds: stats.Prefill.Seconds(), DecodeSeconds: stats.Decode.Seconds(),
		PromptTokens: int32(stats.PromptTokens), OutputTokens: int32(stats.Tokens), TokensPerSecond: stats.TokensPerSecond(),
		FirstTokenSeconds: first.Seconds(),
	}}, nil
}

// memories reads memories from an index by id. NotFound if one has gone.
func (a *Answerer) memories(ctx context.Context, name string, ids []string) ([]clara.Memory, error) {
	x, err := a.index(ctx, name)
	if err != nil {
		return nil, err
	}
	memories, err := x.Memories(ctx, ids)
	if clara.KindOf(err) == clara.NotFound {
		a.forget(name)
	}
	return memories, err
}

func (a *Answerer) index(ctx context.Context, name string) (*index.Index, error) {
	a.mu.Lock()
	known := a.open[name]
	a.mu.Unlock()
	if known != nil {
		return known, nil
	}
	x, err := a.Index.Index(ctx, name)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[string]*index.Index{}
	}
	a.open[name] = x
	return x, nil
}

func (a *Answerer) forget(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, name)
}

// checkAsked refuses a request that asks nothing, or two things, before anything is done for it.
func checkAsked(r *generatorv1.AnswerRequest) error {
	if err := checkSampling(r.Sampling); err != nil {
		return err
	}
	if len(r.Messages) == 0 {
		return check(r.Question, r.MaxTokens)
	}
	if r.Context != generatorv1.Context_CONTEXT_NONE || r.Question != "" {
		return clara.Errorf(clara.Invalid, "messages are a conversation with context none, in place of a question")
	}
	for i, m := range r.Messages {
		switch m.Role {
		case "system", "user", "assistant":
		default:
			return clara.Errorf(clara.Invalid, "message %d has role %q: want system, user or assistant", i, m.Role)
		}
	}
	return checkTokens(r.MaxTokens)
}

func check(question string, max int32) error {
	if strings.TrimSpace(question) == "" {
		return clara.Errorf(clara.Invalid, "the question is empty")
	}
	return checkTokens(max)
}

func checkTokens(max int32) error {
	if max < 0 {
		return clara.Errorf(clara.Invalid, "max_tokens %d is negative", max)
	}
	return nil
}

func tokens(max int32) int {
	if max == 0 {
		return DefaultTokens
	}
	return int(max)
}

func checkSampling(s *generatorv1.Sampling) error {
	if slices.Contains(s.GetStop(), "") {
		return clara.Errorf(clara.Invalid, "sampling.stop: an empty text stops every answer before it begins: leave it out")
	}
	return sampling(s).Check()
}

func sampling(s *generatorv1.Sampling) infer.Sampling {
	return infer.Sampling{Temperature: s.GetTemperature(), TopK: int(s.GetTopK()), TopP: s.GetTopP(), Seed: uint64(s.GetSeed())}
}
