package lifecycle_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/lifecycle"
)

// journal records what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

func (j *journal) unit(name string) lifecycle.Unit {
	step := func(what string) func(context.Context) error {
		return func(context.Context) error { j.add(what + " " + name); return nil }
	}
	return lifecycle.Unit{Name: name, Start: step("start"), Drain: step("drain"), Stop: step("stop"),
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			j.add("end " + name)
			return ctx.Err()
		}}
}

func TestOrder(t *testing.T) {
	var j journal
	var ready lifecycle.Readiness
	ready.Set("a", nil)
	signals := make(chan os.Signal, 2)
	a, b := j.unit("a"), j.unit("b")
	drain := b.Drain
	b.Drain = func(ctx context.Context) error {
		assert.Error(t, ready.Err(""), "not ready before draining")
		return drain(ctx)
	}
	start := b.Start
	b.Start = func(ctx context.Context) error {
		assert.NoError(t, ready.Err(""))
		signals <- syscall.SIGTERM
		return start(ctx)
	}
	require.NoError(t, lifecycle.Run(t.Context(), lifecycle.Options{Readiness: &ready, Signals: signals}, a, b))
	assert.Equal(t, []string{"start a", "start b", "drain b", "drain a", "end b", "stop b", "end a", "stop a"}, j.all())
}

func TestFailureOfStartStopsTheStarted(t *testing.T) {
	var j journal
	b := j.unit("b")
	b.Start = func(context.Context) error { return errors.New("port in use") }
	err := lifecycle.Run(t.Context(), lifecycle.Options{Signals: make(chan os.Signal)}, j.unit("a"), b, j.unit("c"))
	assert.ErrorContains(t, err, "start b: port in use")
	assert.Equal(t, []string{"start a", "drain a", "end a", "stop a"}, j.all())
}

func TestFailureOfRunStopsAll(t *testing.T) {
	var j journal
	b := j.unit("b")
	fault := errors.New("lost the disk")
	b.Run = func(context.Context) error { return fault }
	err := lifecycle.Run(t.Context(), lifecycle.Options{Signals: make(chan os.Signal)}, j.unit("a"), b)
	assert.ErrorIs(t, err, fault)
	assert.Contains(t, j.all(), "stop a")
	assert.Contains(t, j.all(), "stop b")
}

func TestRunThatEndsIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	once := lifecycle.Unit{Name: "once", Run: func(context.Context) error { cancel(); return nil }}
	assert.NoError(t, lifecycle.Run(ctx, lifecycle.Options{Signals: make(chan os.Signal)}, once))
}

func TestSecondSignalDoesNotWait(t *testing.T) {
	signals := make(chan os.Signal, 2)
	slow := lifecycle.Unit{Name: "slow",
		Start: func(context.Context) error { signals <- syscall.SIGINT; return nil },
		Drain: func(ctx context.Context) error { signals <- syscall.SIGINT; <-ctx.Done(); return ctx.Err() }}
	begin := time.Now()
	err := lifecycle.Run(t.Context(), lifecycle.Options{Signals: signals, DrainTimeout: time.Minute}, slow)
	assert.ErrorContains(t, err, "drain slow")
	assert.Less(t, time.Since(begin), 10*time.Second)
}

func TestDeadlines(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	var j journal
	deaf := lifecycle.Unit{Name: "deaf", Stop: func(context.Context) error { <-never; return nil }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first := j.unit("first")
	err := lifecycle.Run(ctx, lifecycle.Options{Signals: make(chan os.Signal), StopTimeout: 20 * time.Millisecond}, first, deaf)
	assert.NoError(t, err, "nothing starts when ctx has ended")

	ctx, cancel = context.WithCancel(t.Context())
	deaf.Start = func(context.Context) error { cancel(); return nil }
	err = lifecycle.Run(ctx, lifecycle.Options{Signals: make(chan os.Signal), StopTimeout: 20 * time.Millisecond}, first, deaf)
	assert.ErrorContains(t, err, "stop deaf")
	assert.Contains(t, j.all(), "stop first", "a deaf unit does not keep the others from stopping")
}

func TestSignalDuringStart(t *testing.T) {
	signals := make(chan os.Signal, 1)
	waiting := lifecycle.Unit{Name: "waiting", Start: func(ctx context.Context) error {
		signals <- syscall.SIGTERM
		<-ctx.Done()
		return ctx.Err()
	}}
	assert.NoError(t, lifecycle.Run(t.Context(), lifecycle.Options{Signals: signals}, waiting))
}

func TestReadiness(t *testing.T) {
	var r lifecycle.Readiness
	assert.NoError(t, r.Err(""))
	r.Set("events", errors.New("connecting"))
	r.Set("model/x", nil)
	assert.EqualError(t, r.Err(""), "events: connecting")
	assert.NoError(t, r.Err("model/x"))
	assert.Error(t, r.Err("model/y"))
	assert.Equal(t, []string{"events", "model/x"}, r.Names())

	changed := r.Changed()
	r.Set("events", nil)
	select {
	case <-changed:
	default:
		t.Fatal("a change must close the channel")
	}
	assert.NoError(t, r.Err(""))
	r.Stop(errors.New("stopping"))
	assert.Error(t, r.Err("events"))
	r.Remove("events")
	assert.False(t, r.Known("events"))
}
