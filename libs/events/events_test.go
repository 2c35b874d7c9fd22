package events_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
)

// quick is the suite's topology with a short ack wait, so that lost deliveries come back within a test.
func quick() *events.Topology {
	t := events.Suite()
	t.AckWait = 400 * time.Millisecond
	return &t
}

var fast = events.ConsumerOptions{BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, MaxAttempts: 3, Concurrency: 4}

// handler is a Handler and Parker made of functions.
type handler struct {
	handle func(context.Context, *eventv1.DocumentReady) error
	parked func(context.Context, *eventv1.DocumentReady, error) error
}

func (h handler) Handle(ctx context.Context, e *eventv1.DocumentReady) error { return h.handle(ctx, e) }

func (h handler) Parked(ctx context.Context, e *eventv1.DocumentReady, reason error) error {
	if h.parked == nil {
		return nil
	}
	return h.parked(ctx, e, reason)
}

// consume runs a consumer of document.ready for the compressor until the test ends or stop is called.
func consume(t *testing.T, conn *events.Conn, h handler, opts events.ConsumerOptions) (c *events.Consumer, stop func()) {
	t.Helper()
	c, err := events.NewConsumer[*eventv1.DocumentReady](conn, "compressor", h, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, c.Run(ctx)) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return c, stop
}

func ready(n int) *eventv1.DocumentReady {
	return &eventv1.DocumentReady{Collection: "handbook", Document: fmt.Sprintf("d%d", n), Revision: 1}
}

func eventually(t *testing.T, f func() bool, what string) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, 5*time.Millisecond, what)
}

func dead(t *testing.T, conn *events.Conn) []events.DeadLetter {
	t.Helper()
	var all []events.DeadLetter
	require.NoError(t, conn.Dead(t.Context(), "", func(d events.DeadLetter) error { all = append(all, d); return nil }))
	return all
}

func TestEveryEventIsHandled(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	var mu sync.Mutex
	seen := map[string]int{}
	h := handler{handle: func(_ context.Context, e *eventv1.DocumentReady) error {
		mu.Lock()
		defer mu.Unlock()
		seen[e.GetDocument()]++
		return nil
	}}
	consume(t, conn, h, fast)
	consume(t, conn, h, fast) // a replica shares the work
	var batch []proto.Message
	for i := range 100 {
		batch = append(batch, ready(i))
	}
	require.NoError(t, conn.Publish(t.Context(), "batch", batch...))
	require.NoError(t, conn.Publish(t.Context(), "batch", batch...), "the same id is stored once")
	require.NoError(t, conn.Publish(t.Context(), "", ready(100)))
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 101 }, "all must be handled")
	for doc, n := range seen {
		assert.Equal(t, 1, n, doc)
	}
	assert.Empty(t, dead(t, conn))
}

func TestWhatBecomesOfAnEvent(t *testing.T) {
	tests := []struct {
		name   string
		errs   []error // by call; nil after
		calls  int32
		parked string // kind of the dead letter; "": none
	}{
		{"done", nil, 1, ""},
		{"exists", []error{clara.Errorf(clara.Exists, "x")}, 1, ""},
		{"not found", []error{clara.Errorf(clara.NotFound, "x")}, 1, ""},
		{"invalid", []error{clara.Errorf(clara.Invalid, "x")}, 1, "invalid"},
		{"unsupported", []error{clara.Errorf(clara.Unsupported, "x")}, 1, "unsupported"},
		{"corrupt", []error{clara.Errorf(clara.Corrupt, "x")}, 1, "corrupt"},
		{"busy for longer than there are attempts", []error{clara.BusyError(time.Millisecond, "x"), clara.BusyError(0, "x"), clara.Errorf(clara.Conflict, "x"), clara.Errorf(clara.State, "x"),
			clara.Errorf(clara.Unavailable, "x"), clara.Errorf(clara.Unavailable, "x")}, 7, ""},
		{"fails and succeeds", []error{errors.New("x"), errors.New("x")}, 3, ""},
		{"fails always", []error{errors.New("x"), errors.New("x"), errors.New("the\nreason"), errors.New("x")}, 3, "internal"},
		{"its own deadline passes", []error{context.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded, nil}, 3, "internal"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			conn := natstest.Start(t).Connect(events.Options{})
			var calls, told atomic.Int32
			consume(t, conn, handler{
				handle: func(context.Context, *eventv1.DocumentReady) error {
					n := int(calls.Add(1))
					if n <= len(tc.errs) {
						return tc.errs[n-1]
					}
					return nil
				},
				parked: func(context.Context, *eventv1.DocumentReady, error) error { told.Add(1); return nil },
			}, fast)
			require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
			eventually(t, func() bool { return calls.Load() >= tc.calls && (tc.parked == "") == (len(dead(t, conn)) == 0) }, "must settle")
			require.NoError(t, conn.Publish(t.Context(), "", &eventv1.DocumentReady{Collection: "other", Document: "after"}))
			eventually(t, func() bool { return calls.Load() == tc.calls+1 }, "nothing comes again")
			letters := dead(t, conn)
			if tc.parked == "" {
				assert.Empty(t, letters)
				return
			}
			require.Len(t, letters, 1)
			assert.Equal(t, tc.parked, letters[0].Kind)
			assert.Equal(t, "compressor", letters[0].Service)
			assert.Equal(t, "clara.document.ready.v1.handbook", letters[0].Subject)
			assert.Equal(t, "handbook", letters[0].Collection)
			assert.EqualValues(t, tc.calls, letters[0].Attempts)
			assert.NotContains(t, letters[0].Reason, "\n")
			assert.EqualValues(t, 1, told.Load())
		})
	}
}

