package events_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

func openStore(t *testing.T, conn *events.Conn) *events.Store[*ingestv1.Document] {
	t.Helper()
	s, err := events.OpenStore[*ingestv1.Document](t.Context(), conn, "documents", 0)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	server := natstest.Start(t)
	s := openStore(t, server.Connect(events.Options{}))
	ctx := t.Context()

	_, err := s.Get(ctx, "handbook.d1")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	rev, err := s.Create(ctx, "handbook.d1", &ingestv1.Document{File: "a.pdf"})
	require.NoError(t, err)
	_, err = s.Create(ctx, "handbook.d1", &ingestv1.Document{})
	assert.Equal(t, clara.Exists, clara.KindOf(err), "%v", err)
	next, err := s.Update(ctx, "handbook.d1", &ingestv1.Document{File: "b.pdf"}, rev)
	require.NoError(t, err)
	_, err = s.Update(ctx, "handbook.d1", &ingestv1.Document{File: "late"}, rev)
	assert.Equal(t, clara.Conflict, clara.KindOf(err), "%v", err)
	assert.Equal(t, clara.Conflict, clara.KindOf(s.Delete(ctx, "handbook.d1", rev)))
	e, err := s.Get(ctx, "handbook.d1")
	require.NoError(t, err)
	assert.Equal(t, next, e.Revision)
	assert.Equal(t, "b.pdf", e.Value.GetFile())

	for _, key := range []string{"handbook.d3", "handbook.d2", "handbooks.d1", "other.d1"} {
		_, err := s.Put(ctx, key, &ingestv1.Document{File: key})
		require.NoError(t, err)
	}
	require.NoError(t, s.Delete(ctx, "handbook.d2", 0))
	require.NoError(t, s.Delete(ctx, "handbook.d2", 0), "deleting twice is no error")
	list, err := s.List(ctx, "handbook.")
	require.NoError(t, err)
	var keys []string
	for _, e := range list {
		keys = append(keys, e.Key)
	}
	assert.Equal(t, []string{"handbook.d1", "handbook.d3"}, keys)
	empty, err := s.List(ctx, "nobody.")
	require.NoError(t, err)
	assert.Empty(t, empty)
	_, err = s.Create(ctx, "handbook.d2", &ingestv1.Document{})
	require.NoError(t, err, "a deleted key can be made again")

	for _, key := range []string{"", "a..b", ".a", "a b", "a.*", "a.>"} {
		_, err := s.Get(ctx, key)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "%q", key)
	}
	_, err = s.List(ctx, "handbook")
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = s.Put(ctx, "handbook.big", &ingestv1.Document{Error: strings.Repeat("x", 2<<20)})
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
}

func TestModifyLosesNothing(t *testing.T) {
	s := openStore(t, natstest.Start(t).Connect(events.Options{}))
	_, err := s.Create(t.Context(), "k", &ingestv1.Document{})
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				_, err := s.Modify(t.Context(), "k", func(d *ingestv1.Document) error { d.PageCount++; return nil })
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	e, err := s.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.EqualValues(t, 40, e.Value.GetPageCount())
	same, err := s.Modify(t.Context(), "k", func(d *ingestv1.Document) error { return events.Unchanged })
	require.NoError(t, err)
	assert.Equal(t, e.Revision, same.Revision)
}

