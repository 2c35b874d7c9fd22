// Package synthesis is the service that makes training data sets of documents
// (clara.synthesis.v1), and the same work on files for programs without the
// service: Describer, Build and their parts.
package synthesis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/libs/rpc"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
	"github.com/clara-suite/clara/proto/gen/clara/synthesis/v1/synthesisv1connect"
	"github.com/clara-suite/clara/services/synthesis/internal/endpoint"
	"github.com/clara-suite/clara/services/synthesis/internal/server"
)

// Config is the settings of synthesis.
type Config struct {
	Models      ModelsConfig  `embed:"" prefix:"llm-"`
	Concurrency int           `help:"Data sets built at once." env:"CLARA_SYNTHESIS_CONCURRENCY" default:"1"`
	FollowEvery time.Duration `help:"Time between two looks for data sets that are to follow their documents." env:"CLARA_SYNTHESIS_FOLLOW_EVERY" default:"5s"`
	FollowQuiet time.Duration `help:"How long documents must have been left alone before a data set follows." env:"CLARA_SYNTHESIS_FOLLOW_QUIET" default:"30s"`
	MiniLM      string        `name:"minilm" help:"Folder of the MiniLM model, for hard negatives without a service; empty: the project's cache." env:"CLARA_MINILM" placeholder:"DIR"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	var faults []error
	if c.Concurrency <= 0 || c.FollowEvery <= 0 || c.FollowQuiet < 0 {
		faults = append(faults, errors.New("concurrency and follow-every must be positive, follow-quiet not negative"))
	}
	return errors.Join(faults...)
}

// ModelsConfig says which language models there are.
type ModelsConfig = endpoint.Config

// JobType is the type of this service's jobs.
const JobType = "dataset"

// Service is synthesis.
type Service struct {
	cfg       Config
	app       *app.App
	records   *server.Records
	server    *server.Server
	endpoints *endpoint.Set
	consumer  *events.Consumer
	queue     chan string
}

// New makes the service on open connections: App's Conn, Jobs, Files, Ingest and Generator.
func New(ctx context.Context, cfg Config, a *app.App) (*Service, error) {
	var generator llm.Model
	if a.Generator != nil {
		generator = endpoint.Generator{Client: a.Generator}
	}
	set, err := endpoint.Open(cfg.Models, generator, a.Log)
	if err != nil {
		return nil, err
	}
	records, err := server.OpenRecords(ctx, a.Conn)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, app: a, records: records, endpoints: set, queue: make(chan string, 1024)}
	s.server = &server.Server{
		Log: a.Log, Records: records, Files: a.Files, Jobs: a.Jobs, JobType: JobType, Models: models{s}, Enqueue: s.enqueue,
		May: func(ctx context.Context, id string) bool { return rpc.CallerOf(ctx).May(id) },
		Exists: func(ctx context.Context, id string) error {
			_, err := a.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/" + id})
			return err
		},
	}
	a.JobType(JobType, func(_ context.Context, j *jobv1.Job) error {
		s.enqueue(j.Name)
		return nil
	})
	s.consumer, err = events.NewConsumer[*eventv1.DocumentReady](a.Conn, "synthesis", events.HandlerFunc[*eventv1.DocumentReady](s.documentReady), events.ConsumerOptions{Concurrency: 4})
	return s, err
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	path, h := synthesisv1connect.NewSynthesisServiceHandler(s.server, srv.HandlerOptions()...)
	srv.Handle(path, h)
}

// JobHooks is how this service's jobs are retried: held jobs need nothing of their own.
func (s *Service) JobHooks() map[string]job.Hooks { return map[string]job.Hooks{JobType: {}} }

// Units are the parts of the service that run.
func (s *Service) Units() []lifecycle.Unit {
	return []lifecycle.Unit{
		{Name: "synthesis endpoints", Stop: func(context.Context) error { s.endpoints.Close(); return nil }},
		{Name: "synthesis builders", Run: s.work},
		{Name: "synthesis follower", Run: s.follow},
		{Name: "synthesis consumer", Run: s.consumer.Run, Drain: s.consumer.Drain},
	}
}

// enqueue hands a job to the builders. If they have too many, the reaper brings it again.
func (s *Service) enqueue(name string) {
	select {
	case s.queue <- name:
	default:
	}
}

// work builds data sets until ctx ends.
func (s *Service) work(ctx context.Context) error {
	var builders sync.WaitGroup
	for range s.cfg.Concurrency {
		builders.Go(func() {
			for {
				select {
				case name := <-s.queue:
					if err := s.build(ctx, name); err != nil && ctx.Err() == nil {
						s.app.Log.WarnContext(ctx, "build of data set", "job", name, "err", err)
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	builders.Wait()
	return nil
}

// build does a job. What another worker does, or what has ended, is left alone.
func (s *Service) build(ctx context.Context, name string) error {
	run, err := s.app.Jobs.Start(ctx, name)
	if k := clara.KindOf(err); err != nil && (k == clara.Conflict || k == clara.State || k == clara.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return run.Finish(s.dataset(run))
}

// documentReady marks the data sets that follow a collection.
func (s *Service) documentReady(ctx context.Context, e *eventv1.DocumentReady) error {
	all, err := s.records.List(ctx, e.Collection)
	if err != nil {
		return err
	}
	for _, d := range all {
		if !d.Follow {
			continue
		}
		_, err := s.records.Modify(ctx, d.Name, func(d *synthesisv1.Dataset) error {
			if !d.Follow {
				return events.Unchanged
			}
			d.StaleTime = timestamppb.Now()
			return nil
		})
		if err != nil && clara.KindOf(err) != clara.NotFound {
			return err
		}
	}
	return nil
}

// follow builds data sets again whose documents have changed and are left alone since.
func (s *Service) follow(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.FollowEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.followOnce(ctx); err != nil && ctx.Err() == nil {
			s.app.Log.WarnContext(ctx, "follow documents", "err", err)
		}
	}
}

func (s *Service) followOnce(ctx context.Context) error {
	all, err := s.records.List(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range all {
		if !d.Follow || d.StaleTime == nil || time.Since(d.StaleTime.AsTime()) < s.cfg.FollowQuiet {
			continue
		}
		collection, id, err := server.ParseName(d.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Replicas that look at the same time ask for the same job.
		_, err = s.server.BuildAgain(ctx, &synthesisv1.BuildDatasetRequest{
			Parent: "collections/" + collection, DatasetId: id, RequestId: fmt.Sprintf("follow-%s-%d", id, d.StaleTime.AsTime().UnixNano()),
		})
		if k := clara.KindOf(err); err != nil && k != clara.Conflict && k != clara.NotFound {
			errs = append(errs, fmt.Errorf("%s: %w", d.Name, err))
		}
	}
	return errors.Join(errs...)
}

var _ synthesisv1connect.SynthesisServiceHandler = (*server.Server)(nil)
