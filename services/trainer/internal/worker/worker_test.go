package worker_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/internal/faketrain"
	"github.com/clara-suite/clara/services/trainer/internal/worker"
)

func TestMain(m *testing.M) {
	faketrain.Main()
	os.Exit(m.Run())
}

func plan(t *testing.T, world int) trainplan.Plan {
	t.Helper()
	dir := t.TempDir()
	p := trainplan.Default(trainplan.Stage1)
	p.World, p.SavePath, p.RunDir = world, filepath.Join(dir, "out"), filepath.Join(dir, "out.run")
	return p
}

func TestRunEnds(t *testing.T) {
	for _, c := range []struct {
		name, behaviour string
		world           int
		kind            clara.Kind
		says            string
	}{
		{"finished", faketrain.Trains, 1, 0, ""},
		{"two ranks", faketrain.Trains, 2, 0, ""},
		{"refused", faketrain.Refuses, 1, clara.Invalid, "line 3"},
		{"aborted", faketrain.CrashEver, 1, clara.Unavailable, "crashed: SIGABRT"},
		{"lost rank", faketrain.LostRank, 3, clara.Unavailable, "rank 1 was killed"},
		{"no words of the protocol", faketrain.NoProtocol, 1, clara.Unavailable, "no such thing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, c.world)
			var kinds []string
			err := worker.Run(t.Context(), worker.Options{Program: faketrain.Use(t, c.behaviour), Plan: p,
				Event: func(e trainplan.Event) { kinds = append(kinds, e.Kind) }})
			assert.FileExists(t, filepath.Join(p.RunDir, "plan.json"))
			if c.behaviour != faketrain.LostRank { // there rank 0 may be ended before its first word
				log, err := os.ReadFile(filepath.Join(p.RunDir, "rank-0.log"))
				require.NoError(t, err)
				assert.Contains(t, string(log), "log of rank 0")
			}
			if c.says == "" {
				require.NoError(t, err)
				assert.Equal(t, []string{"phase", "started", "step", "step", "step", "step", "finished"}, kinds)
				return
			}
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
			assert.ErrorContains(t, err, c.says)
		})
	}
}

// stopAt returns options that end the context at the second step.
func stopAt(t *testing.T, behaviour string, world int) (context.Context, worker.Options) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, worker.Options{Program: faketrain.Use(t, behaviour), Plan: plan(t, world), Grace: 200 * time.Millisecond, Event: func(e trainplan.Event) {
		if e.Kind == trainplan.Step && e.Metrics.Step == 2 {
			cancel()
		}
	}}
}

func TestRunStops(t *testing.T) {
	ctx, o := stopAt(t, faketrain.Waits, 2)
	o.Grace = time.Minute
	require.ErrorIs(t, worker.Run(ctx, o), worker.ErrStopped)
	assert.DirExists(t, filepath.Join(o.Plan.RunDir, "checkpoints", "step-00000002"))
}

func TestRunKillsWhatDoesNotLeave(t *testing.T) {
	ctx, o := stopAt(t, faketrain.Hangs, 1)
	err := worker.Run(ctx, o)
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	assert.ErrorContains(t, err, "did not save and leave")
}

func TestFind(t *testing.T) {
	_, err := worker.Find(filepath.Join(t.TempDir(), "nothing"))
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "make train-build")
	t.Setenv("PATH", t.TempDir())
	_, err = worker.Find("")
	assert.ErrorContains(t, err, "make train-build")
}

func TestPlace(t *testing.T) {
	good := worker.Place{Nodes: 2, Node: 1, Ranks: 4, Master: "10.0.0.1", Port: 29500}
	require.NoError(t, good.Validate())
	for _, c := range []struct {
		name string
		set  func(p *worker.Place)
		says string
	}{
		{"no ranks", func(p *worker.Place) { p.Ranks = 0 }, "nproc_per_node"},
		{"counted from one", func(p *worker.Place) { p.Node = 2 }, "node_rank is 2 of nnodes 2"},
		{"no master", func(p *worker.Place) { p.Master = "" }, "master_addr"},
		{"no port", func(p *worker.Place) { p.Port = 0 }, "master_port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := good
			c.set(&p)
			assert.ErrorContains(t, p.Validate(), c.says)
		})
	}
}
