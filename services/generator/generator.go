// Package generator is the service that answers questions: clara.generator.v1,
// and the chat interface that existing clients speak.
package generator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
	"github.com/clara-suite/clara/services/generator/internal/answer"
	"github.com/clara-suite/clara/services/generator/internal/openai"
)

// Config is the settings of the service itself.
type Config struct {
	MaxItems int `help:"Questions or documents that one call may hold." default:"1000" env:"CLARA_GENERATOR_MAX_ITEMS"`
}

// Validate gathers what is wrong with the settings.
func (c Config) Validate() error {
	if c.MaxItems < 1 {
		return errors.New("max-items must be 1 or more")
	}
	return nil
}

// Deps is what the service works with. Meter and Ready are optional.
type Deps struct {
	Log        *slog.Logger
	Meter      metric.MeterProvider
	Index      *index.Client
	Host       *host.Host
	Ingest     ingestv1connect.IngestServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	Reranker   rerankerv1connect.RerankerServiceClient
	Registry   modelv1connect.ModelServiceClient
	// Ready is told whether the active model is loaded.
	Ready *lifecycle.Readiness
}

// Service is the generator.
type Service struct {
	deps     Deps
	answerer *answer.Answerer
}

// New makes the service. It does no I/O.
func New(_ context.Context, cfg Config, d Deps) (*Service, error) {
	if d.Meter == nil {
		d.Meter = noop.NewMeterProvider()
	}
	meter := d.Meter.Meter("clara/generator")
	tokens, err := meter.Int64Counter("clara_generator_tokens", metric.WithDescription("Tokens generated."))
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	first, err := meter.Float64Histogram("clara_generator_first_token_seconds", metric.WithDescription("Time from a request to its first token."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .02, .03, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 60, 120))
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	return &Service{deps: d, answerer: &answer.Answerer{
		Log: d.Log, Models: models.Models{Host: d.Host, Registry: d.Registry}, Index: d.Index, Ingest: d.Ingest, Reranker: d.Reranker, Compressor: d.Compressor,
		MaxItems: cfg.MaxItems, Tokens: tokens, FirstToken: first,
	}}, nil
}

// Mount adds the service and the chat interface to a server.
func (s *Service) Mount(srv *rpc.Server) {
	srv.Handle(generatorv1connect.NewGeneratorServiceHandler(s, srv.HandlerOptions()...))
	(&openai.Handler{Log: s.deps.Log, Answerer: s.answerer, Ingest: s.deps.Ingest, Registry: s.deps.Registry}).Mount(srv)
}

// Units are what runs beside the server.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{{Name: "generator model", Run: func(ctx context.Context) error {
		return s.answerer.Models.Warm(ctx, s.deps.Log, func(reason error) {
			if s.deps.Ready != nil {
				s.deps.Ready.Set("model", reason)
			}
		})
	}}}
}

// Answer streams an answer from a collection. Kinds: Invalid, NotFound, State, Busy, Unavailable.
func (s *Service) Answer(ctx context.Context, r *generatorv1.AnswerRequest, stream *connect.ServerStream[generatorv1.AnswerResponse]) error {
	return s.answerer.Answer(ctx, r, stream.Send)
}

// Generate answers each question from the passages given with it. Kinds: Invalid, NotFound, State, Busy, Unavailable.
func (s *Service) Generate(ctx context.Context, r *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error) {
	return s.answerer.Generate(ctx, r)
}

// Paraphrase tells what the memory of each document says. Kinds: Invalid, State, Busy, Unavailable.
func (s *Service) Paraphrase(ctx context.Context, r *generatorv1.ParaphraseRequest) (*generatorv1.ParaphraseResponse, error) {
	return s.answerer.Paraphrase(ctx, r)
}

// Select chooses candidates for each question and answers from them. Kinds: Invalid, State, Busy, Unavailable.
func (s *Service) Select(ctx context.Context, r *generatorv1.SelectRequest) (*generatorv1.SelectResponse, error) {
	return s.answerer.Select(ctx, r)
}