func TestPanicsCountAsFailures(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error { panic("no such page") }}, fast)
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	eventually(t, func() bool { return len(dead(t, conn)) == 1 }, "must be parked")
	assert.Contains(t, dead(t, conn)[0].Reason, "no such page")
}

func TestReplay(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	var broken atomic.Bool
	broken.Store(true)
	var handled, others atomic.Int32
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error {
		if broken.Load() {
			return clara.Errorf(clara.Invalid, "no")
		}
		handled.Add(1)
		return nil
	}}, fast)
	other, err := events.NewConsumer[*eventv1.DocumentReady](conn, "synthesis", events.HandlerFunc[*eventv1.DocumentReady](func(context.Context, *eventv1.DocumentReady) error {
		others.Add(1)
		return nil
	}), fast)
	require.NoError(t, err)
	go func() { _ = other.Run(t.Context()) }()
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	eventually(t, func() bool { return len(dead(t, conn)) == 1 && others.Load() == 1 }, "must be parked")
	broken.Store(false)
	seq := dead(t, conn)[0].Sequence
	require.NoError(t, conn.Replay(t.Context(), seq))
	eventually(t, func() bool { return handled.Load() == 1 }, "must be handled")
	assert.Empty(t, dead(t, conn))
	assert.EqualValues(t, 1, others.Load(), "only the consumer that gave it up gets it again")
	err = conn.Replay(t.Context(), seq)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	assert.ErrorContains(t, err, "clara events dead")
	assert.NoError(t, conn.Discard(t.Context(), seq), "discarding twice is no error")
}

// Somebody may publish an event with a password by hand: it does not lie among the dead letters.
func TestDeadLettersKeepNoSecrets(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	c, err := events.NewConsumer[*eventv1.IngestRequested](conn, "ingest", events.HandlerFunc[*eventv1.IngestRequested](func(_ context.Context, e *eventv1.IngestRequested) error {
		return clara.Errorf(clara.Invalid, "%d characters are not its password", len(e.Password))
	}), fast)
	require.NoError(t, err)
	go func() { _ = c.Run(t.Context()) }()
	require.NoError(t, conn.Publish(t.Context(), "", &eventv1.IngestRequested{Collection: "handbook", Uri: "file:///a.pdf", Password: "open sesame"}))
	eventually(t, func() bool { return len(dead(t, conn)) == 1 }, "must be parked")
	letter := dead(t, conn)[0]
	assert.NotContains(t, string(letter.Data), "sesame")
	assert.Contains(t, string(letter.Data), "file:///a.pdf")
	assert.Contains(t, letter.Reason, "11 characters", "the consumer had it")
}

