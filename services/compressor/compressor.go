// Package compressor is the service that turns passages into memories and writes
// the index: it answers clara.compressor.v1, and takes documents that are ready
// or deleted from the stream of events.
package compressor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/services/compressor/internal/indexer"
	"github.com/clara-suite/clara/services/compressor/internal/server"
)

// Config is the settings of the service itself.
type Config struct {
	Documents int `help:"Documents indexed at once; small ones share batches." default:"8" env:"CLARA_COMPRESSOR_DOCUMENTS"`
	Attempts  int `help:"Times a document is tried before it is given up." default:"5" env:"CLARA_COMPRESSOR_ATTEMPTS"`
}

// Validate gathers what is wrong with the settings.
func (c Config) Validate() error {
	var faults []error
	if c.Documents < 1 || c.Documents > 256 {
		faults = append(faults, fmt.Errorf("documents %d: must be 1 to 256", c.Documents))
	}
	if c.Attempts < 1 {
		faults = append(faults, fmt.Errorf("attempts %d: must be 1 or more", c.Attempts))
	}
	return errors.Join(faults...)
}

// Deps is what the service works with. Meter and Ready are optional.
type Deps struct {
	Log      *slog.Logger
	Meter    metric.MeterProvider
	Conn     *events.Conn
	Files    *blob.Bucket
	Index    *index.Client
	Host     *host.Host
	Packages *modelstore.Store
	Ingest   ingestv1connect.IngestServiceClient
	Registry modelv1connect.ModelServiceClient
	Jobs     indexer.Jobs
	// Ready is told whether the active model is loaded.
	Ready *lifecycle.Readiness
}

// Service is the compressor.
type Service struct {
	deps    Deps
	models  models.Models
	server  *server.Server
	ready   *events.Consumer
	deleted *events.Consumer
}

// New makes the service. It does no I/O.
func New(_ context.Context, cfg Config, d Deps) (*Service, error) {
	if d.Meter == nil {
		d.Meter = noop.NewMeterProvider()
	}
	passages, err := d.Meter.Meter("clara/compressor").Int64Counter("clara_compressor_passages", metric.WithDescription("Passages written to the index."))
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	m := models.Models{Host: d.Host, Registry: d.Registry}
	x := &indexer.Indexer{
		Log: d.Log, Events: d.Conn, Files: d.Files, Index: d.Index, Models: m, Packages: d.Packages, Ingest: d.Ingest, Jobs: d.Jobs, Passages: passages,
	}
	s := &Service{deps: d, models: m, server: &server.Server{Log: d.Log, Models: m, Index: d.Index, Indexer: x}}
	s.ready, err = events.NewConsumer[*eventv1.DocumentReady](d.Conn, "compressor", indexer.Ready{Indexer: x},
		events.ConsumerOptions{Concurrency: cfg.Documents, MaxAttempts: cfg.Attempts})
	if err != nil {
		return nil, err
	}
	s.deleted, err = events.NewConsumer[*eventv1.DocumentDeleted](d.Conn, "compressor", indexer.Deleted{Indexer: x},
		events.ConsumerOptions{Concurrency: cfg.Documents})
	return s, err
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	srv.Handle(compressorv1connect.NewCompressorServiceHandler(s.server, srv.HandlerOptions()...))
}

// Units are what runs beside the server.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{
		{Name: "compressor model", Run: func(ctx context.Context) error {
			return s.models.Warm(ctx, s.deps.Log, func(reason error) {
				if s.deps.Ready != nil {
					s.deps.Ready.Set("model", reason)
				}
			})
		}},
		{Name: "compressor ready", Run: s.ready.Run, Drain: s.ready.Drain},
		{Name: "compressor deleted", Run: s.deleted.Run, Drain: s.deleted.Drain},
	}
}
