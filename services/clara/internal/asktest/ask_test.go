// Package asktest tests compressor, reranker and generator together, from documents that are ready to answers, on
// tiny models and through every interface that they offer.
package asktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/servicetest"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
	"github.com/clara-suite/clara/services/compressor"
	"github.com/clara-suite/clara/services/generator"
	"github.com/clara-suite/clara/services/reranker"
)

// start runs the three services. There are models "tiny", with adapters and active, and "plain", without.
func start(t *testing.T, o infer.Options, cfg rpc.Config) *servicetest.Env {
	t.Helper()
	e := servicetest.New(t, o, cfg)
	e.Import("tiny", 4, 1)
	e.Import("plain", 0, 1)
	e.Registry.Activate("tiny")
	mount(t, e)
	return e
}

func mount(t testing.TB, e *servicetest.Env) {
	t.Helper()
	ctx := t.Context()
	c, err := compressor.New(ctx, compressor.Config{Documents: 4, Attempts: 2}, compressor.Deps{
		Log: e.Log, Conn: e.Conn, Files: e.Files, Index: e.Index, Host: e.Host, Packages: e.Packages, Ingest: e.Ingest, Registry: e.Models, Jobs: e.Jobs,
	})
	require.NoError(t, err)
	r, err := reranker.New(ctx, reranker.Config{MaxQueries: 100}, reranker.Deps{
		Log: e.Log, Index: e.Index, Host: e.Host, Packages: e.Packages, Ingest: e.Ingest, Compressor: e.Compressor, Registry: e.Models,
	})
	require.NoError(t, err)
	g, err := generator.New(ctx, generator.Config{MaxItems: 50}, generator.Deps{
		Log: e.Log, Index: e.Index, Host: e.Host, Ingest: e.Ingest, Compressor: e.Compressor, Reranker: e.Reranker, Registry: e.Models,
	})
	require.NoError(t, err)
	c.Mount(e.Server)
	r.Mount(e.Server)
	g.Mount(e.Server)
	e.Start(append(append(c.Units(), r.Units()...), g.Units()...)...)
}

// answered is an answer as its parts came.
type answered struct {
	retrieved *generatorv1.Retrieved
	pieces    string
	done      *generatorv1.Done
}

func ask(ctx context.Context, e *servicetest.Env, r *generatorv1.AnswerRequest) (a answered, err error) {
	stream, err := e.Generator.Answer(ctx, r)
	if err != nil {
		return a, err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		switch p := stream.Msg().Part.(type) {
		case *generatorv1.AnswerResponse_Retrieved:
			a.retrieved = p.Retrieved
		case *generatorv1.AnswerResponse_Piece:
			if a.retrieved == nil {
				return a, errors.New("a piece came before what was retrieved")
			}
			a.pieces += p.Piece.Text
		case *generatorv1.AnswerResponse_Done:
			a.done = p.Done
		}
	}
	return a, stream.Err()
}

const (
	memory  = generatorv1.Context_CONTEXT_MEMORY
	text    = generatorv1.Context_CONTEXT_TEXT
	mixed   = generatorv1.Context_CONTEXT_MIXED
	none    = generatorv1.Context_CONTEXT_NONE
	byWords = rerankerv1.Mode_MODE_LEXICAL
	byBoth  = rerankerv1.Mode_MODE_HYBRID
	byCos   = rerankerv1.Mode_MODE_MEMORY
)

