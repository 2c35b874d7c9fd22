// Package app is what the programs of the suite repeat: settings, telemetry, the
// server, and the connections to NATS, the blob store, the index and the other
// services, opened in order and closed in reverse. It stands above the other
// libraries and below the services; nothing else imports it.
//
// A service's main is one call of Main. `clara up` fills App itself, with its
// embedded servers in place of addresses, and hands it to the same constructors.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/synthesis/v1/synthesisv1connect"
)

// Config is the settings that every service has.
type Config struct {
	Telemetry telemetry.Config `embed:""`
	Server    rpc.Config       `embed:""`
	NATS      events.Config    `embed:"" prefix:"nats-"`
	Client    rpc.ClientConfig `embed:"" prefix:"client-"`
	Peers     Peers            `embed:""`
	Engine    Engine           `embed:""`

	BlobURL     string        `help:"Store of files, passages and models: file:///folder or s3://bucket?region=.." env:"CLARA_BLOB_URL" default:"file:///var/lib/clara"`
	ModelCache  string        `help:"Folder for model packages fetched from a store that is no folder." env:"CLARA_MODEL_CACHE" placeholder:"DIR"`
	IndexAddr   string        `help:"gRPC address of Qdrant, host:port." env:"CLARA_INDEX_ADDR,QDRANT_ADDR" default:"127.0.0.1:6334"`
	IndexAPIKey config.Secret `help:"API key of Qdrant." env:"CLARA_INDEX_API_KEY"`
	Wait        time.Duration `help:"How long to wait for NATS and the index at start." env:"CLARA_WAIT" default:"60s"`
	DrainDelay  time.Duration `help:"Time between not ready and draining, for load balancers to notice." env:"CLARA_DRAIN_DELAY" default:"0s"`
}

// Peers are the addresses of the services.
type Peers struct {
	IngestAddr     string `help:"Address of ingest." env:"CLARA_INGEST_ADDR" default:"http://127.0.0.1:7411"`
	CompressorAddr string `help:"Address of compressor." env:"CLARA_COMPRESSOR_ADDR" default:"http://127.0.0.1:7420"`
	RerankerAddr   string `help:"Address of reranker." env:"CLARA_RERANKER_ADDR" default:"http://127.0.0.1:7430"`
	GeneratorAddr  string `help:"Address of generator." env:"CLARA_GENERATOR_ADDR" default:"http://127.0.0.1:7440"`
	TrainerAddr    string `help:"Address of trainer." env:"CLARA_TRAINER_ADDR" default:"http://127.0.0.1:7413"`
}

// Engine is how models run.
type Engine struct {
	Device      string  `help:"Where models run: ${enum}; auto takes CUDA where it is." enum:"auto,cpu,cuda" default:"auto" env:"CLARA_DEVICE"`
	Threads     int     `help:"Threads of a model run; 0: one for each core." env:"CLARA_THREADS"`
	Context     int     `help:"Most tokens of a prompt and its answer; 0: 4096, or the model's own if that is less." env:"CLARA_CONTEXT"`
	Streams     int     `help:"Requests that generate at once; 0: 8." env:"CLARA_STREAMS"`
	CacheMiB    int64   `name:"cache-mib" help:"Most memory for keys and values, in MiB; 0: 2048." env:"CLARA_CACHE_MIB"`
	BatchTokens int     `help:"Tokens of a batch that is compressed at once; 0: 2048." env:"CLARA_BATCH_TOKENS"`
	QueueTokens int     `help:"Tokens that may wait before requests are refused as busy; 0: 64 batches." env:"CLARA_QUEUE_TOKENS"`
	Slowdown    float64 `help:"Times longer than alone that a request may take beside others before it is refused as busy; 0: 2." env:"CLARA_SLOWDOWN"`
}

// Options returns the engine's options.
func (e Engine) Options() infer.Options {
	return infer.Options{Context: e.Context, Streams: e.Streams, CacheBytes: e.CacheMiB << 20, BatchTokens: e.BatchTokens, QueueTokens: e.QueueTokens, Slowdown: e.Slowdown,
		Runtime: ort.Options{Threads: e.Threads, Provider: ort.Provider(e.Device)}}
}

// Validate gathers what is wrong with the settings in themselves.
func (e Engine) Validate() error {
	var faults []error
	for _, x := range []struct {
		name  string
		value int64
	}{{"threads", int64(e.Threads)}, {"context", int64(e.Context)}, {"streams", int64(e.Streams)}, {"cache-mib", e.CacheMiB}, {"batch-tokens", int64(e.BatchTokens)}, {"queue-tokens", int64(e.QueueTokens)}} {
		if x.value < 0 {
			faults = append(faults, fmt.Errorf("%s %d: must not be negative", x.name, x.value))
		}
	}
	if e.Slowdown != 0 && e.Slowdown < 1 {
		faults = append(faults, fmt.Errorf("slowdown %g: must be 1 or more", e.Slowdown))
	}
	return errors.Join(faults...)
}

