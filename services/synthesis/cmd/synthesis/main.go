// Clara-synthesis serves clara.synthesis.v1 and clara.job.v1.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/services/synthesis"
)

func main() {
	var settings struct {
		app.Config
		Synthesis synthesis.Config `embed:"" prefix:"synthesis-"`
	}
	os.Exit(app.Main(app.Service{
		Name: "clara-synthesis", Description: "Training data sets made of documents.",
		Settings: &settings, Config: &settings.Config, JobTypes: []string{synthesis.JobType}, Events: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := synthesis.New(ctx, settings.Synthesis, a)
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
