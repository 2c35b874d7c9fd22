package trainer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/services/trainer"
	"github.com/clara-suite/clara/services/trainer/internal/faketrain"
)

// trains starts a trainer whose clara-train behaves so, and returns a request that it takes.
func trains(t *testing.T, behaviour string) (*suite, *trainerv1.StartRunRequest) {
	t.Helper()
	root := t.TempDir()
	s := start(t, trainer.Config{Roots: []string{root}, Program: faketrain.Use(t, behaviour), Restarts: 1})
	return s, request(t, root, "first")
}

func request(t *testing.T, root, name string) *trainerv1.StartRunRequest {
	t.Helper()
	for _, f := range []string{"pretrain_data.jsonl", "instruction_data.jsonl", "end_to_end_data.jsonl"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, f), []byte("{}\n"), 0o644))
	}
	base := filepath.Join(root, "base")
	require.NoError(t, os.MkdirAll(base, 0o755))
	return &trainerv1.StartRunRequest{Stage: "stage1", Settings: []*trainerv1.Setting{
		{Name: "pretrain", Value: base}, {Name: "dataset", Value: root}, {Name: "save_path", Value: filepath.Join(root, name)},
	}}
}

// watch follows a run to its end and returns it with the events that were seen.
func (s *suite) watch(t *testing.T, name string, f func(*trainerv1.WatchRunResponse)) (*trainerv1.Run, []string) {
	t.Helper()
	stream, err := s.training.WatchRun(t.Context(), &trainerv1.WatchRunRequest{Name: name})
	require.NoError(t, err)
	defer stream.Close()
	var last *trainerv1.Run
	var seen []string
	for stream.Receive() {
		last = stream.Msg().Run
		seen = append(seen, stream.Msg().Event)
		if f != nil {
			f(stream.Msg())
		}
	}
	require.NoError(t, stream.Err())
	return last, seen
}