func TestAnswer(t *testing.T) {
	e := start(t, infer.Options{Context: 400}, rpc.Config{})
	ctx := t.Context()
	e.Records.Collection("handbook", "tiny")
	e.Records.Collection("plain", "plain")
	e.Records.Collection("bare", "")
	for _, c := range []string{"handbook", "plain", "bare"} {
		e.Ready(c, "pumps", "the red pump is in hall two", "close valve A before B")
		e.Ready(c, "tea", "green tea is heated early", "绿茶要先加热")
		e.Ready(c, "many", servicetest.Texts("holiday rule", 20)...)
	}
	question := "where is the red pump"

	for _, x := range []struct {
		name, collection string
		context          generatorv1.Context
		retrieve         rerankerv1.Mode
		k                int32
		wantContext      generatorv1.Context
		wantMode         rerankerv1.Mode
		wantN            int
		note             string
	}{
		{"memory by default", "handbook", 0, 0, 0, memory, byCos, 2, ""},
		{"k of the request", "handbook", memory, 0, 5, memory, byCos, 5, ""},
		{"text by both", "handbook", text, byBoth, 3, text, byBoth, 3, ""},
		{"mixed by words", "handbook", mixed, byWords, 3, mixed, byWords, 1, ""},
		{"no adapters", "plain", 0, 0, 0, text, byWords, 1, "model plain has no adapters: passages are read as text, found by words"},
		{"no model at collection", "bare", 0, 0, 0, text, byWords, 1, "without a model"},
		{"none", "handbook", none, 0, 0, none, 0, 0, ""},
		{"more than fit", "handbook", text, byCos, 24, text, byCos, -1, "fit in the context of 400 tokens"},
		{"more memories than fit", "handbook", memory, byCos, 24, memory, byCos, -1, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, err := ask(ctx, e, &generatorv1.AnswerRequest{Collection: "collections/" + x.collection, Question: question, Context: x.context, Retrieve: x.retrieve, TopK: x.k, MaxTokens: 12})
			require.NoError(t, err)
			require.NotNil(t, a.retrieved)
			require.NotNil(t, a.done)
			assert.Equal(t, x.wantContext, a.retrieved.Context)
			assert.Equal(t, x.wantMode, a.retrieved.Mode)
			if x.wantN >= 0 {
				assert.Len(t, a.retrieved.Candidates, x.wantN)
			} else {
				assert.NotEmpty(t, a.retrieved.Candidates)
				assert.LessOrEqual(t, len(a.retrieved.Candidates), 24)
			}
			assert.Contains(t, a.retrieved.Note, x.note)
			assert.Equal(t, a.done.Answer, a.pieces)
			assert.Contains(t, []string{"stop", "length"}, a.done.FinishReason)
			assert.Positive(t, a.done.Timings.PromptTokens)
			assert.Positive(t, a.done.Timings.FirstTokenSeconds)
			if len(a.retrieved.Candidates) > 0 && x.wantMode == byWords {
				c := a.retrieved.Candidates[0]
				assert.Equal(t, "the red pump is in hall two", c.Text)
				assert.Equal(t, "collections/"+x.collection+"/documents/pumps", c.Document)
				assert.Equal(t, "pumps.md", c.File)
				assert.EqualValues(t, 1, c.PageFirst)
				assert.Equal(t, []string{"Heading"}, c.Headings)
			}
		})
	}

	for _, x := range []struct {
		name string
		r    *generatorv1.AnswerRequest
		kind clara.Kind
		text string
	}{
		{"empty question", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: " "}, clara.Invalid, "empty"},
		{"long question", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: strings.Repeat("long ", 200)}, clara.Invalid, "the context of models/tiny holds 400"},
		{"long question alone", &generatorv1.AnswerRequest{Context: none, Question: strings.Repeat("long ", 200)}, clara.Invalid, "holds 400"},
		{"no collection named", &generatorv1.AnswerRequest{Question: question}, clara.Invalid, "no collection named"},
		{"no such collection", &generatorv1.AnswerRequest{Collection: "collections/other", Question: question}, clara.NotFound, "other"},
		{"nothing matches", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: "xyzzy", Retrieve: byWords}, clara.State, "no passage of collections/handbook matches"},
		{"no adapters to search", &generatorv1.AnswerRequest{Collection: "collections/plain", Question: question, Retrieve: byCos}, clara.State, "models/plain, which has no adapters"},
		{"no adapters to read", &generatorv1.AnswerRequest{Collection: "collections/plain", Question: question, Context: mixed}, clara.State, "ask with context text"},
		{"negative k", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, TopK: -1}, clara.Invalid, "top_k -1"},
		{"huge k", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, TopK: 1001}, clara.Invalid, "1 to 1000"},
		{"negative tokens", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, MaxTokens: -1}, clara.Invalid, "max_tokens -1"},
		// Before anything is looked up: otherwise this would be NotFound.
		{"temperature", &generatorv1.AnswerRequest{Collection: "collections/nope", Question: question, Sampling: &generatorv1.Sampling{Temperature: -1}}, clara.Invalid, "temperature -1"},
		{"empty stop", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, Sampling: &generatorv1.Sampling{Stop: []string{"x", ""}}}, clara.Invalid, "sampling.stop"},
		{"impossible temperature", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, Sampling: &generatorv1.Sampling{Temperature: -1}}, clara.Invalid, "temperature"},
		{"unknown context", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, Context: 9}, clara.Invalid, "context 9"},
		{"unknown mode", &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: question, Retrieve: 9}, clara.Invalid, "mode 9"},
		{"unknown model", &generatorv1.AnswerRequest{Question: question, Context: none, Model: "models/other"}, clara.NotFound, "other"},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := ask(ctx, e, x.r)
			assert.Equal(t, x.kind, clara.KindOf(err), "%v", err)
			assert.ErrorContains(t, err, x.text)
		})
	}

	e.Records.Collection("empty", "tiny")
	_, err := ask(ctx, e, &generatorv1.AnswerRequest{Collection: "collections/empty", Question: question})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "no searchable passages yet")
	found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: "collections/empty", Question: question})
	require.NoError(t, err)
	assert.Empty(t, found.Candidates)
	assert.True(t, found.Empty)
}

