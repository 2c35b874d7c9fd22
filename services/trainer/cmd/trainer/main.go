// Clara-trainer serves clara.model.v1, clara.trainer.v1 and clara.job.v1.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/services/trainer"
)

func main() {
	var settings struct {
		app.Config
		Trainer trainer.Config `embed:"" prefix:"trainer-"`
	}
	os.Exit(app.Main(app.Service{
		Name: "clara-trainer", Description: "Models and training runs.", Listen: "127.0.0.1:7413",
		Settings: &settings, Config: &settings.Config, JobTypes: trainer.JobTypes(), Events: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := trainer.New(ctx, settings.Trainer, a)
			if err != nil {
				return nil, err
			}
			s.Mount(a.Server)
			path, h := jobv1connect.NewJobServiceHandler(job.NewHandler(a.Jobs, s.JobHooks(), app.MayJob), a.Server.HandlerOptions()...)
			a.Server.Handle(path, h)
			return s.Units(), nil
		},
	}))
}
