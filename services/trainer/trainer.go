// Package trainer is the service that owns models (clara.model.v1): it imports
// checkpoints and base models as packages and says which one is active.
package trainer

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/services/trainer/internal/registry"
)

// Config is the settings of trainer.
type Config struct {
	Roots []string `help:"Folders that models and checkpoints may be read from; the hub's local cache always may." env:"CLARA_TRAINER_ROOTS" placeholder:"DIR"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	_, err := registry.NewRoots(c.Roots, os.Getenv)
	return err
}

// JobType is the type of this service's jobs.
const JobType = registry.ImportJob

// Service is trainer.
type Service struct {
	registry *registry.Registry
}

// New makes the service on open connections: App's Conn, Jobs, Files, Packages and Ingest.
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
	a.JobType(JobType, r.Resume)
	return &Service{registry: r}, nil
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	path, h := modelv1connect.NewModelServiceHandler(s.registry, srv.HandlerOptions()...)
	srv.Handle(path, h)
}

// JobHooks is how this service's jobs are retried: imports need nothing but their record.
func (s *Service) JobHooks() map[string]job.Hooks { return map[string]job.Hooks{JobType: {}} }

// Units are the parts of the service that run.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{{Name: "trainer imports", Drain: s.registry.Close}}
}

var _ modelv1connect.ModelServiceHandler = (*registry.Registry)(nil)