// TestSameScores compares what a search finds with brute force over the same passages.
func TestSameScores(t *testing.T) {
	e := start(t, infer.Options{Context: 256}, rpc.Config{})
	ctx := t.Context()
	e.Records.Collection("scores", "tiny")
	texts := servicetest.Texts("a passage that is", 60)
	e.Ready("scores", "d", texts...)
	for _, question := range []string{"which passage", "number 7?", strings.Repeat("far longer than the model takes ", 4)} {
		found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: "collections/scores", Question: question, TopK: 100})
		require.NoError(t, err)
		ranked, err := e.Reranker.Rerank(ctx, &rerankerv1.RerankRequest{Queries: []*rerankerv1.RerankRequest_Query{{Question: question, Passages: texts}, {Question: question, Passages: texts[:3]}}})
		require.NoError(t, err)
		require.Len(t, found.Candidates, len(texts))
		exact := map[string]float64{}
		for i, n := range ranked.Rankings[0].Indices {
			exact[texts[n]] = ranked.Rankings[0].Scores[i]
		}
		last := 2.0
		for _, c := range found.Candidates {
			assert.InDelta(t, exact[c.Text], c.Score, 1e-3)
			assert.LessOrEqual(t, c.Score, last)
			last = c.Score
		}
		assert.Len(t, ranked.Rankings[1].Indices, 3)
	}
	_, err := e.Reranker.Rerank(ctx, &rerankerv1.RerankRequest{Model: "models/plain", Queries: []*rerankerv1.RerankRequest_Query{{Question: "q", Passages: texts}}})
	assert.Equal(t, clara.State, clara.KindOf(err))
}

// TestDeletedNeverAnswers takes records away while points stay, and searches right after.
func TestDeletedNeverAnswers(t *testing.T) {
	e := start(t, infer.Options{Context: 256}, rpc.Config{})
	ctx := t.Context()
	c := e.Records.Collection("gone", "tiny")
	for n := range 8 {
		e.Ready("gone", fmt.Sprint("d", n), servicetest.Texts(fmt.Sprint("rule of document ", n), 4)...)
	}
	for n := range 8 {
		for _, mode := range []rerankerv1.Mode{byCos, byWords, byBoth} {
			found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "rule of document", TopK: 6, Mode: mode})
			require.NoError(t, err)
			assert.Len(t, found.Candidates, min(6, 4*(8-n)), "others take the places of what is gone")
			for _, x := range found.Candidates {
				for gone := range n {
					assert.NotContains(t, x.Document, fmt.Sprint("/d", gone))
				}
			}
		}
		e.Records.Delete("gone", fmt.Sprint("d", n)) // the record only: the points are still there
	}
	found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "rule of document"})
	require.NoError(t, err)
	assert.Empty(t, found.Candidates)
	assert.True(t, found.Empty)
	e.Records.Drop("gone")
	_, err = e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "rule of document"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

