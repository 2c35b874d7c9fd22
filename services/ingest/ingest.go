// Package ingest is the service that owns collections, documents and passages:
// it takes files in, reads them, cuts them into passages for a model, and follows
// them until they are searchable (clara.ingest.v1).
package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/pipeline"
	"github.com/clara-suite/clara/services/ingest/internal/server"
	"github.com/clara-suite/clara/services/ingest/internal/source"
)

// Config is the settings of ingest.
type Config struct {
	Roots        []string      `help:"Folders that file URIs may reach." env:"CLARA_INGEST_ROOTS,RAW_DATA_DIR" placeholder:"DIR"`
	Watch        []string      `help:"Folders whose files are taken in as they appear." env:"CLARA_INGEST_WATCH" placeholder:"COLLECTION=DIR"`
	WatchEvery   time.Duration `help:"Time between two looks into watched folders." env:"CLARA_INGEST_WATCH_EVERY" default:"2s"`
	MaxFileBytes int64         `help:"Largest file." env:"CLARA_INGEST_MAX_FILE_BYTES" default:"1073741824"`
	MaxPages     int           `help:"Most pages read of a file." env:"CLARA_INGEST_MAX_PAGES" default:"10000"`
	PageTimeout  time.Duration `help:"Longest time for one page." env:"CLARA_INGEST_PAGE_TIMEOUT" default:"60s"`
	FileTimeout  time.Duration `help:"Longest time for one file." env:"CLARA_INGEST_FILE_TIMEOUT" default:"1h"`
	OCR          string        `name:"ocr" help:"Reading text in pictures of pages: ${enum}; auto where a page has no text." enum:"auto,never,always" default:"auto" env:"CLARA_INGEST_OCR"`
	Memories     string        `help:"How new collections keep memories: ${enum}; clara collections compare shows what each costs." enum:"fp16,int8,int4" default:"fp16" env:"CLARA_INGEST_MEMORIES"`
	Concurrency  int           `help:"Files read at once." env:"CLARA_INGEST_CONCURRENCY" default:"2"`
	SweepEvery   time.Duration `help:"Time between two comparisons of records, points and files." env:"CLARA_INGEST_SWEEP_EVERY" default:"10m"`
	Grace        time.Duration `help:"How long an index that was replaced, and anything that nothing refers to, is kept." env:"CLARA_INGEST_GRACE" default:"15m"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	var faults []error
	for _, w := range c.Watch {
		if f, err := source.ParseFolder(w); err != nil {
			faults = append(faults, err)
		} else if err := catalog.CheckCollection(f.Collection); err != nil {
			faults = append(faults, err)
		}
	}
	if c.MaxFileBytes <= 0 || c.MaxPages <= 0 || c.Concurrency <= 0 {
		faults = append(faults, errors.New("max-file-bytes, max-pages and concurrency must be positive"))
	}
	if c.WatchEvery <= 0 || c.SweepEvery <= 0 || c.Grace <= 0 {
		faults = append(faults, errors.New("watch-every, sweep-every and grace must be positive"))
	}
	return errors.Join(faults...)
}

// JobType is the type of this service's jobs; ModelJobType that of moves to another model, which it counts.
const (
	JobType      = "ingest"
	ModelJobType = "activate"
)

// Service is ingest.
type Service struct {
	cfg       Config
	app       *app.App
	catalog   *catalog.Catalog
	pipeline  *pipeline.Pipeline
	sweeper   pipeline.Sweeper
	server    *server.Server
	jobs      *jobs
	extractor *Extractor
	consumers []*events.Consumer
}

// New makes the service on open connections: App's Conn, Jobs, Files, Packages, Compressor and Models.
func New(ctx context.Context, cfg Config, a *app.App) (*Service, error) {
	roots, err := source.NewRoots(cfg.Roots)
	if err != nil {
		return nil, err
	}
	cat, err := catalog.Open(ctx, a.Conn)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, app: a, catalog: cat, jobs: newJobs(a.Jobs)}
	limits := doc.Limits{MaxBytes: cfg.MaxFileBytes, MaxPages: cfg.MaxPages, PageTimeout: cfg.PageTimeout}
	s.extractor = NewExtractor(ExtractorOptions{Timeout: cfg.FileTimeout, Workers: cfg.Concurrency, Log: a.Log})
	s.pipeline = &pipeline.Pipeline{
		Log: a.Log, Catalog: cat, Files: a.Files, Extractor: s.extractor.inner, Models: &pipeline.Models{Dir: a.Packages.Dir},
		Roots: roots, Jobs: s.jobs, Limits: limits, OCR: doc.OCRMode(cfg.OCR),
	}
	s.sweeper = pipeline.Sweeper{Pipeline: s.pipeline, Compressor: a.Compressor, Every: cfg.SweepEvery, Grace: cfg.Grace}
	s.server = &server.Server{
		Log: a.Log, Catalog: cat, Pipeline: s.pipeline, Sweeper: s.sweeper, Files: a.Files, Jobs: s.jobs, Models: a.Models, Compressor: a.Compressor,
		Precision: ingestv1.MemoryPrecision(ingestv1.MemoryPrecision_value["MEMORY_PRECISION_"+strings.ToUpper(cfg.Memories)]),
		Publish:   a.Conn.Publish, MoveJob: ModelJobType,
		MaxBytes: cfg.MaxFileBytes, May: func(ctx context.Context, id string) bool { return rpc.CallerOf(ctx).May(id) },
	}
	s.pipeline.Collection = s.server.Collection
	a.JobType(JobType, nil)
	a.JobType(ModelJobType, nil)
	return s, s.consume(a.Conn)
}

func (s *Service) consume(conn *events.Conn) error {
	requested, err := events.NewConsumer[*eventv1.IngestRequested](conn, "ingest", s.pipeline, events.ConsumerOptions{Concurrency: s.cfg.Concurrency})
	if err != nil {
		return err
	}
	indexed, err := events.NewConsumer[*eventv1.DocumentIndexed](conn, "ingest", pipeline.Indexed{Pipeline: s.pipeline}, events.ConsumerOptions{Concurrency: 4})
	if err != nil {
		return err
	}
	activated, err := events.NewConsumer[*eventv1.ModelActivated](conn, "ingest", pipeline.Activated{Pipeline: s.pipeline}, events.ConsumerOptions{})
	s.consumers = []*events.Consumer{requested, indexed, activated}
	return err
}

// Mount adds the service to a server.
func (s *Service) Mount(srv *rpc.Server) {
	path, h := ingestv1connect.NewIngestServiceHandler(s.server, srv.HandlerOptions()...)
	srv.Handle(path, h)
}

// JobHooks is how this service's jobs are retried.
func (s *Service) JobHooks() map[string]job.Hooks {
	return map[string]job.Hooks{JobType: {Retry: s.retry}}
}

// retry puts what failed in a job at the start of the pipeline once more.
func (s *Service) retry(ctx context.Context, j *jobv1.Job) error {
	var failed []*jobv1.Item
	err := s.app.Jobs.Items(ctx, j.Name, func(i *jobv1.Item) error {
		if i.State == jobv1.Job_STATE_FAILED || i.State == jobv1.Job_STATE_CANCELLED || i.State == jobv1.Job_STATE_PARTIAL {
			failed = append(failed, i)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var again int
	for _, i := range failed {
		d, err := s.catalog.LiveDocument(ctx, i.Name)
		if err != nil {
			if clara.KindOf(err) != clara.NotFound && clara.KindOf(err) != clara.Invalid {
				return err
			}
			if len(j.Spec) == 0 || i.State != jobv1.Job_STATE_FAILED {
				continue // never arrived, or deleted since: nothing is stored that could be read again
			}
			if err := s.fetchAgain(ctx, j, i); err != nil {
				return err
			}
			again++
			continue
		}
		if err := s.app.Jobs.ResetItem(ctx, j.Name, &jobv1.Item{Name: i.Name, Label: i.Label, State: jobv1.Job_STATE_PENDING, Stage: "waiting"}); err != nil {
			return err
		}
		if _, err := s.pipeline.Again(ctx, d.Name, j.Name, ""); err != nil {
			return err
		}
		again++
	}
	if again == 0 {
		return clara.Errorf(clara.State, "%s holds nothing that could be done again: files that were refused must be sent anew with clara ingest", j.Name)
	}
	return nil
}

// fetchAgain asks once more for the file of an event's job.
func (s *Service) fetchAgain(ctx context.Context, j *jobv1.Job, i *jobv1.Item) error {
	e := &eventv1.IngestRequested{}
	if err := proto.Unmarshal(j.Spec, e); err != nil {
		return clara.Errorf(clara.Corrupt, "%s: its event: %w", j.Name, err)
	}
	e.Job = j.Name
	if err := s.app.Jobs.ResetItem(ctx, j.Name, &jobv1.Item{Name: i.Name, Label: i.Label, State: jobv1.Job_STATE_PENDING, Stage: "waiting"}); err != nil {
		return err
	}
	return s.app.Conn.Publish(ctx, "", e)
}

// Units are the parts of the service that run.
func (s *Service) Units() []lifecycle.Unit {
	units := []lifecycle.Unit{
		{Name: "ingest extractor", Stop: func(context.Context) error { return s.extractor.Close() }},
		{Name: "ingest records", Run: s.catalog.Run},
		{Name: "ingest sweeper", Run: s.sweeper.Run},
	}
	for _, c := range s.consumers {
		units = append(units, lifecycle.Unit{Name: "ingest consumer", Run: c.Run, Drain: c.Drain})
	}
	for _, w := range s.cfg.Watch {
		folder, err := source.ParseFolder(w)
		if err != nil {
			continue // Validate has refused it
		}
		units = append(units, lifecycle.Unit{Name: "watch " + w, Run: func(ctx context.Context) error {
			return folder.Watch(ctx, s.cfg.WatchEvery, s.app.Log, func(ctx context.Context, path string) error { return s.found(ctx, folder, path) })
		}})
	}
	return units
}

// found takes in a file of a watched folder.
func (s *Service) found(ctx context.Context, folder source.Folder, path string) error {
	if _, err := s.server.Collection(ctx, folder.Collection); err != nil {
		return err
	}
	roots, err := source.NewRoots([]string{folder.Dir})
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(folder.Dir, path)
	if err != nil {
		return fmt.Errorf("watched file %s: %w", path, err)
	}
	label, uri := filepath.ToSlash(rel), (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
	name := catalog.DocumentName(folder.Collection, catalog.DocumentID(folder.Collection, uri))
	f, err := roots.Open(uri)
	if err != nil {
		return err
	}
	defer f.Close()
	_, hash, size, err := s.app.Files.PutContent(ctx, "files", f, s.cfg.MaxFileBytes)
	if err != nil {
		return err
	}
	d, err := s.catalog.LiveDocument(ctx, name)
	if err != nil && clara.KindOf(err) != clara.NotFound {
		return err
	}
	if d.GetContentHash() == hash && d.State != ingestv1.Document_STATE_FAILED && d.State != ingestv1.Document_STATE_CANCELLED {
		return nil // it is here, or on its way, from before a restart
	}
	job, err := s.watched(ctx, folder, label, hash)
	if err != nil {
		return err
	}
	if _, err := s.pipeline.Accept(ctx, pipeline.File{Document: name, Name: label, URI: uri, Hash: hash, Size: size, Job: job}, false); err != nil {
		return err
	}
	return s.jobs.Seal(ctx, job)
}

// watched returns the job of a file of a watched folder: one for each content, so that a file which fails has no more
// jobs after each restart.
func (s *Service) watched(ctx context.Context, folder source.Folder, label, version string) (string, error) {
	j, err := s.jobs.Start(ctx, &jobv1.Job{
		Type: JobType, Target: catalog.CollectionName(folder.Collection), Detail: label, RequestId: "watch " + folder.Dir + "\x00" + label + "\x00" + version,
	})
	return j.GetName(), err
}

var _ ingestv1connect.IngestServiceHandler = (*server.Server)(nil)
