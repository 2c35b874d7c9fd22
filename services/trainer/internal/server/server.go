// Package server is the RPC side of training (clara.trainer.v1): it checks requests,
// asks the runs, the registry and the evaluations, and answers.
package server

import (
	"context"
	"slices"
	"strconv"

	"connectrpc.com/connect"

	"github.com/clara-suite/clara/libs/clara"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/services/trainer/internal/runs"

	"github.com/clara-suite/clara/libs/modelstore"
)

// Importer makes packages.
type Importer interface {
	ImportModel(ctx context.Context, req *modelv1.ImportModelRequest) (*jobv1.Job, error)
}

// Evaluations starts evaluations.
type Evaluations interface {
	Start(ctx context.Context, req *trainerv1.EvaluateRequest) (*jobv1.Job, error)
}

// Server implements clara.trainer.v1.TrainerService. Safe for concurrent use.
type Server struct {
	Runs        *runs.Manager
	Models      Importer
	Evaluations Evaluations
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// StartRun checks a request and starts the run.
func (s *Server) StartRun(ctx context.Context, r *trainerv1.StartRunRequest) (*trainerv1.Run, error) {
	return s.Runs.Start(ctx, r)
}

// WatchRun sends a run and what happens to it.
func (s *Server) WatchRun(ctx context.Context, r *trainerv1.WatchRunRequest, stream *connect.ServerStream[trainerv1.WatchRunResponse]) error {
	return s.Runs.Watch(ctx, r.Name, stream.Send)
}

// StopRun asks a run to save and leave.
func (s *Server) StopRun(ctx context.Context, r *trainerv1.StopRunRequest) (*trainerv1.Run, error) {
	return s.Runs.Stop(ctx, r.Name)
}

// ResumeRun goes on with a run.
func (s *Server) ResumeRun(ctx context.Context, r *trainerv1.ResumeRunRequest) (*trainerv1.Run, error) {
	return s.Runs.Again(ctx, r.Name)
}

// GetRun returns a run.
func (s *Server) GetRun(ctx context.Context, r *trainerv1.GetRunRequest) (*trainerv1.Run, error) {
	return s.Runs.Get(ctx, r.Name)
}

// ListRuns lists runs, newest first. The token is the number of the first.
func (s *Server) ListRuns(ctx context.Context, r *trainerv1.ListRunsRequest) (*trainerv1.ListRunsResponse, error) {
	all, err := s.Runs.List(ctx)
	if err != nil {
		return nil, err
	}
	start, size := 0, int(r.PageSize)
	if size <= 0 {
		size = defaultPage
	}
	if r.PageToken != "" {
		if start, err = strconv.Atoi(r.PageToken); err != nil || start < 0 {
			return nil, clara.Errorf(clara.Invalid, "page_token %q is not one that was given out", r.PageToken)
		}
	}
	start = min(start, len(all))
	end := min(start+min(size, maxPage), len(all))
	out := &trainerv1.ListRunsResponse{Runs: all[start:end]}
	if end < len(all) {
		out.NextPageToken = strconv.Itoa(end)
	}
	return out, nil
}

// ListMetrics sends the metrics of a run's steps.
func (s *Server) ListMetrics(ctx context.Context, r *trainerv1.ListMetricsRequest, stream *connect.ServerStream[trainerv1.ListMetricsResponse]) error {
	if r.Every < 0 {
		return clara.Errorf(clara.Invalid, "every is %d: at least 0", r.Every)
	}
	run, err := s.Runs.Get(ctx, r.Name)
	if err != nil {
		return err
	}
	for i, stage := range run.Stages {
		var last *trainerv1.Metrics // not sent yet
		for m, err := range runs.Metrics(stage.RunDir) {
			if err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if r.Every > 1 && m.Step%int64(r.Every) != 0 {
				last = m
				continue
			}
			last = nil
			if err := stream.Send(&trainerv1.ListMetricsResponse{Stage: int32(i), Metrics: m}); err != nil {
				return err
			}
		}
		if last != nil {
			if err := stream.Send(&trainerv1.ListMetricsResponse{Stage: int32(i), Metrics: last}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ListCheckpoints lists what a run has written, oldest first.
func (s *Server) ListCheckpoints(ctx context.Context, r *trainerv1.ListCheckpointsRequest) (*trainerv1.ListCheckpointsResponse, error) {
	run, err := s.Runs.Get(ctx, r.Parent)
	if err != nil {
		return nil, err
	}
	list, err := runs.Checkpoints(run)
	return &trainerv1.ListCheckpointsResponse{Checkpoints: list}, err
}

// ExportModel makes a package of a checkpoint.
func (s *Server) ExportModel(ctx context.Context, r *trainerv1.ExportModelRequest) (*jobv1.Job, error) {
	run, err := s.Runs.Get(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	list, err := runs.Checkpoints(run)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, clara.Errorf(clara.State, "%s has written no checkpoint yet", r.Name)
	}
	path := r.Checkpoint
	if path == "" {
		path = list[len(list)-1].Path
	}
	if !slices.ContainsFunc(list, func(c *trainerv1.Checkpoint) bool { return c.Path == path }) {
		return nil, clara.Errorf(clara.NotFound, "%s has no checkpoint %s; clara runs show lists those there are", r.Name, path)
	}
	model := r.Model
	if model == "" {
		model = modelstore.Name(run.DisplayName)
	}
	return s.Models.ImportModel(ctx, &modelv1.ImportModelRequest{Model: model, Base: r.Base, Checkpoint: path, Activate: r.Activate, RequestId: r.RequestId})
}

// Evaluate starts an evaluation.
func (s *Server) Evaluate(ctx context.Context, r *trainerv1.EvaluateRequest) (*jobv1.Job, error) {
	return s.Evaluations.Start(ctx, r)
}