// App is a process with its connections. Fields that a process does not need may be nil.
type App struct {
	Tel    *telemetry.Telemetry
	Log    *slog.Logger
	Ready  *lifecycle.Readiness
	Server *rpc.Server

	Conn     *events.Conn
	Jobs     *job.Jobs
	Files    *blob.Bucket
	Packages *modelstore.Store
	Index    *index.Client
	Host     *host.Host

	Ingest     ingestv1connect.IngestServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	Reranker   rerankerv1connect.RerankerServiceClient
	Generator  generatorv1connect.GeneratorServiceClient
	Models     modelv1connect.ModelServiceClient

	resume map[string]func(context.Context, *jobv1.Job) error
	close  []lifecycle.Unit
}

// JobType says which service does a type of job, and how it is resumed when its worker is gone; nil for open jobs.
func (a *App) JobType(kind string, resume func(context.Context, *jobv1.Job) error) {
	a.resume[kind] = resume
}

// Dial fills the clients of the other services: dial returns the client for an address.
func (a *App) Dial(p Peers, dial func(addr string) (*rpc.Client, error)) error {
	var errs []error
	each := func(addr string, use func(*rpc.Client)) {
		c, err := dial(addr)
		if err != nil {
			errs = append(errs, err)
			return
		}
		use(c)
	}
	each(p.IngestAddr, func(c *rpc.Client) { a.Ingest = ingestv1connect.NewIngestServiceClient(c.HTTP, c.URL, c.Options()...) })
	each(p.CompressorAddr, func(c *rpc.Client) {
		a.Compressor = compressorv1connect.NewCompressorServiceClient(c.HTTP, c.URL, c.Options()...)
	})
	each(p.RerankerAddr, func(c *rpc.Client) {
		a.Reranker = rerankerv1connect.NewRerankerServiceClient(c.HTTP, c.URL, c.Options()...)
	})
	each(p.GeneratorAddr, func(c *rpc.Client) {
		a.Generator = generatorv1connect.NewGeneratorServiceClient(c.HTTP, c.URL, c.Options()...)
	})
	each(p.TrainerAddr, func(c *rpc.Client) { a.Models = modelv1connect.NewModelServiceClient(c.HTTP, c.URL, c.Options()...) })
	return errors.Join(errs...)
}

// New starts telemetry and makes a server. name is the program's.
func New(ctx context.Context, name string, tel telemetry.Config, server rpc.Config, logs io.Writer) (*App, error) {
	t, err := telemetry.Start(ctx, name, telemetry.Version, tel, logs)
	if err != nil {
		return nil, err
	}
	t.Install()
	a := &App{Tel: t, Log: t.Log, Ready: &lifecycle.Readiness{}, resume: map[string]func(context.Context, *jobv1.Job) error{}}
	a.onStop("telemetry", t.Shutdown)
	a.Server, err = rpc.NewServer(server, rpc.Options{
		Log: a.Log, Tracer: t.Tracer, Meter: t.Meter, Propagator: t.Propagator, Metrics: t.Handler, Readiness: a.Ready,
		Lists: []string{ingestv1connect.IngestServiceListCollectionsProcedure, synthesisv1connect.SynthesisServiceListDatasetsProcedure},
	})
	return a, err
}

func (a *App) onStop(name string, stop func(context.Context) error) {
	a.close = append(a.close, lifecycle.Unit{Name: name, Stop: stop})
}

// OnStop adds something that is stopped after all units of services.
func (a *App) OnStop(name string, stop func(context.Context) error) { a.onStop(name, stop) }

// OpenEvents connects to NATS and opens the jobs. owned are the types of job that this process does.
func (a *App) OpenEvents(ctx context.Context, cfg events.Config, inProcess events.InProcess, owned ...string) error {
	var err error
	a.Conn, err = events.Connect(ctx, cfg, events.Options{
		Name: "clara", InProcess: inProcess, Log: a.Log, Tracer: a.Tel.Tracer, Meter: a.Tel.Meter, Propagator: a.Tel.Propagator,
		OnState: func(reason error) { a.Ready.Set("events", reason) },
	})
	if err != nil {
		return err
	}
	a.Ready.Set("events", nil)
	a.onStop("events", a.Conn.Close)
	a.Jobs, err = job.Open(ctx, a.Conn, job.Options{Log: a.Log, Owned: owned, Resume: func(ctx context.Context, j *jobv1.Job) error {
		if resume := a.resume[j.Type]; resume != nil {
			return resume(ctx, j)
		}
		return clara.Errorf(clara.Unsupported, "jobs of type %s can't be resumed: start the work again", j.Type)
	}})
	return err
}

// OpenFiles opens the blob store and the model packages in it.
func (a *App) OpenFiles(ctx context.Context, url, modelCache string) error {
	var err error
	if a.Files, err = blob.Open(ctx, url); err != nil {
		return err
	}
	a.onStop("files", func(context.Context) error { return a.Files.Close() })
	if modelCache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			dir = os.TempDir()
		}
		modelCache = filepath.Join(dir, "clara", "packages")
	}
	a.Packages = modelstore.New(a.Files, modelCache)
	return nil
}