// TestRevisions shows the newer of two revisions while both are in the index.
func TestRevisions(t *testing.T) {
	e := start(t, infer.Options{Context: 256}, rpc.Config{})
	ctx := t.Context()
	c := e.Records.Collection("rev", "tiny")
	d := e.Ready("rev", "d", "the old rule on holidays", "the rule on travel")
	x, err := e.Index.Index(ctx, c.Index)
	require.NoError(t, err)
	reply, err := e.Compressor.Compress(ctx, &compressorv1.CompressRequest{Texts: []string{"the new rule on holidays"}})
	require.NoError(t, err)
	m, err := toMemory(reply.Memories[0])
	require.NoError(t, err)
	require.NoError(t, x.Upsert(ctx, []index.Point{{Revision: d.Revision + 1, Set: "next", Memory: m, Passage: clara.Passage{Collection: "rev", Document: "d", Text: "the new rule on holidays", Hash: "x"}}}))
	e.Records.Change("rev", "d", func(d *ingestv1.Document) { d.State = ingestv1.Document_STATE_INDEXING; d.Revision++ })
	found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "rule on holidays", TopK: 5, Mode: byBoth})
	require.NoError(t, err)
	require.Len(t, found.Candidates, 1)
	assert.Equal(t, "the new rule on holidays", found.Candidates[0].Text)
}