func TestAnEventThatKillsItsConsumerIsParked(t *testing.T) {
	server := natstest.Start(t)
	conn := server.Connect(events.Options{Topology: quick()})
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	var starts atomic.Int32
	// Every attempt "kills the process": its connection goes, nothing is said any more.
	for attempt := range int32(fast.MaxAttempts) {
		victim := server.Connect(events.Options{Topology: quick()})
		c, err := events.NewConsumer[*eventv1.DocumentReady](victim, "compressor", events.HandlerFunc[*eventv1.DocumentReady](func(ctx context.Context, _ *eventv1.DocumentReady) error {
			starts.Add(1)
			gone, cancel := context.WithCancel(context.Background())
			cancel()
			_ = victim.Close(gone)
			<-ctx.Done()
			return nil
		}), fast)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Run(ctx) }()
		eventually(t, func() bool { return starts.Load() == attempt+1 }, "the event must come")
		cancel()
		<-done
	}
	var told atomic.Int32
	consume(t, conn, handler{
		handle: func(context.Context, *eventv1.DocumentReady) error { starts.Add(1); return nil },
		parked: func(_ context.Context, e *eventv1.DocumentReady, _ error) error {
			assert.Equal(t, "d1", e.GetDocument())
			told.Add(1)
			return nil
		},
	}, fast)
	eventually(t, func() bool { return len(dead(t, conn)) == 1 }, "must be parked")
	assert.EqualValues(t, fast.MaxAttempts, starts.Load(), "not started again after the last attempt")
	assert.EqualValues(t, 1, told.Load())
	assert.Contains(t, dead(t, conn)[0].Reason, "did not end")
}

func TestHeartbeatsKeepASlowEvent(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{Topology: quick()})
	var calls atomic.Int32
	release := make(chan struct{})
	h := handler{handle: func(context.Context, *eventv1.DocumentReady) error { calls.Add(1); <-release; return nil }}
	consume(t, conn, h, fast)
	consume(t, conn, h, fast)
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	eventually(t, func() bool { return calls.Load() == 1 }, "must start")
	assert.Never(t, func() bool { return calls.Load() > 1 }, 3*quick().AckWait, 20*time.Millisecond, "the other replica must not get it")
	close(release)
}

func TestEventsSurviveARestartOfTheServer(t *testing.T) {
	server := natstest.StartListening(t)
	var down atomic.Bool
	conn := server.Connect(events.Options{Topology: quick(), OnState: func(err error) { down.Store(err != nil) }})
	var batch []proto.Message
	for i := range 20 {
		batch = append(batch, ready(i))
	}
	require.NoError(t, conn.Publish(t.Context(), "", batch...))
	var mu sync.Mutex
	seen := map[string]bool{}
	var calls atomic.Int32
	blocked := make(chan struct{})
	consume(t, conn, handler{handle: func(ctx context.Context, e *eventv1.DocumentReady) error {
		if calls.Add(1) <= 4 {
			<-blocked
		}
		mu.Lock()
		defer mu.Unlock()
		seen[e.GetDocument()] = true
		return nil
	}}, fast)
	eventually(t, func() bool { return calls.Load() == 4 }, "work must begin")
	server.Restart()
	close(blocked)
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 20 }, "all must be handled after the restart")
	eventually(t, func() bool { return !down.Load() }, "readiness must come back")
	require.NoError(t, conn.Publish(t.Context(), "", ready(1000)))
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return seen["d1000"] }, "and new ones too")
}

func TestDrainEndsWorkAndGivesTheRestBack(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	var started, finished atomic.Int32
	release := make(chan struct{})
	c, _ := consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error {
		started.Add(1)
		<-release
		finished.Add(1)
		return nil
	}}, events.ConsumerOptions{Concurrency: 2})
	require.NoError(t, conn.Publish(t.Context(), "", ready(1), ready(2), ready(3), ready(4)))
	eventually(t, func() bool { return started.Load() == 2 }, "two at once")
	drained := make(chan error, 1)
	go func() { drained <- c.Drain(t.Context()) }()
	close(release)
	require.NoError(t, <-drained)
	assert.Equal(t, started.Load(), finished.Load())

	var rest atomic.Int32
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error { rest.Add(1); return nil }}, fast)
	eventually(t, func() bool { return started.Load()+rest.Load() == 4 }, "another replica does the rest at once")
}