func TestRunTrains(t *testing.T) {
	s, req := trains(t, faketrain.Trains)
	ctx := t.Context()
	run, err := s.training.StartRun(ctx, req)
	require.NoError(t, err)
	assert.Equal(t, "first", run.DisplayName)
	run, _ = s.watch(t, run.Name, nil)
	require.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.State, run.Error)
	stage := run.Stages[0]
	assert.Equal(t, int64(4), stage.Metrics.Step)
	assert.InDelta(t, 1, stage.Metrics.Loss, 1e-9)
	assert.Equal(t, int64(1<<30), stage.Summary.Estimate.Memory)
	assert.Contains(t, strings.Join(run.Log, "\n"), "log of rank 0")
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.end(t, run.Job).State)

	metrics, err := s.training.ListMetrics(ctx, &trainerv1.ListMetricsRequest{Name: run.Name, Every: 3})
	require.NoError(t, err)
	var steps []int64
	for metrics.Receive() {
		steps = append(steps, metrics.Msg().Metrics.Step)
	}
	require.NoError(t, metrics.Err())
	assert.Equal(t, []int64{3, 4}, steps)

	list, err := s.training.ListRuns(ctx, &trainerv1.ListRunsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Runs, 1)
	checkpoints, err := s.training.ListCheckpoints(ctx, &trainerv1.ListCheckpointsRequest{Parent: run.Name})
	require.NoError(t, err)
	require.Len(t, checkpoints.Checkpoints, 1)
	assert.True(t, checkpoints.Checkpoints[0].Final)

	// What the worker wrote is no real checkpoint: the import says so.
	j, err := s.training.ExportModel(ctx, &trainerv1.ExportModelRequest{Name: run.Name})
	require.NoError(t, err)
	assert.Equal(t, "models/first", j.Target)
	assert.Equal(t, jobv1.Job_STATE_FAILED, s.end(t, j.Name).State)
	_, err = s.training.ExportModel(ctx, &trainerv1.ExportModelRequest{Name: run.Name, Checkpoint: "/elsewhere"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = s.training.ResumeRun(ctx, &trainerv1.ResumeRunRequest{Name: run.Name})
	assert.Equal(t, clara.State, clara.KindOf(err))
	_, err = s.training.GetRun(ctx, &trainerv1.GetRunRequest{Name: "runs/none"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestRunOfAllStages(t *testing.T) {
	s, req := trains(t, faketrain.Trains)
	req.Stage, req.Settings = "all", append(req.Settings, &trainerv1.Setting{Name: "world_size", Value: "2"})
	run, err := s.training.StartRun(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, run.Stages, 3)
	run, _ = s.watch(t, run.Name, nil)
	require.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.State, run.Error)
	for i, name := range []string{"clara_stage1", "clara_stage2", "clara_stage3"} {
		assert.Equal(t, name, filepath.Base(run.Stages[i].SavePath))
		assert.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.Stages[i].State)
		assert.FileExists(t, filepath.Join(run.Stages[i].RunDir, "rank-1.log"))
	}
	assert.Contains(t, run.Stages[1].Plan, run.Stages[0].SavePath, "a stage starts from the one before it")
}

func TestRunStopsAndResumes(t *testing.T) {
	s, req := trains(t, faketrain.Waits)
	ctx := t.Context()
	run, err := s.training.StartRun(ctx, req)
	require.NoError(t, err)

	again, err := s.training.StartRun(ctx, req)
	assert.Nil(t, again)
	assert.Equal(t, clara.Conflict, clara.KindOf(err), "two runs in one folder: %v", err)

	stopped := false
	run, seen := s.watch(t, run.Name, func(e *trainerv1.WatchRunResponse) {
		if !stopped && e.Run.Stages[0].GetMetrics().GetStep() == 2 {
			stopped = true
			_, err := s.training.StopRun(ctx, &trainerv1.StopRunRequest{Name: e.Run.Name})
			assert.NoError(t, err)
		}
	})
	require.True(t, stopped, "%v", seen)
	require.Equal(t, trainerv1.Run_STATE_STOPPED, run.State, run.Error)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, s.end(t, run.Job).State)

	t.Setenv("CLARA_FAKE_TRAIN", faketrain.Trains)
	run, err = s.training.ResumeRun(ctx, &trainerv1.ResumeRunRequest{Name: run.Name})
	require.NoError(t, err)
	run, _ = s.watch(t, run.Name, nil)
	require.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.State, run.Error)
	assert.Equal(t, int64(2), run.Stages[0].Summary.FromStep)
}

func TestRunGoesOnWhenTheServiceIsBack(t *testing.T) {
	root, nats := t.TempDir(), natstest.Start(t)
	cfg := trainer.Config{Roots: []string{root}, Program: faketrain.Use(t, faketrain.Waits)}
	first := startOn(t, cfg, nats)
	run, err := first.training.StartRun(t.Context(), request(t, root, "out"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		r, err := first.training.GetRun(t.Context(), &trainerv1.GetRunRequest{Name: run.Name})
		return err == nil && r.Stages[0].GetMetrics().GetStep() == 2
	}, 20*time.Second, 20*time.Millisecond)
	first.stop()
	assert.DirExists(t, filepath.Join(root, "out.run", "checkpoints", "step-00000002"), "the worker saved before it left")

	t.Setenv("CLARA_FAKE_TRAIN", faketrain.Trains)
	second := startOn(t, cfg, nats)
	run, _ = second.watch(t, run.Name, nil)
	require.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.State, run.Error)
	assert.Equal(t, int64(2), run.Stages[0].Summary.FromStep)
}

func TestRunSurvivesACrash(t *testing.T) {
	s, req := trains(t, faketrain.CrashOnce)
	run, err := s.training.StartRun(t.Context(), req)
	require.NoError(t, err)
	run, seen := s.watch(t, run.Name, nil)
	require.Equal(t, trainerv1.Run_STATE_SUCCEEDED, run.State, run.Error)
	assert.Contains(t, seen, "restarted")
	assert.Equal(t, int64(2), run.Stages[0].Summary.FromStep)
}