func TestBatches(t *testing.T) {
	e := start(t, infer.Options{Context: 400}, rpc.Config{})
	ctx := t.Context()
	c := e.Records.Collection("batch", "tiny")
	texts := servicetest.Texts("rule", 3)
	e.Ready("batch", "d", texts...)
	found, err := e.Reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "rule", TopK: 3, Mode: byWords})
	require.NoError(t, err)
	require.Len(t, found.Candidates, 3)
	ids := make([]string, 3)
	for _, x := range found.Candidates {
		ids[x.Ordinal] = x.Id
	}
	compressed, err := e.Compressor.Compress(ctx, &compressorv1.CompressRequest{Texts: texts})
	require.NoError(t, err)

	// Passages, their memories, and their points give the same answer.
	request := &generatorv1.GenerateRequest{MaxTokens: 10, Index: found.Index, Items: []*generatorv1.GenerateRequest_Item{
		{Question: "which?", Passages: texts}, {Question: "which?", Memories: compressed.Memories}, {Question: "which?", Points: ids},
	}}
	all, err := e.Generator.Generate(ctx, request)
	require.NoError(t, err)
	require.Len(t, all.Outputs, 3)
	assert.Equal(t, all.Outputs[0].Text, all.Outputs[1].Text)
	assert.Equal(t, all.Outputs[0].Timings.PromptTokens, all.Outputs[2].Timings.PromptTokens)
	for _, kind := range []generatorv1.Context{text, mixed, none} {
		request := &generatorv1.GenerateRequest{MaxTokens: 10, Index: found.Index, Context: kind, Items: []*generatorv1.GenerateRequest_Item{{Question: "which?", Passages: texts}, {Question: "which?", Points: ids}}}
		some, err := e.Generator.Generate(ctx, request)
		require.NoError(t, err)
		if kind == text {
			assert.Equal(t, some.Outputs[0].Text, some.Outputs[1].Text)
		}
	}

	// A long batch answers in its order, as each question does alone.
	long := &generatorv1.GenerateRequest{MaxTokens: 8}
	for i := range 40 {
		long.Items = append(long.Items, &generatorv1.GenerateRequest_Item{Question: fmt.Sprint("question ", i), Passages: texts[:1+i%3]})
	}
	many, err := e.Generator.Generate(ctx, long)
	require.NoError(t, err)
	for _, i := range []int{0, 17, 39} {
		one, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{MaxTokens: 8, Items: long.Items[i : i+1]})
		require.NoError(t, err)
		assert.Equal(t, one.Outputs[0].Text, many.Outputs[i].Text)
	}

	chosen, err := e.Generator.Select(ctx, &generatorv1.SelectRequest{MaxTokens: 8, Items: []*generatorv1.SelectRequest_Item{{Question: "which?", Candidates: texts}, {Question: "rule", Candidates: texts[:1]}}})
	require.NoError(t, err)
	ranked, err := e.Reranker.Rerank(ctx, &rerankerv1.RerankRequest{TopK: 2, Queries: []*rerankerv1.RerankRequest_Query{{Question: "which?", Passages: texts}}})
	require.NoError(t, err)
	assert.Equal(t, ranked.Rankings[0].Indices, chosen.Selections[0].Indices)
	assert.InDeltaSlice(t, ranked.Rankings[0].Scores, chosen.Selections[0].Scores, 1e-5)
	assert.Equal(t, []int32{0}, chosen.Selections[1].Indices, "the model's own k is cut to what there is")
	var picked []string
	for _, i := range chosen.Selections[0].Indices {
		picked = append(picked, texts[i])
	}
	same, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{MaxTokens: 8, Items: []*generatorv1.GenerateRequest_Item{{Question: "which?", Passages: picked}}})
	require.NoError(t, err)
	assert.Equal(t, same.Outputs[0].Text, chosen.Selections[0].Output.Text)

	first, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Documents: texts, MaxTokens: 8, Seed: 3})
	require.NoError(t, err)
	again, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Documents: texts, MaxTokens: 8, Seed: 3})
	require.NoError(t, err)
	for i := range texts {
		assert.Equal(t, first.Outputs[i].Text, again.Outputs[i].Text)
	}

	for _, x := range []struct {
		name string
		call func() error
		kind clara.Kind
		text string
	}{
		{"nothing given", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Passages: texts}, {Question: "q"}}})
			return err
		}, clara.Invalid, "item 1"},
		{"two kinds", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Passages: texts, Memories: compressed.Memories}}})
			return err
		}, clara.Invalid, "one of the three"},
		{"torn memory", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Memories: []*compressorv1.Memory{{Tokens: 4, Hidden: 48, Data: []byte("torn")}}}}})
			return err
		}, clara.Invalid, "memory 0"},
		{"memory of another model", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Memories: []*compressorv1.Memory{{Tokens: 4, Hidden: 1, Data: make([]byte, 16)}}}}})
			return err
		}, clara.State, "another model"},
		{"memory of another length", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Memories: []*compressorv1.Memory{{Tokens: 1, Hidden: 48, Data: make([]byte, 4*48)}}}}})
			return err
		}, clara.State, "another model"},
		{"no such point", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Index: found.Index, Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Points: []string{"00000000-0000-0000-0000-000000000000"}}}})
			return err
		}, clara.NotFound, "00000000"},
		{"too many passages", func() error {
			_, err := e.Generator.Generate(ctx, &generatorv1.GenerateRequest{Context: text, Items: []*generatorv1.GenerateRequest_Item{{Question: "q", Passages: servicetest.Texts("passage", 60)}}})
			return err
		}, clara.Invalid, "give fewer"},
		{"k above candidates", func() error {
			_, err := e.Generator.Select(ctx, &generatorv1.SelectRequest{TopK: 4, Items: []*generatorv1.SelectRequest_Item{{Question: "q", Candidates: texts}}})
			return err
		}, clara.Invalid, "it has 3 candidates, 4 are to be chosen"},
		{"no adapters", func() error {
			_, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Model: "models/plain", Documents: texts})
			return err
		}, clara.State, "has no adapters"},
		{"empty batch", func() error {
			_, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{})
			return err
		}, clara.Invalid, "empty"},
		{"large batch", func() error {
			_, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Documents: make([]string, 51)})
			return err
		}, clara.Invalid, "the limit is 50"},
	} {
		t.Run(x.name, func(t *testing.T) {
			err := x.call()
			assert.Equal(t, x.kind, clara.KindOf(err), "%v", err)
			assert.ErrorContains(t, err, x.text)
		})
	}
}