func TestStoppingDoesNotCountAsAnAttempt(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	for range fast.MaxAttempts + 2 {
		var started atomic.Bool
		_, stop := consume(t, conn, handler{handle: func(ctx context.Context, _ *eventv1.DocumentReady) error {
			started.Store(true)
			<-ctx.Done()
			return ctx.Err()
		}}, fast)
		eventually(t, started.Load, "must start")
		stop()
	}
	var done atomic.Bool
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error { done.Store(true); return nil }}, fast)
	eventually(t, done.Load, "must be handled in the end")
	assert.Empty(t, dead(t, conn))
}

func TestWaitingIsBounded(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	opts := fast
	opts.MaxWait = 50 * time.Millisecond
	consume(t, conn, handler{handle: func(context.Context, *eventv1.DocumentReady) error {
		return clara.Errorf(clara.State, "the model is not loaded")
	}}, opts)
	require.NoError(t, conn.Publish(t.Context(), "", ready(1)))
	eventually(t, func() bool { return len(dead(t, conn)) == 1 }, "must be parked")
	assert.Contains(t, dead(t, conn)[0].Reason, "the model is not loaded")
}

func TestPublishByHand(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	var got atomic.Pointer[eventv1.DocumentReady]
	consume(t, conn, handler{handle: func(_ context.Context, e *eventv1.DocumentReady) error { got.Store(e); return nil }}, fast)
	require.NoError(t, conn.PublishJSON(t.Context(), "clara.document.ready.v1", []byte(`{"collection":"handbook","document":"d7","revision":"2"}`)))
	eventually(t, func() bool { return got.Load() != nil }, "must arrive")
	assert.True(t, proto.Equal(&eventv1.DocumentReady{Collection: "handbook", Document: "d7", Revision: 2}, got.Load()))
	for name, tc := range map[string]struct{ subject, data, want string }{
		"unknown subject":  {"clara.document.read.v1", `{}`, "none of the suite's"},
		"unknown field":    {"clara.document.ready.v1", `{"colection":"x"}`, "colection"},
		"no JSON":          {"clara.document.ready.v1", `collection=x`, "event for"},
		"no collection":    {"clara.document.ready.v1", `{}`, "collection"},
		"bad collection":   {"clara.document.ready.v1", `{"collection":"a.b"}`, "lower-case"},
		"other collection": {"clara.document.ready.v1.b", `{"collection":"a"}`, "clara.document.ready.v1.a"},
	} {
		t.Run(name, func(t *testing.T) {
			err := conn.PublishJSON(t.Context(), tc.subject, []byte(tc.data))
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
			assert.ErrorContains(t, err, tc.want)
		})
	}
}

func TestTraceTravelsWithTheEvent(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{Tracer: sdktrace.NewTracerProvider(), Propagator: propagation.TraceContext{}})
	var got atomic.Value
	consume(t, conn, handler{handle: func(ctx context.Context, _ *eventv1.DocumentReady) error {
		got.Store(trace.SpanContextFromContext(ctx).TraceID())
		return nil
	}}, fast)
	ctx, span := sdktrace.NewTracerProvider().Tracer("test").Start(t.Context(), "upload")
	defer span.End()
	require.NoError(t, conn.Publish(ctx, "", ready(1)))
	eventually(t, func() bool { return got.Load() != nil }, "must arrive")
	assert.Equal(t, span.SpanContext().TraceID(), got.Load())
}

func TestConnectFaults(t *testing.T) {
	_, err := events.Connect(t.Context(), events.Config{URL: "nats://user:secret@127.0.0.1:1"}, events.Options{})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	assert.ErrorContains(t, err, "127.0.0.1:1")
	assert.ErrorContains(t, err, "--nats-url", "the setting that mends it")
	assert.NotContains(t, err.Error(), "secret")
	_, err = events.Connect(t.Context(), events.Config{Replicas: 2}, events.Options{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))

	server := natstest.StartListening(t)
	_, err = events.Connect(t.Context(), events.Config{Replicas: 3}, events.Options{InProcess: server})
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
	assert.ErrorContains(t, err, "CLARA_NATS_REPLICAS")
	conn := server.Connect(events.Options{})
	require.NoError(t, conn.Err())
	server.Shutdown()
	eventually(t, func() bool { return clara.KindOf(conn.Err()) == clara.Unavailable }, "must notice")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, conn.Publish(ctx, "", ready(1)))
}
