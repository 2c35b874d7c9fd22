// Package reranker is the service that reads the index: it finds the passages
// that answer a question, and orders given passages (clara.reranker.v1).
package reranker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
	"github.com/clara-suite/clara/services/reranker/internal/retrieve"
)

// Config is the settings of the service itself.
type Config struct {
	MaxQueries int `help:"Questions that one call to Rerank may hold." default:"1000" env:"CLARA_RERANKER_MAX_QUERIES"`
}

// Validate gathers what is wrong with the settings.
func (c Config) Validate() error {
	if c.MaxQueries < 1 {
		return errors.New("max-queries must be 1 or more")
	}
	return nil
}

// Deps is what the service works with. Meter and Ready are optional.
type Deps struct {
	Log        *slog.Logger
	Meter      metric.MeterProvider
	Index      *index.Client
	Host       *host.Host
	Packages   *modelstore.Store
	Ingest     ingestv1connect.IngestServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	Registry   modelv1connect.ModelServiceClient
	// Ready is told whether the active model is loaded.
	Ready *lifecycle.Readiness
}

// Service is the reranker.
type Service struct {
	cfg     Config
	deps    Deps
	finder  *retrieve.Finder
	seconds metric.Float64Histogram
}

// New makes the service. It does no I/O.
func New(_ context.Context, cfg Config, d Deps) (*Service, error) {
	if d.Meter == nil {
		d.Meter = noop.NewMeterProvider()
	}
	seconds, err := d.Meter.Meter("clara/reranker").Float64Histogram("clara_reranker_retrieve_seconds",
		metric.WithDescription("Time of a retrieval, the question's encoding included, by mode."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2, 3, 5, 10, 30))
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	return &Service{cfg: cfg, deps: d, seconds: seconds, finder: &retrieve.Finder{
		Log: d.Log, Index: d.Index, Models: models.Models{Host: d.Host, Registry: d.Registry}, Packages: d.Packages, Ingest: d.Ingest, Compressor: d.Compressor,
	}}, nil
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	srv.Handle(rerankerv1connect.NewRerankerServiceHandler(s, srv.HandlerOptions()...))
}

// Units are what runs beside the server.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{{Name: "reranker model", Run: func(ctx context.Context) error {
		return s.finder.Models.Warm(ctx, s.deps.Log, func(reason error) {
			if s.deps.Ready != nil {
				s.deps.Ready.Set("model", reason)
			}
		})
	}}}
}

// Retrieve returns the best k passages of a collection. Kinds: Invalid, NotFound, State, Busy, Unavailable.
func (s *Service) Retrieve(ctx context.Context, r *rerankerv1.RetrieveRequest) (*rerankerv1.RetrieveResponse, error) {
	out, err := s.finder.Retrieve(ctx, r)
	if err == nil {
		s.seconds.Record(ctx, out.Seconds, metric.WithAttributes(attribute.String("mode", out.Mode.String())))
	}
	return out, err
}

// Rerank orders given passages by question. Kinds: Invalid, State, Busy, Unavailable.
func (s *Service) Rerank(ctx context.Context, r *rerankerv1.RerankRequest) (*rerankerv1.RerankResponse, error) {
	if len(r.Queries) > s.cfg.MaxQueries {
		return nil, clara.Errorf(clara.Invalid, "%d queries in one call: the limit is %d (--max-queries)", len(r.Queries), s.cfg.MaxQueries)
	}
	return s.finder.Rerank(ctx, r)
}