// TestGoneClient lets clients go in the middle of an answer: their places are free again.
func TestGoneClient(t *testing.T) {
	e := start(t, infer.Options{Context: 512, Streams: 2}, rpc.Config{})
	engine, release, err := e.Host.Acquire(t.Context(), "tiny")
	require.NoError(t, err)
	defer release()
	for range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		// Sampled at such a temperature, no answer ends soon.
		stream, err := e.Generator.Answer(ctx, &generatorv1.AnswerRequest{Context: none, Question: "q", MaxTokens: 450, Sampling: &generatorv1.Sampling{Temperature: 2, Seed: 7}})
		require.NoError(t, err)
		require.True(t, stream.Receive())
		require.True(t, stream.Receive())
		cancel()
		_ = stream.Close()
	}
	require.Eventually(t, func() bool { l := engine.Load(); return l.Running == 0 && l.Waiting == 0 }, 10*time.Second, time.Millisecond)
	_, err = ask(t.Context(), e, &generatorv1.AnswerRequest{Context: none, Question: "q", MaxTokens: 2})
	require.NoError(t, err)
}

// TestBusy fills the queue: who comes then is told when to come again, also by gRPC.
func TestBusy(t *testing.T) {
	e := start(t, infer.Options{Context: 512, Streams: 1, QueueTokens: 64}, rpc.Config{Listen: "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	engine, release, err := e.Host.Acquire(ctx, "tiny")
	require.NoError(t, err)
	defer release()
	// Longer than the queue is, each of them: refused whenever another waits, and else soon done.
	question := strings.Repeat("q", 80)
	long := &generatorv1.AnswerRequest{Context: none, Question: question, MaxTokens: 40, Sampling: &generatorv1.Sampling{Temperature: 2, Seed: 7}}
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil { // the queue stays full
				_, _ = ask(ctx, e, long)
			}
		})
	}
	require.Eventually(t, func() bool { return engine.Load().Waiting > 0 }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		_, err = ask(ctx, e, long)
		return clara.KindOf(err) == clara.Busy
	}, 30*time.Second, time.Millisecond)
	assert.Positive(t, clara.RetryAfter(err))

	conn, err := grpc.NewClient(e.Server.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.Eventually(t, func() bool {
		err = conn.Invoke(ctx, "/clara.generator.v1.GeneratorService/Generate", &generatorv1.GenerateRequest{
			Context: none, MaxTokens: 2, Items: []*generatorv1.GenerateRequest_Item{{Question: question}},
		}, &generatorv1.GenerateResponse{})
		return status.Code(err) == codes.ResourceExhausted
	}, 30*time.Second, time.Millisecond)
	var hint *errdetails.RetryInfo
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			hint = info
		}
	}
	require.NotNil(t, hint)
	assert.Positive(t, hint.RetryDelay.AsDuration())

	// The chat interface says the same in its way.
	require.Eventually(t, func() bool {
		reply, err := http.Post("http://"+e.Server.Addr()+"/v1/chat/completions", "application/json", strings.NewReader(`{"model": "models/tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "`+question+`"}]}`))
		if err != nil {
			return false
		}
		defer func() { _ = reply.Body.Close() }()
		body, err := io.ReadAll(reply.Body)
		return err == nil && reply.StatusCode == http.StatusTooManyRequests && reply.Header.Get("Retry-After") != "" && strings.Contains(string(body), "rate_limit_error")
	}, 30*time.Second, time.Millisecond)
}