func TestWatch(t *testing.T) {
	s := openStore(t, natstest.Start(t).Connect(events.Options{}))
	_, err := s.Put(t.Context(), "a.1", &ingestv1.Document{File: "one"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	for e, err := range s.Watch(ctx, "a.") {
		require.NoError(t, err)
		got = append(got, fmt.Sprintf("%s=%s %v", e.Key, e.Value.GetFile(), e.Deleted))
		switch {
		case e.Key == "":
			_, err := s.Put(t.Context(), "a.2", &ingestv1.Document{File: "two"})
			require.NoError(t, err)
			_, err = s.Put(t.Context(), "b.1", &ingestv1.Document{})
			require.NoError(t, err)
		case e.Key == "a.2":
			require.NoError(t, s.Delete(t.Context(), "a.1", 0))
		case e.Deleted:
			cancel()
		}
	}
	assert.Equal(t, []string{"a.1=one false", "= false", "a.2=two false", "a.1= true"}, got)
}

func TestRecordsSurviveARestart(t *testing.T) {
	server := natstest.Start(t)
	s := openStore(t, server.Connect(events.Options{}))
	_, err := s.Create(t.Context(), "k", &ingestv1.Document{File: "a.pdf"})
	require.NoError(t, err)
	server.Restart()
	e, err := openStore(t, server.Connect(events.Options{})).Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, "a.pdf", e.Value.GetFile())
}

func owed(d *ingestv1.Document) []proto.Message {
	var out []proto.Message
	for _, o := range d.GetOwed() {
		out = append(out, o.GetDocumentReady())
	}
	return out
}

func outbox(t *testing.T, conn *events.Conn) *events.Outbox[*ingestv1.Document] {
	return events.NewOutbox(conn, openStore(t, conn), owed, func(d *ingestv1.Document) { d.Owed = nil })
}

func owing(n int) *ingestv1.Document {
	return &ingestv1.Document{File: "a.pdf", Owed: []*ingestv1.Owed{{Event: &ingestv1.Owed_DocumentReady{DocumentReady: ready(n)}}}}
}

func TestOutbox(t *testing.T) {
	server := natstest.Start(t)
	conn := server.Connect(events.Options{})
	var mu sync.Mutex
	seen := map[string]int{}
	var calls atomic.Int32
	consume(t, conn, handler{handle: func(_ context.Context, e *eventv1.DocumentReady) error {
		mu.Lock()
		defer mu.Unlock()
		seen[e.GetDocument()]++
		calls.Add(1)
		return nil
	}}, fast)
	box := outbox(t, conn)

	doc := owing(1)
	rev, err := box.Create(t.Context(), "handbook.d1", doc)
	require.NoError(t, err)
	assert.Empty(t, doc.GetOwed())
	e, err := box.Get(t.Context(), "handbook.d1")
	require.NoError(t, err)
	assert.Equal(t, rev, e.Revision, "the revision is good for the next update")
	assert.Empty(t, e.Value.GetOwed())
	_, err = box.Update(t.Context(), "handbook.d1", owing(2), rev)
	require.NoError(t, err)
	_, err = box.Modify(t.Context(), "handbook.d1", func(d *ingestv1.Document) error { d.Owed = owing(3).Owed; return nil })
	require.NoError(t, err)

	// A process that dies between storing and publishing leaves the debt; the next one pays it.
	_, err = box.Store.Create(t.Context(), "handbook.d4", owing(4))
	require.NoError(t, err)
	outbox(t, conn).Recover(t.Context())
	eventually(t, func() bool { return calls.Load() == 4 }, "all must be published")
	left, err := box.List(t.Context(), "")
	require.NoError(t, err)
	for _, e := range left {
		assert.Empty(t, e.Value.GetOwed(), e.Key)
	}
	assert.Equal(t, map[string]int{"d1": 1, "d2": 1, "d3": 1, "d4": 1}, seen)
}

func TestAnnounceReachesListeners(t *testing.T) {
	server := natstest.Start(t)
	a, b := server.Connect(events.Options{}), server.Connect(events.Options{})
	got := make(chan *ingestv1.Document, 8)
	stop, err := events.Listen(a, func(d *ingestv1.Document) { got <- d }, "doc", "*")
	require.NoError(t, err)
	defer stop()
	eventually(t, func() bool {
		require.NoError(t, b.Announce(&ingestv1.Document{File: "x"}, "doc", "1"))
		select {
		case d := <-got:
			return d.GetFile() == "x"
		default:
			return false
		}
	}, "must arrive")
}

// A write whose answer was lost may have stored the record, with what it owes: that is paid without waiting for a scan.
func TestOutboxLooksAfterWritesWithoutAnAnswer(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	var calls atomic.Int32
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error { calls.Add(1); return nil }}, fast)
	box := outbox(t, conn)
	_, err := box.Store.Put(t.Context(), "handbook.d0", owing(0))
	require.NoError(t, err)
	stop, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() { defer close(running); _ = box.Run(stop) }()
	defer func() { cancel(); <-running }()
	eventually(t, func() bool { return calls.Load() == 1 }, "the scan at the start")

	gone, leave := context.WithCancel(t.Context())
	leave()
	_, err = box.Create(gone, "handbook.d1", owing(1))
	require.ErrorIs(t, err, context.Canceled)
	_, err = box.Store.Put(t.Context(), "handbook.d1", owing(1)) // as the server may have done
	require.NoError(t, err)
	eventually(t, func() bool { return calls.Load() == 2 }, "must be published")
}
