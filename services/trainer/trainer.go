// Package trainer is the service that owns models and training runs: it imports
// checkpoints and base models as packages and says which one is active
// (clara.model.v1); it trains, evaluates and exports (clara.trainer.v1). The work of
// training is done by worker processes, one clara-train a rank, so that an abort or
// running out of memory ends a run and not the service.
package trainer

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/trainer/v1/trainerv1connect"
	"github.com/clara-suite/clara/services/trainer/internal/evaluations"
	"github.com/clara-suite/clara/services/trainer/internal/registry"
	"github.com/clara-suite/clara/services/trainer/internal/runs"
	"github.com/clara-suite/clara/services/trainer/internal/server"
)

// Config is the settings of trainer.
type Config struct {
	Roots    []string      `help:"Folders that models, data and checkpoints may be read from and runs written to; the caches of the hub and of clara models pull may always be read." env:"CLARA_TRAINER_ROOTS" placeholder:"DIR"`
	Program  string        `help:"clara-train, which does the training; default: beside this program, or on the search path." env:"CLARA_TRAINER_PROGRAM" placeholder:"FILE"`
	Runs     int           `help:"Runs that train at once; others wait." env:"CLARA_TRAINER_RUNS" default:"1"`
	Restarts int           `help:"How often lost workers are started again in a row without a new checkpoint." env:"CLARA_TRAINER_RESTARTS" default:"3"`
	Grace    time.Duration `help:"How long workers may take to save and leave." env:"CLARA_TRAINER_GRACE" default:"5m"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	_, err := registry.NewRoots(c.Roots, os.Getenv)
	faults := []error{err}
	if c.Runs < 0 || c.Restarts < 0 || c.Grace < 0 {
		faults = append(faults, errors.New("runs, restarts and grace must not be negative"))
	}
	return errors.Join(faults...)
}

// Types of this service's jobs.
const (
	JobType      = registry.ImportJob
	TrainJobType = runs.TrainJob
	EvalJobType  = evaluations.EvaluateJob
)

// JobTypes are the types of this service's jobs.
func JobTypes() []string { return []string{JobType, TrainJobType, EvalJobType} }

// Service is trainer.
type Service struct {
	registry    *registry.Registry
	runs        *runs.Manager
	evaluations *evaluations.Manager
	server      *server.Server
}

// New makes the service on open connections: App's Conn, Jobs, Files, Packages, Ingest, Compressor, Generator and Reranker.
func New(ctx context.Context, cfg Config, a *app.App) (*Service, error) {
	roots, err := registry.NewRoots(cfg.Roots, os.Getenv)
	if err != nil {
		return nil, err
	}
	r, err := registry.New(ctx, registry.Options{
		Log: a.Log, Packages: a.Packages, Files: a.Files, Conn: a.Conn, Jobs: a.Jobs, Ingest: a.Ingest, Roots: roots, Bases: checkpoint.BaseFinder{},
	})
	if err != nil {
		return nil, err
	}
	tries := cfg.Restarts
	if tries == 0 {
		tries = -1
	}
	m, err := runs.New(ctx, runs.Options{
		Log: a.Log, Conn: a.Conn, Jobs: a.Jobs, Roots: roots, Meter: a.Tel.Meter, Program: cfg.Program, AtOnce: cfg.Runs,
		Supervisor: runs.Supervisor{Tries: tries, Grace: cfg.Grace},
	})
	if err != nil {
		return nil, err
	}
	e := evaluations.New(ctx, evaluations.Options{Log: a.Log, Jobs: a.Jobs, Generator: a.Generator, Reranker: a.Reranker, Compressor: a.Compressor, Models: r, Roots: roots})
	a.JobType(JobType, r.Resume)
	a.JobType(TrainJobType, m.Resume)
	a.JobType(EvalJobType, e.Resume)
	return &Service{registry: r, runs: m, evaluations: e, server: &server.Server{Runs: m, Models: r, Evaluations: e}}, nil
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	path, h := modelv1connect.NewModelServiceHandler(s.registry, srv.HandlerOptions()...)
	srv.Handle(path, h)
	path, h = trainerv1connect.NewTrainerServiceHandler(s.server, srv.HandlerOptions()...)
	srv.Handle(path, h)
}

// JobHooks is how this service's jobs are retried. Imports and evaluations need nothing but their record; a run that is
// retried is resumed.
func (s *Service) JobHooks() map[string]job.Hooks {
	return map[string]job.Hooks{
		JobType: {}, EvalJobType: {},
		TrainJobType: {
			Retry: func(ctx context.Context, j *jobv1.Job) error { _, err := s.runs.Again(ctx, runs.NameOf(j)); return err },
		},
	}
}

// Units are the parts of the service that run.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{
		{Name: "trainer imports", Drain: s.registry.Close},
		{Name: "trainer evaluations", Drain: s.evaluations.Close},
		{Name: "trainer runs", Drain: s.runs.Close},
	}
}

var (
	_ modelv1connect.ModelServiceHandler     = (*registry.Registry)(nil)
	_ trainerv1connect.TrainerServiceHandler = (*server.Server)(nil)
)