func TestRunFails(t *testing.T) {
	for _, c := range []struct{ name, behaviour, says string }{
		{"bad data is final", faketrain.Refuses, "line 3"},
		{"crashes are tried again and given up", faketrain.CrashEver, "given up after 2 starts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, req := trains(t, c.behaviour)
			run, err := s.training.StartRun(t.Context(), req)
			require.NoError(t, err)
			run, _ = s.watch(t, run.Name, nil)
			assert.Equal(t, trainerv1.Run_STATE_FAILED, run.State)
			assert.Contains(t, run.Error, c.says)
			j := s.end(t, run.Job)
			assert.Equal(t, jobv1.Job_STATE_FAILED, j.State)
			assert.Contains(t, j.Error, c.says)
		})
	}
}

func TestStartRunRefuses(t *testing.T) {
	s, good := trains(t, faketrain.Trains)
	elsewhere := t.TempDir()
	for _, c := range []struct {
		name, stage string
		settings    []*trainerv1.Setting
		kind        clara.Kind
		says        []string
	}{
		{"stage", "stage9", nil, clara.Invalid, []string{"stage9"}},
		{"all faults together", "stage1", []*trainerv1.Setting{{Name: "learning_rat", Value: "1", Source: "flag"}, {Name: "max_epochs", Value: "x", Source: "run.yaml"}}, clara.Invalid, []string{"learning_rate", "max_epochs", "run.yaml"}},
		{"writes outside", "stage1", []*trainerv1.Setting{{Name: "save_path", Value: filepath.Join(elsewhere, "out")}}, clara.Denied, []string{"--trainer-roots"}},
		{"reads outside", "stage1", []*trainerv1.Setting{{Name: "dataset", Value: elsewhere}}, clara.Denied, []string{"--trainer-roots"}},
		{"relative", "stage1", []*trainerv1.Setting{{Name: "save_path", Value: "out"}}, clara.Invalid, []string{"whole path"}},
		{"k beyond room", "stage1", []*trainerv1.Setting{{Name: "max_len", Value: "8"}, {Name: "compress_rate", Value: "8"}}, clara.Invalid, []string{"max_len"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.training.StartRun(t.Context(), &trainerv1.StartRunRequest{Stage: c.stage, Settings: append(append([]*trainerv1.Setting{}, good.Settings...), c.settings...)})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
			for _, says := range c.says {
				assert.ErrorContains(t, err, says)
			}
		})
	}
	good.ValidateOnly = true
	run, err := s.training.StartRun(t.Context(), good)
	require.NoError(t, err)
	assert.Empty(t, run.Name)
	list, err := s.training.ListRuns(t.Context(), &trainerv1.ListRunsRequest{})
	require.NoError(t, err)
	assert.Empty(t, list.Runs)
}

func TestStartRunWithoutWorker(t *testing.T) {
	root := t.TempDir()
	s := start(t, trainer.Config{Roots: []string{root}, Program: filepath.Join(root, "clara-train")})
	_, err := s.training.StartRun(t.Context(), request(t, root, "x"))
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "make train-build")
}

// What cannot work is refused before there is a run; a check alone says what a run would need and leaves none behind.
func TestStartRunChecksFirst(t *testing.T) {
	s, req := trains(t, faketrain.RefusesFirst)
	_, err := s.training.StartRun(t.Context(), req)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	assert.ErrorContains(t, err, "line 3")

	t.Setenv("CLARA_FAKE_TRAIN", faketrain.Trains)
	req.ValidateOnly, req.Stage = true, "all"
	run, err := s.training.StartRun(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, run.Stages, 3)
	for _, stage := range run.Stages {
		assert.Equal(t, int64(8), stage.Summary.GetSamples(), stage.Stage)
		assert.Equal(t, int64(1<<30), stage.Summary.GetEstimate().GetMemory())
	}
	list, err := s.training.ListRuns(t.Context(), &trainerv1.ListRunsRequest{})
	require.NoError(t, err)
	assert.Empty(t, list.Runs)
}