// OpenIndex connects to Qdrant, or to a server of its protocol in this process, waiting for it as long as wait.
func (a *App) OpenIndex(ctx context.Context, o index.Options, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(wait, time.Second))
	defer cancel()
	for {
		var err error
		if a.Index, err = index.Open(ctx, o); err == nil {
			a.onStop("index", func(context.Context) error { return a.Index.Close() })
			return nil
		}
		if clara.KindOf(err) != clara.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// OpenHost makes the host of the engines that the services of this process share.
func (a *App) OpenHost(e Engine) {
	a.Host = host.New(host.Options{Dir: a.Packages.Dir, Engine: e.Options(), Log: a.Log})
	a.onStop("models", a.Host.Close)
}

// Run serves until a signal or the first failure, and returns the program's exit code. Units run in the order
// given; connections close after them.
func (a *App) Run(ctx context.Context, drainDelay time.Duration, units []lifecycle.Unit) int {
	all := append([]lifecycle.Unit{}, a.close...)
	if a.Jobs != nil {
		all = append(all, lifecycle.Unit{Name: "jobs", Run: a.Jobs.Run})
	}
	if a.Host != nil {
		all = append(all, lifecycle.Unit{Name: "host", Run: a.Host.Run})
	}
	// In-memory clients need the server before the units that call it; callers from outside see it when all is ready.
	all = append(all, lifecycle.Unit{Name: "server", Start: a.Server.Start, Run: a.Server.Run, Drain: a.Server.Drain, Stop: a.Server.Stop})
	all = append(all, units...)
	err := lifecycle.Run(ctx, lifecycle.Options{Log: a.Log, Readiness: a.Ready, DrainDelay: drainDelay}, all...)
	if err != nil {
		a.Log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// Service is what Main runs: its settings, the types of job it does, and its constructor.
type Service struct {
	Name, Description string
	// Listen is the address used where none is set.
	Listen string
	// Settings is a pointer to the service's settings struct, in which Config is embedded.
	Settings any
	Config   *Config
	JobTypes []string
	// Events, Index and Engine say which connections the service needs besides files and peers.
	Events, Index, Engine bool
	// Build makes the service on the connections, mounts it on a.Server and returns its units.
	Build func(ctx context.Context, a *App) ([]lifecycle.Unit, error)
}

// Main runs a service and returns the exit code.
func Main(s Service) int {
	if len(os.Args) == 2 && os.Args[1] == "health" {
		return health()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed, err := config.Parse(s.Settings, config.Options{Name: s.Name, Description: s.Description, Version: telemetry.Version, Args: os.Args[1:],
		Kong: []kong.Option{kong.Vars{"listen": s.Listen}}})
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
		return 2
	}
	cfg := s.Config
	a, err := New(ctx, s.Name, cfg.Telemetry, cfg.Server, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
		return 2
	}
	for _, w := range parsed.Warnings {
		a.Log.Warn("setting not used", "what", w)
	}
	units, err := s.open(ctx, a)
	if err != nil {
		a.Log.Error("start", "err", err)
		return 1
	}
	// From here on lifecycle waits for signals itself: the first asks to stop, the second to hurry.
	stop()
	return a.Run(context.Background(), cfg.DrainDelay, units)
}

func (s Service) open(ctx context.Context, a *App) ([]lifecycle.Unit, error) {
	cfg := s.Config
	if err := a.OpenFiles(ctx, cfg.BlobURL, cfg.ModelCache); err != nil {
		return nil, err
	}
	if s.Events {
		nats := cfg.NATS
		nats.Wait = max(nats.Wait, cfg.Wait)
		if err := a.OpenEvents(ctx, nats, nil, s.JobTypes...); err != nil {
			return nil, err
		}
	}
	if s.Index {
		if err := a.OpenIndex(ctx, index.Options{Addr: cfg.IndexAddr, APIKey: cfg.IndexAPIKey.Reveal()}, cfg.Wait); err != nil {
			return nil, err
		}
	}
	if s.Engine {
		a.OpenHost(cfg.Engine)
	}
	if err := a.Dial(cfg.Peers, func(addr string) (*rpc.Client, error) {
		return rpc.Dial(addr, cfg.Client, rpc.ClientOptions{Tracer: a.Tel.Tracer, Meter: a.Tel.Meter, Propagator: a.Tel.Propagator})
	}); err != nil {
		return nil, err
	}
	return s.Build(ctx, a)
}

// health asks the service of this container whether it is ready: images have no shell tools.
func health() int {
	addr := os.Getenv("CLARA_LISTEN")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "health: CLARA_LISTEN %q is no host:port\n", addr)
		return 2
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get("http://" + net.JoinHostPort(host, port) + "/readyz")
	if err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		return 1
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		fmt.Fprintln(os.Stderr, "health:", strings.TrimSpace(string(body)))
		return 1
	}
	return 0
}

// MayJob reports whether the caller may see a job: one on a collection is for those who may see the collection,
// any other for holders of a token for all.
func MayJob(ctx context.Context, j *jobv1.Job) bool {
	id, ok := strings.CutPrefix(j.Target, "collections/")
	if !ok {
		id = "*"
	}
	return rpc.CallerOf(ctx).May(id)
}
