package compressor_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/servicetest"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/compressor"
)

const m = 4

// start runs the service with a model "tiny" that has adapters and "plain" that has none.
func start(t *testing.T, o infer.Options) *servicetest.Env {
	t.Helper()
	e := servicetest.New(t, o, rpc.Config{})
	e.Import("tiny", m, 1)
	e.Import("plain", 0, 1)
	e.Registry.Activate("tiny")
	s, err := compressor.New(t.Context(), compressor.Config{Documents: 8, Attempts: 2}, compressor.Deps{
		Log: e.Log, Conn: e.Conn, Files: e.Files, Index: e.Index, Host: e.Host, Packages: e.Packages, Ingest: e.Ingest, Registry: e.Models, Jobs: e.Jobs,
	})
	require.NoError(t, err)
	s.Mount(e.Server)
	e.Start(s.Units()...)
	return e
}

// held returns the texts that an index holds of a document, in order.
func held(t *testing.T, e *servicetest.Env, name, collection, document string) []string {
	t.Helper()
	x, err := e.Index.Index(t.Context(), name)
	if clara.KindOf(err) == clara.NotFound {
		return nil
	}
	require.NoError(t, err)
	stored, err := x.Passages(t.Context(), collection, document)
	require.NoError(t, err)
	var out []string
	for _, s := range stored {
		out = append(out, s.Passage.Text)
	}
	return out
}

func TestCompress(t *testing.T) {
	e := start(t, infer.Options{Context: 256})
	ctx := t.Context()
	lease, err := models.Models{Host: e.Host, Registry: e.Models}.Acquire(ctx, "models/tiny")
	require.NoError(t, err)
	defer lease.Release()
	long := "this text has a good deal more than forty bytes, so it is cut"
	texts := []string{"a", long, "", long[:servicetest.DocMaxLength]}

	for _, query := range []bool{false, true} {
		reply, err := e.Compressor.Compress(ctx, &compressorv1.CompressRequest{Texts: texts, Query: query})
		require.NoError(t, err)
		assert.Equal(t, "models/tiny", reply.Model)
		assert.EqualValues(t, 1, reply.Truncated)
		want, err := lease.CompressTexts(ctx, texts)
		if query {
			want, err = lease.EncodeQueries(ctx, texts)
		}
		require.NoError(t, err)
		require.Len(t, reply.Memories, len(texts))
		for i, p := range reply.Memories {
			got, err := models.FromProto(p)
			require.NoError(t, err)
			assert.Equal(t, []int{m, 48}, []int{got.M, got.H})
			assert.InDeltaSlice(t, want[i].Data, got.Data, 1e-4)
		}
	}

	stream, err := e.Compressor.CompressStream(ctx)
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, stream.Send(&compressorv1.CompressRequest{Texts: texts[:i+1]}))
		reply, err := stream.Receive()
		require.NoError(t, err)
		assert.Len(t, reply.Memories, i+1)
	}
	require.NoError(t, stream.CloseRequest())
	require.NoError(t, stream.CloseResponse())

	_, err = e.Compressor.Compress(ctx, &compressorv1.CompressRequest{Model: "models/plain", Texts: texts})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "clara models import --checkpoint")
	_, err = e.Compressor.Compress(ctx, &compressorv1.CompressRequest{Model: "models/none", Texts: texts})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestIndex(t *testing.T) {
	e := start(t, infer.Options{Context: 256, BatchTokens: 128})
	c := e.Records.Collection("handbook", "tiny")
	words := e.Records.Collection("words", "plain")
	bare := e.Records.Collection("bare", "")

	// Many small documents at once, in all three kinds of index.
	var wg sync.WaitGroup
	for _, id := range []string{"handbook", "words", "bare"} {
		for n := range 6 {
			event := e.Records.Put(id, fmt.Sprint("d", n), servicetest.Texts(fmt.Sprint("text", n), n)...)
			wg.Go(func() { assert.NoError(t, e.Conn.Publish(context.Background(), "", event)) })
		}
	}
	wg.Wait()
	for _, x := range []*ingestv1.Collection{c, words, bare} {
		id := x.Name[len("collections/"):]
		for n := range 6 {
			d := e.Settled(id, fmt.Sprint("d", n))
			assert.Equal(t, ingestv1.Document_STATE_READY, d.State, d.Error)
			assert.Len(t, held(t, e, x.Index, id, fmt.Sprint("d", n)), n)
		}
	}

	// A new revision replaces passages.
	e.Ready("handbook", "d1", "first", "second", "third")
	assert.Equal(t, []string{"first", "second", "third"}, held(t, e, c.Index, "handbook", "d1"))
	e.Ready("handbook", "d1", "second")
	assert.Equal(t, []string{"second"}, held(t, e, c.Index, "handbook", "d1"))

	// The memory that was stored is the encoder's.
	x, err := e.Index.Index(t.Context(), c.Index)
	require.NoError(t, err)
	stored, err := x.Passages(t.Context(), "handbook", "d1")
	require.NoError(t, err)
	memories, err := x.Memories(t.Context(), []string{stored[0].PointID})
	require.NoError(t, err)
	reply, err := e.Compressor.Compress(t.Context(), &compressorv1.CompressRequest{Texts: []string{"second"}})
	require.NoError(t, err)
	want, err := models.FromProto(reply.Memories[0])
	require.NoError(t, err)
	assert.InDeltaSlice(t, want.Data, memories[0].Data, 5e-3)
	assert.Equal(t, "d1.md", stored[0].Passage.File)

	// A document that is deleted goes, whichever way it is asked for.
	deleted := e.Records.Delete("handbook", "d2")
	require.NoError(t, e.Conn.Publish(t.Context(), "", deleted))
	require.Eventually(t, func() bool { return len(held(t, e, c.Index, "handbook", "d2")) == 0 }, 10*time.Second, 5*time.Millisecond)
	deleted = e.Records.Delete("handbook", "d3")
	_, err = e.Compressor.DeletePoints(t.Context(), &compressorv1.DeletePointsRequest{Collection: "handbook", Document: "d3", BeforeRevision: deleted.Revision, Indexes: deleted.Indexes})
	require.NoError(t, err)
	assert.Empty(t, held(t, e, c.Index, "handbook", "d3"))
	_, err = e.Compressor.DeletePoints(t.Context(), &compressorv1.DeletePointsRequest{Collection: "handbook"})
	require.NoError(t, err)
	assert.Empty(t, held(t, e, c.Index, "handbook", "d5"))
	assert.Len(t, held(t, e, words.Index, "words", "d5"), 5)
}

