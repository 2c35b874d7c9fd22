// Command clara-generator runs the generator service.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/services/generator"
)

type settings struct {
	app.Config
	Generator generator.Config `embed:""`
}

func main() {
	var cfg settings
	os.Exit(app.Main(app.Service{
		Name: "clara-generator", Description: "Answers questions from collections.", Listen: "127.0.0.1:7440",
		Settings: &cfg, Config: &cfg.Config, Index: true, Engine: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := generator.New(ctx, cfg.Generator, generator.Deps{
				Log: a.Log, Meter: a.Tel.Meter, Index: a.Index, Host: a.Host,
				Ingest: a.Ingest, Compressor: a.Compressor, Reranker: a.Reranker, Registry: a.Models, Ready: a.Ready,
			})
			if err != nil {
				return nil, err
			}
			s.Mount(a.Server)
			return s.Units(), nil
		},
	}))
}
