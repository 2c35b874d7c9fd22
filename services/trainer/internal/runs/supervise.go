package runs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/trainplan"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/services/trainer/internal/worker"
)

// Supervisor trains runs with worker processes.
type Supervisor struct {
	Program string // path of clara-train
	// Tries is how often lost workers are started again in a row without a new checkpoint. 0: 3; negative: never.
	Tries int
	// Backoff is the wait before the first new start; it doubles. 0: 2 s.
	Backoff time.Duration
	// Grace is how long workers may take to save and leave. 0: that of worker.Options.
	Grace time.Duration
}

// Restarted is the event of workers being started again, beside those of trainplan.
const Restarted = "restarted"

// logLines is how many last lines of the workers' logs a run's record keeps.
const logLines = 20

// Train carries a run out, from the first stage that has not succeeded. The record is changed as things happen; report is
// told each time, with a copy. resume lets the first stage go on from its newest checkpoint, if it has one. When ctx ends,
// the workers save and leave and the error is worker.ErrStopped.
func (s Supervisor) Train(ctx context.Context, run *trainerv1.Run, resume bool, report func(*trainerv1.WatchRunResponse)) error {
	tell := func(event, message, path string) {
		run.UpdateTime = timestamppb.Now()
		report(&trainerv1.WatchRunResponse{Run: proto.Clone(run).(*trainerv1.Run), Event: event, Message: message, Path: path})
	}
	run.State, run.Error, run.EndTime = trainerv1.Run_STATE_RUNNING, "", nil
	if at := int(run.Stage); at < len(run.Stages) {
		run.Stages[at].Summary = nil // of an earlier start
	}
	err := s.stages(ctx, run, resume, tell)
	run.EndTime = timestamppb.Now()
	switch {
	case err == nil:
		run.State = trainerv1.Run_STATE_SUCCEEDED
	case errors.Is(err, worker.ErrStopped):
		run.State = trainerv1.Run_STATE_STOPPED
	default:
		run.State, run.Error = trainerv1.Run_STATE_FAILED, err.Error()
	}
	if at := int(run.Stage); at < len(run.Stages) {
		run.Stages[at].State = run.State
	}
	return err
}

func (s Supervisor) stages(ctx context.Context, run *trainerv1.Run, resume bool, tell func(event, message, path string)) error {
	for i, stage := range run.Stages {
		if stage.State == trainerv1.Run_STATE_SUCCEEDED {
			continue
		}
		run.Stage = int32(i)
		plan, err := planOf(stage)
		if err != nil {
			return err
		}
		plan.Resume = plan.Resume || resume
		// The stages after the one that was interrupted are new; their folders hold nothing to go on from.
		resume = false
		stage.State = trainerv1.Run_STATE_RUNNING
		tell("", "", "")
		if err := s.stage(ctx, run, stage, plan, tell); err != nil {
			if len(run.Stages) > 1 && !errors.Is(err, worker.ErrStopped) {
				return fmt.Errorf("%s: %w", stage.Stage, err)
			}
			return err
		}
		stage.State = trainerv1.Run_STATE_SUCCEEDED
	}
	return nil
}

// stage trains one stage, starting its workers again where that may help.
func (s Supervisor) stage(ctx context.Context, run *trainerv1.Run, stage *trainerv1.Stage, plan trainplan.Plan, tell func(event, message, path string)) error {
	o := worker.Options{
		Program: s.Program, Plan: plan, Grace: s.Grace,
		Event: func(e trainplan.Event) {
			apply(stage, e)
			if e.Kind != trainplan.Failed { // the end of the group says which failure counts
				tell(e.Kind, e.Message, e.Path)
			}
		},
		Log: func(rank int, line string) {
			if len(run.Log) >= logLines {
				run.Log = slices.Delete(run.Log, 0, len(run.Log)-logLines+1)
			}
			run.Log = append(run.Log, fmt.Sprintf("rank %d: %.500s", rank, line))
		},
	}
	return worker.Supervise(ctx, o, worker.Retry{Tries: s.Tries, Backoff: s.Backoff, Start: func(restarts int, why error, wait time.Duration) {
		run.Restarts = int32(restarts)
		if why != nil {
			tell(Restarted, fmt.Sprintf("%v; starting again in %s, from the newest checkpoint", why, wait), "")
		}
		stage.Summary, stage.Phase = nil, "starting the workers"
	}})
}

// apply brings what a worker said into the record.
func apply(stage *trainerv1.Stage, e trainplan.Event) {
	switch e.Kind {
	case trainplan.PhaseBegun:
		stage.Phase = e.Message
	case trainplan.Started:
		stage.Phase = ""
		if e.Summary != nil {
			stage.Summary = &trainerv1.Summary{}
			convert(e.Summary, stage.Summary)
		}
	case trainplan.Step:
		if e.Metrics != nil {
			stage.Metrics = &trainerv1.Metrics{}
			convert(e.Metrics, stage.Metrics)
		}
	case trainplan.Evaluated:
		if e.Evaluation != nil {
			stage.Evaluation = &trainerv1.Evaluation{}
			convert(e.Evaluation, stage.Evaluation)
		}
	}
}

// convert copies by JSON: the messages have the names of the lines that workers write. What a newer worker says
// beyond them is left out.
func convert(from any, into proto.Message) {
	raw, err := json.Marshal(from)
	if err == nil {
		// A number that is none (a loss of NaN) does not get here: JSON has no such.
		_ = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, into)
	}
}
