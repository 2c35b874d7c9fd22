// Command clara-reranker runs the reranker service.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/services/reranker"
)

type settings struct {
	app.Config
	Reranker reranker.Config `embed:""`
}

func main() {
	var cfg settings
	os.Exit(app.Main(app.Service{
		Name: "clara-reranker", Description: "Finds the passages that answer a question.", Listen: "127.0.0.1:7430",
		Settings: &cfg, Config: &cfg.Config, Index: true, Engine: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := reranker.New(ctx, cfg.Reranker, reranker.Deps{
				Log: a.Log, Meter: a.Tel.Meter, Index: a.Index, Host: a.Host, Packages: a.Packages,
				Ingest: a.Ingest, Compressor: a.Compressor, Registry: a.Models, Ready: a.Ready,
			})
			if err != nil {
				return nil, err
			}
			s.Mount(a.Server)
			return s.Units(), nil
		},
	}))
}
