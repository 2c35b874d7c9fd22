package events_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// TestCluster takes three servers through what happens to them: what was written is read by everybody at once; the leader
// goes while events and records are written; the majority goes, and comes back. Nothing is lost or done to records twice.
func TestCluster(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := natstest.StartCluster(t, 3)
	ctx := t.Context()
	conns := []*events.Conn{c.Connect(events.Options{Topology: quick()}), c.Connect(events.Options{Topology: quick()})}
	stores := []*events.Store[*ingestv1.Document]{openStore(t, conns[0]), openStore(t, conns[1])}

	t.Run("reads see writes", func(t *testing.T) {
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() {
				for i := range 40 {
					fresh(t, stores[i%2], stores[(i+1)%2], fmt.Sprintf("fresh.%d.", w), i)
				}
			})
		}
		writers.Wait()
	})

	var mu sync.Mutex
	seen := map[string]bool{}
	consume(t, conns[1], handler{handle: func(_ context.Context, e *eventv1.DocumentReady) error {
		mu.Lock()
		defer mu.Unlock()
		seen[e.GetDocument()] = true
		return nil
	}}, fast)
	all := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == n }
	}
	_, err := stores[0].Create(ctx, "counter", &ingestv1.Document{})
	require.NoError(t, err)
	const rounds = 40
	work := func(from int) *sync.WaitGroup {
		var busy sync.WaitGroup
		for _, s := range stores {
			busy.Go(func() {
				for range rounds {
					_, err := s.Modify(ctx, "counter", func(d *ingestv1.Document) error { d.PageCount++; return nil })
					assert.NoError(t, err)
				}
			})
		}
		busy.Go(func() {
			for i := range rounds {
				if i%2 == 0 {
					assert.NoError(t, conns[0].Publish(ctx, "", ready(from+i)))
					continue
				}
				batch := []proto.Message{ready(from + i), ready(1000 + from + i), ready(2000 + from + i)}
				assert.NoError(t, conns[0].Publish(ctx, fmt.Sprint("batch", from+i), batch...))
			}
		})
		return &busy
	}
	counter := func() int32 {
		e, err := stores[1].Get(ctx, "counter")
		require.NoError(t, err)
		return e.Value.PageCount
	}

	first := c.Leader("CLARA_EVENTS")
	busy := work(0)
	c.Stop(first)
	busy.Wait()
	assert.EqualValues(t, 2*rounds, counter(), "each change once")
	require.Eventually(t, all(2*rounds), time.Minute, 10*time.Millisecond, "all events")

	// The majority: nothing can be stored, which is said, and work that waits for it is done when it is back.
	second := c.Leader("CLARA_EVENTS")
	busy = work(rounds)
	c.Stop(second)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = stores[0].Put(short, "late", &ingestv1.Document{})
	cancel()
	assert.Error(t, err)
	c.Start(second)
	busy.Wait()
	assert.EqualValues(t, 4*rounds, counter(), "each change once")
	require.Eventually(t, all(4*rounds), time.Minute, 10*time.Millisecond, "all events")
	c.Start(first)
	for _, s := range stores {
		_, err = s.Put(ctx, "late", &ingestv1.Document{})
		require.NoError(t, err)
	}

	// A command whose settings know of no copies leaves those that there are.
	cfg := c.Config()
	cfg.Replicas = 0
	careless, err := events.Connect(ctx, cfg, events.Options{Topology: quick()})
	require.NoError(t, err)
	openStore(t, careless)
	require.NoError(t, careless.Close(ctx))
	for _, stream := range []string{"CLARA_EVENTS", "KV_documents", "KV_clara_attempts"} {
		eventually(t, func() bool { return c.Copies(stream) == 3 }, "copies of "+stream)
	}
}

// TestCopiesAreAdded lets a client that knows of one copy go on while another sets three.
func TestCopiesAreAdded(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3)
	ctx, cfg := t.Context(), c.Config()
	cfg.Replicas = 1
	early, err := events.Connect(ctx, cfg, events.Options{Topology: quick()})
	require.NoError(t, err)
	defer func() { assert.NoError(t, early.Close(context.WithoutCancel(ctx))) }()
	one := openStore(t, early)
	_, err = one.Put(ctx, "before", &ingestv1.Document{File: "a.pdf"})
	require.NoError(t, err)

	three := openStore(t, c.Connect(events.Options{Topology: quick()}))
	for i := range 20 {
		key := fmt.Sprint("after", i)
		_, err = three.Put(ctx, key, &ingestv1.Document{File: key})
		require.NoError(t, err)
		e, err := one.Get(ctx, key)
		require.NoError(t, err)
		assert.Equal(t, key, e.Value.File)
	}
	e, err := one.Get(ctx, "before")
	require.NoError(t, err)
	assert.Equal(t, "a.pdf", e.Value.File)
}

// latest is the record that was changed last.
func latest(list []events.Entry[*ingestv1.Document]) events.Entry[*ingestv1.Document] {
	var out events.Entry[*ingestv1.Document]
	for _, e := range list {
		if e.Revision > out.Revision {
			out = e
		}
	}
	return out
}

// fresh writes a record, which another client must see, and deletes some, which nobody may see any more.
func fresh(t *testing.T, a, b *events.Store[*ingestv1.Document], prefix string, i int) {
	ctx, key := t.Context(), fmt.Sprint(prefix, i)
	rev, err := a.Create(ctx, key, &ingestv1.Document{File: key})
	if !assert.NoError(t, err) {
		return
	}
	e, err := b.Get(ctx, key)
	assert.NoError(t, err)
	assert.Equal(t, rev, e.Revision, key)
	if i%10 != 0 {
		return
	}
	list, err := b.List(ctx, prefix)
	assert.NoError(t, err)
	assert.Equal(t, key, latest(list).Key)
	assert.NoError(t, a.Delete(ctx, key, rev))
	_, err = b.Get(ctx, key)
	assert.Equal(t, clara.NotFound, clara.KindOf(err), "%s: %v", key, err)
	list, err = b.List(ctx, prefix)
	assert.NoError(t, err)
	assert.NotEqual(t, key, latest(list).Key)
}