// TestLateEvents publishes events of documents that have changed since: the index ends up with what the record says.
func TestLateEvents(t *testing.T) {
	e := start(t, infer.Options{Context: 256})
	c := e.Records.Collection("late", "tiny")
	ctx := t.Context()

	old := e.Records.Put("late", "changed", "one", "two")
	e.Ready("late", "changed", "two", "three", "four")
	require.NoError(t, e.Conn.Publish(ctx, "", old))
	gone := e.Records.Put("late", "gone", "five")
	e.Records.Delete("late", "gone")
	require.NoError(t, e.Conn.Publish(ctx, "", gone))

	// Points of an older revision over those of the present one, as a writer leaves them that was cut off late.
	x, err := e.Index.Index(ctx, c.Index)
	require.NoError(t, err)
	stored, err := x.Passages(ctx, "late", "changed")
	require.NoError(t, err)
	memories, err := x.Memories(ctx, []string{stored[0].PointID})
	require.NoError(t, err)
	require.NoError(t, x.Upsert(ctx, []index.Point{{Passage: stored[0].Passage, Set: old.PassageSet, Revision: old.Revision, Memory: memories[0]}}))
	require.NoError(t, e.Conn.Publish(ctx, "", old))

	assert.Eventually(t, func() bool {
		now, err := x.Passages(ctx, "late", "changed")
		return err == nil && len(now) == 3 && now[0].Revision > old.Revision
	}, 10*time.Second, 5*time.Millisecond)
	assert.Equal(t, []string{"two", "three", "four"}, held(t, e, c.Index, "late", "changed"))
	assert.Empty(t, held(t, e, c.Index, "late", "gone"))
}

