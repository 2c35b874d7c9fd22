// Clara-ingest serves clara.ingest.v1 and clara.job.v1.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/services/ingest"
)

func main() {
	var settings struct {
		app.Config
		Ingest ingest.Config `embed:"" prefix:"ingest-"`
	}
	os.Exit(app.Main(app.Service{
		Name: "clara-ingest", Description: "Collections, documents and their passages.", Listen: "127.0.0.1:7411",
		Settings: &settings, Config: &settings.Config, JobTypes: []string{ingest.JobType, ingest.ModelJobType}, Events: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := ingest.New(ctx, settings.Ingest, a)
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
