// Package up is `clara up`: all services in one process, on one data folder, with
// embedded servers for events and the index. The services are the same as in
// containers; they reach each other through the in-memory listener, NATS and the
// index through in-process connections. Only addresses differ.
package up

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/services/clara/internal/embed"
	"github.com/clara-suite/clara/services/compressor"
	"github.com/clara-suite/clara/services/generator"
	"github.com/clara-suite/clara/services/ingest"
	"github.com/clara-suite/clara/services/reranker"
	"github.com/clara-suite/clara/services/synthesis"
	"github.com/clara-suite/clara/services/trainer"
)

// Cmd is the command and its settings.
type Cmd struct {
	Data       string           `help:"Folder of all data." env:"CLARA_DATA" default:"data" placeholder:"DIR"`
	NATSListen string           `name:"nats-listen" help:"Address for NATS clients; empty: none." env:"CLARA_NATS_LISTEN" default:"127.0.0.1:4222"`
	Telemetry  telemetry.Config `embed:""`
	Server     rpc.Config       `embed:""`
	Engine     app.Engine       `embed:""`

	Ingest     ingest.Config     `embed:"" prefix:"ingest-"`
	Synthesis  synthesis.Config  `embed:"" prefix:"synthesis-"`
	Compressor compressor.Config `embed:"" prefix:"compressor-"`
	Reranker   reranker.Config   `embed:"" prefix:"reranker-"`
	Generator  generator.Config  `embed:"" prefix:"generator-"`
	Trainer    trainer.Config    `embed:"" prefix:"trainer-"`
}

// service is what each constructor returns.
type service interface {
	Mount(*rpc.Server)
	Units() []lifecycle.Unit
}

// hooked is a service whose jobs can be retried or cancelled in its own way.
type hooked interface{ JobHooks() map[string]job.Hooks }

// Serve runs the suite until a signal. It returns the exit code.
func (c *Cmd) Serve() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return 0, clara.Errorf(clara.Invalid, "data folder %s: %w", c.Data, err)
	}
	if err := os.MkdirAll(data, 0o750); err != nil {
		return 0, clara.Errorf(clara.State, "make data folder: %w; choose another with --data", err)
	}
	lock := flock.New(filepath.Join(data, "LOCK"))
	if ok, err := lock.TryLock(); err != nil {
		return 0, clara.Errorf(clara.State, "lock data folder %s: %w", data, err)
	} else if !ok {
		return 0, clara.Errorf(clara.State, "another clara up is running on data folder %s; stop it, or choose another folder with --data", data)
	}
	defer lock.Unlock()

	if len(c.Trainer.Roots) == 0 && loopback(c.Server.Listen) {
		// Callers are this machine's own users, and importing shows nothing of a file but that it is no model.
		c.Trainer.Roots = []string{"/"}
	}
	a, err := app.New(ctx, "clara", c.Telemetry, c.Server, os.Stderr)
	if err != nil {
		return 0, err
	}
	units, err := c.open(ctx, a, data)
	if err != nil {
		return 0, err
	}
	stop() // lifecycle waits for signals itself
	return a.Run(context.Background(), 0, units), nil
}

// loopback reports whether an address can't be reached from other machines.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// open starts the embedded servers, connects to them, and builds the services.
func (c *Cmd) open(ctx context.Context, a *app.App, data string) ([]lifecycle.Unit, error) {
	// Before anything is made: a port in use is the most common fault.
	nats, err := embed.StartNATS(ctx, embed.NATSOptions{
		Dir: filepath.Join(data, "nats"), Listen: c.NATSListen, Log: a.Log, OnState: func(err error) { a.Ready.Set("nats disk", err) },
	})
	if err != nil {
		return nil, err
	}
	a.OnStop("nats", func(context.Context) error { nats.Stop(); return nil })
	owned := append([]string{ingest.JobType, ingest.ModelJobType, synthesis.JobType}, trainer.JobTypes()...)
	if err := a.OpenEvents(ctx, events.Config{}, nats, owned...); err != nil {
		return nil, err
	}
	vectors, err := embedded.Open(embedded.Options{Dir: filepath.Join(data, "index"), Log: a.Log})
	if err != nil {
		return nil, err
	}
	a.OnStop("index server", func(context.Context) error { return vectors.Close() })
	if err := a.OpenIndex(ctx, index.Options{Dial: vectors.Dial}, 10*time.Second); err != nil {
		return nil, err
	}
	files := (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(data, "files"))}).String()
	if err := a.OpenFiles(ctx, files, ""); err != nil {
		return nil, err
	}
	a.OpenHost(c.Engine)
	memory := func(string) (*rpc.Client, error) {
		return a.Server.Client(rpc.ClientConfig{Timeout: 10 * time.Minute}, rpc.ClientOptions{Tracer: a.Tel.Tracer, Meter: a.Tel.Meter, Propagator: a.Tel.Propagator})
	}
	if err := a.Dial(app.Peers{}, memory); err != nil {
		return nil, err
	}
	units, err := c.build(ctx, a)
	return append([]lifecycle.Unit{{Name: "nats", Run: nats.Run}}, units...), err
}

func (c *Cmd) build(ctx context.Context, a *app.App) ([]lifecycle.Unit, error) {
	var services []service
	var errs []error
	add := func(s service, err error) {
		services = append(services, s)
		errs = append(errs, err)
	}
	add(ingest.New(ctx, c.Ingest, a))
	add(synthesis.New(ctx, c.Synthesis, a))
	add(compressor.New(ctx, c.Compressor, compressor.Deps{
		Log: a.Log, Meter: a.Tel.Meter, Conn: a.Conn, Files: a.Files, Index: a.Index, Host: a.Host, Packages: a.Packages,
		Ingest: a.Ingest, Registry: a.Models, Jobs: a.Jobs, Ready: a.Ready,
	}))
	add(reranker.New(ctx, c.Reranker, reranker.Deps{
		Log: a.Log, Meter: a.Tel.Meter, Index: a.Index, Host: a.Host, Packages: a.Packages,
		Ingest: a.Ingest, Compressor: a.Compressor, Registry: a.Models, Ready: a.Ready,
	}))
	add(generator.New(ctx, c.Generator, generator.Deps{
		Log: a.Log, Meter: a.Tel.Meter, Index: a.Index, Host: a.Host,
		Ingest: a.Ingest, Compressor: a.Compressor, Reranker: a.Reranker, Registry: a.Models, Ready: a.Ready,
	}))
	add(trainer.New(ctx, c.Trainer, a))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var units []lifecycle.Unit
	hooks := map[string]job.Hooks{}
	for _, s := range services {
		s.Mount(a.Server)
		units = append(units, s.Units()...)
		if h, ok := s.(hooked); ok {
			maps.Copy(hooks, h.JobHooks())
		}
	}
	path, h := jobv1connect.NewJobServiceHandler(job.NewHandler(a.Jobs, hooks, app.MayJob), a.Server.HandlerOptions()...)
	a.Server.Handle(path, h)
	return units, nil
}