func TestFaults(t *testing.T) {
	e := start(t, infer.Options{Context: 256})
	ctx := t.Context()
	c := e.Records.Collection("faults", "tiny")

	lost := e.Records.Put("faults", "lost", "whose passages are not in the store")
	require.NoError(t, e.Files.Delete(ctx, lost.PassageSet))
	require.NoError(t, e.Conn.Publish(ctx, "", lost))
	d := e.Settled("faults", "lost")
	assert.Equal(t, ingestv1.Document_STATE_FAILED, d.State)
	assert.Contains(t, d.Error, "reprocess")
	assert.Empty(t, held(t, e, c.Index, "faults", "lost"))

	short := e.Records.Put("faults", "short", "one", "two")
	e.Records.Change("faults", "short", func(d *ingestv1.Document) { d.Placements[0].Passages = 3 })
	require.NoError(t, e.Conn.Publish(ctx, "", short))
	d = e.Settled("faults", "short")
	assert.Equal(t, ingestv1.Document_STATE_FAILED, d.State)
	assert.Empty(t, held(t, e, c.Index, "faults", "short"), "nothing of it answers half")

	missing := e.Records.Put("faults", "missing", "one")
	missing.Index, missing.Model = "faults.other", "models/none"
	e.Records.Change("faults", "missing", func(d *ingestv1.Document) { d.Placements[0].Index = missing.Index })
	require.NoError(t, e.Conn.Publish(ctx, "", missing))
	d = e.Settled("faults", "missing")
	assert.Equal(t, ingestv1.Document_STATE_FAILED, d.State)
	assert.Contains(t, d.Error, `no model package "none"`)
}

func TestCancel(t *testing.T) {
	e := start(t, infer.Options{Context: 256, BatchTokens: 256})
	ctx := t.Context()
	c := e.Records.Collection("cancel", "tiny")
	j, err := e.Jobs.CreateOpen(ctx, &jobv1.Job{Type: "ingest", Target: c.Name})
	require.NoError(t, err)
	event := e.Records.Put("cancel", "d", servicetest.Texts("passage", 300)...)
	event.Job = j.Name
	e.Records.Change("cancel", "d", func(d *ingestv1.Document) { d.Job = j.Name })
	_, err = e.Jobs.Cancel(ctx, j.Name)
	require.NoError(t, err)
	require.NoError(t, e.Conn.Publish(ctx, "", event))
	d := e.Settled("cancel", "d")
	assert.Contains(t, d.Error, "cancelled")
	assert.Empty(t, held(t, e, c.Index, "cancel", "d"))
}

// TestSweep compares an index that has been tampered with.
func TestSweep(t *testing.T) {
	e := start(t, infer.Options{Context: 256})
	ctx := t.Context()
	c := e.Records.Collection("sweep", "tiny")
	whole := e.Ready("sweep", "whole", "one", "two")
	holed := e.Ready("sweep", "holed", "three", "four")
	e.Ready("sweep", "orphan", "five")
	fresh := e.Ready("sweep", "fresh", "six")
	e.Records.Delete("sweep", "orphan")
	x, err := e.Index.Index(ctx, c.Index)
	require.NoError(t, err)
	stored, err := x.Passages(ctx, "sweep", "holed")
	require.NoError(t, err)
	require.NoError(t, x.DeletePoints(ctx, []string{stored[1].PointID}))

	request := &compressorv1.SweepIndexRequest{Collection: "sweep", Index: c.Index, Repair: true, Expected: []*compressorv1.Expected{
		{Document: "whole", Revision: whole.Revision, Passages: 2}, {Document: "holed", Revision: holed.Revision, Passages: 2},
		// "fresh" was made after the list was: it is not an orphan.
	}}
	reply, err := e.Compressor.SweepIndex(ctx, request)
	require.NoError(t, err)
	assert.Equal(t, []string{"orphan"}, reply.Orphans)
	assert.Equal(t, []string{"holed"}, reply.Incomplete)
	assert.EqualValues(t, 5, reply.Points)
	assert.Empty(t, held(t, e, c.Index, "sweep", "orphan"))
	assert.Equal(t, []string{"six"}, held(t, e, c.Index, "sweep", "fresh"))

	// The event again fills the hole.
	require.NoError(t, e.Conn.Publish(ctx, "", &eventv1.DocumentReady{
		Collection: "sweep", Document: "holed", Revision: holed.Revision, PassageSet: holed.Placements[0].PassageSet, Index: c.Index, Model: c.Model, Passages: 2,
	}))
	assert.Eventually(t, func() bool { return len(held(t, e, c.Index, "sweep", "holed")) == 2 }, 10*time.Second, 5*time.Millisecond)
	request.Expected = append(request.Expected, &compressorv1.Expected{Document: "fresh", Revision: fresh.Revision, Passages: 1})
	reply, err = e.Compressor.SweepIndex(ctx, request)
	require.NoError(t, err)
	assert.Empty(t, reply.Orphans)
	assert.Empty(t, reply.Incomplete)

	_, err = e.Compressor.DropIndex(ctx, &compressorv1.DropIndexRequest{Index: c.Index})
	require.NoError(t, err)
	_, err = e.Compressor.SweepIndex(ctx, request)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