// TestBusyBeforeSearch: where the engine has no place for an answer, nothing is searched for it and the model does not run.
func TestBusyBeforeSearch(t *testing.T) {
	e := start(t, infer.Options{Context: 400, Streams: 2}, rpc.Config{})
	e.Records.Collection("handbook", "tiny")
	e.Ready("handbook", "pumps", "the red pump is in hall two")
	question := &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: "where is the pump?", MaxTokens: 8}
	_, err := ask(t.Context(), e, question)
	require.NoError(t, err) // the engine knows now what it can do
	engine, release, err := e.Host.Acquire(t.Context(), "tiny")
	require.NoError(t, err)
	defer release()
	var places []*infer.Place
	for err == nil {
		var p *infer.Place
		p, err = engine.Reserve(0, 1) // less than the question
		places = append(places, p)
	}
	busy := engine.Busy()
	_, err = ask(t.Context(), e, question)
	assert.Equal(t, clara.Busy, clara.KindOf(err))
	assert.Equal(t, busy, engine.Busy())
	patient := proto.CloneOf(question)
	patient.Patient = true
	_, err = ask(t.Context(), e, patient)
	require.NoError(t, err, "who waits is not refused")
	for _, p := range places {
		p.Release()
	}
	_, err = ask(t.Context(), e, question)
	require.NoError(t, err)
}

func TestGRPC(t *testing.T) {
	e := start(t, infer.Options{Context: 400}, rpc.Config{Listen: "127.0.0.1:0"})
	ctx := t.Context()
	c := e.Records.Collection("grpc", "tiny")
	e.Ready("grpc", "d", "one", "two")
	conn, err := grpc.NewClient(e.Server.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	var found rerankerv1.RetrieveResponse
	require.NoError(t, conn.Invoke(ctx, "/clara.reranker.v1.RerankerService/Retrieve", &rerankerv1.RetrieveRequest{Collection: c.Name, Question: "one"}, &found))
	assert.Len(t, found.Candidates, 2)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/clara.generator.v1.GeneratorService/Answer")
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(&generatorv1.AnswerRequest{Collection: c.Name, Question: "one", MaxTokens: 5}))
	require.NoError(t, stream.CloseSend())
	var last *generatorv1.AnswerResponse
	for {
		m := &generatorv1.AnswerResponse{}
		if err = stream.RecvMsg(m); err != nil {
			break
		}
		last = m
	}
	require.ErrorIs(t, err, io.EOF)
	require.NotNil(t, last.GetDone())
	err = conn.Invoke(ctx, "/clara.reranker.v1.RerankerService/Retrieve", &rerankerv1.RetrieveRequest{Collection: "collections/none", Question: "one"}, &found)
	assert.Equal(t, codes.NotFound, status.Code(err))
}

// TestSwap moves a collection to another model, and back, while questions come: none of them fails.
func TestSwap(t *testing.T) {
	e := start(t, infer.Options{Context: 400}, rpc.Config{})
	e.Import("other", 4, 2)
	ctx, cancel := context.WithCancel(t.Context())
	e.Records.Collection("swap", "tiny")
	e.Ready("swap", "d", servicetest.Texts("text", 4)...)
	e.Records.Collection("swap", "other")
	e.Ready("swap", "d", servicetest.Texts("text", 4)...)

	var wg sync.WaitGroup
	var asked atomic.Int64
	seen := [2]atomic.Int64{}
	for i := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				a, err := ask(ctx, e, &generatorv1.AnswerRequest{Collection: "collections/swap", Question: fmt.Sprint("question ", i), MaxTokens: 6})
				if ctx.Err() != nil {
					return
				}
				if !assert.NoError(t, err) {
					return
				}
				asked.Add(1)
				if a.retrieved.Model == "models/tiny" {
					seen[0].Add(1)
				} else {
					seen[1].Add(1)
				}
			}
		})
	}
	for round := range 6 {
		model := []string{"tiny", "other"}[round%2]
		e.Records.Collection("swap", model)
		e.Registry.Activate(model)
		at := asked.Load() + 8
		require.Eventually(t, func() bool { return asked.Load() >= at || t.Failed() }, 20*time.Second, time.Millisecond)
	}
	cancel()
	wg.Wait()
	assert.Positive(t, seen[0].Load())
	assert.Positive(t, seen[1].Load())
}
