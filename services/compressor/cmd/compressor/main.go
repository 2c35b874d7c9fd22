// Command clara-compressor runs the compressor service.
package main

import (
	"context"
	"os"

	"github.com/clara-suite/clara/libs/app"
	_ "github.com/clara-suite/clara/libs/blob/s3" // s3:// stores
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/services/compressor"
)

type settings struct {
	app.Config
	Compressor compressor.Config `embed:""`
}

func main() {
	var cfg settings
	os.Exit(app.Main(app.Service{
		Name: "clara-compressor", Description: "Turns passages into memories and writes the index.", Listen: "127.0.0.1:7420",
		Settings: &cfg, Config: &cfg.Config, Events: true, Index: true, Engine: true,
		Build: func(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
			s, err := compressor.New(ctx, cfg.Compressor, compressor.Deps{
				Log: a.Log, Meter: a.Tel.Meter, Conn: a.Conn, Files: a.Files, Index: a.Index, Host: a.Host, Packages: a.Packages,
				Ingest: a.Ingest, Registry: a.Models, Jobs: a.Jobs, Ready: a.Ready,
			})
			if err != nil {
				return nil, err
			}
			s.Mount(a.Server)
			return s.Units(), nil
		},
	}))
}
