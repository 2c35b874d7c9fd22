// Package host keeps engines for the model packages in use: it loads a package
// at its first use, hands the same engine to everybody, and closes one that
// nobody has used for a while. Moving to another package needs no more than
// asking for it: who still holds the old engine ends in peace.
//
// Safe for concurrent use. Errors are those of Options.Dir and infer.Open;
// State once the host is closed.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
)

// Options of a host.
type Options struct {
	// Dir returns the folder of a package, fetching it if it has to, and the hash of its manifest: a package
	// imported anew under its old name is another engine.
	Dir func(ctx context.Context, name string) (dir, id string, err error)
	// Engine is how engines are opened.
	Engine infer.Options
	// Idle closes engines that nobody has used for so long; 0: 10 minutes. The one used last stays open.
	Idle time.Duration
	Log  *slog.Logger
}

// Host holds the engines of this process.
type Host struct {
	opts Options

	mu     sync.Mutex
	open   map[string]*slot // by id
	latest string           // id used last
	closed bool
}

type slot struct {
	name   string
	ready  chan struct{} // closed when engine or err is set
	engine *infer.Engine
	err    error
	users  int
	used   time.Time
}

// New makes a host without engines.
func New(o Options) *Host {
	if o.Idle == 0 {
		o.Idle = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Host{opts: o, open: map[string]*slot{}}
}

// Acquire returns the engine of a package, loading it if need be. The engine stays open until release is called.
func (h *Host) Acquire(ctx context.Context, name string) (e *infer.Engine, release func(), err error) {
	dir, id, err := h.opts.Dir(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, nil, clara.Errorf(clara.Unavailable, "the service is stopping")
	}
	s := h.open[id]
	if s == nil {
		s = &slot{name: name, ready: make(chan struct{})}
		h.open[id] = s
		// Loading goes on when the caller that asked first goes away: others wait for it too.
		go h.load(context.WithoutCancel(ctx), s, id, dir)
	}
	s.users++
	s.used = time.Now()
	h.latest = id
	h.mu.Unlock()

	var once sync.Once
	release = func() {
		once.Do(func() {
			h.mu.Lock()
			s.users--
			s.used = time.Now()
			h.mu.Unlock()
		})
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		release()
		return nil, nil, fmt.Errorf("load model %s: %w", name, ctx.Err())
	}
	if s.err != nil {
		release()
		return nil, nil, s.err
	}
	return s.engine, release, nil
}

func (h *Host) load(ctx context.Context, s *slot, id, dir string) {
	begin := time.Now()
	s.engine, s.err = infer.Open(ctx, dir, h.opts.Engine)
	h.mu.Lock()
	if s.err != nil {
		delete(h.open, id) // the next caller tries again
	}
	h.mu.Unlock()
	if s.err == nil {
		provider, note := s.engine.Provider()
		h.opts.Log.Info("model loaded", "model", s.name, "device", provider, "took", time.Since(begin).Round(time.Millisecond))
		if note != "" {
			h.opts.Log.Info("no GPU is used", "model", s.name, "reason", note)
		}
	}
	close(s.ready)
}

// Models returns the names of the packages that are loaded.
func (h *Host) Models() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for _, s := range h.open {
		names = append(names, s.name)
	}
	return names
}

// Run closes engines that are idle, until ctx ends.
func (h *Host) Run(ctx context.Context) error {
	tick := time.NewTicker(h.opts.Idle / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, s := range h.takeIdle() {
				h.opts.Log.Info("model unloaded", "model", s.name)
				if err := s.engine.Close(ctx); err != nil {
					h.opts.Log.Warn("unload model", "model", s.name, "err", err)
				}
			}
		}
	}
}

// takeIdle removes the engines that may be closed.
func (h *Host) takeIdle() []*slot {
	h.mu.Lock()
	defer h.mu.Unlock()
	var idle []*slot
	for id, s := range h.open {
		if id != h.latest && s.users == 0 && time.Since(s.used) > h.opts.Idle && s.engine != nil {
			delete(h.open, id)
			idle = append(idle, s)
		}
	}
	return idle
}

// Close refuses new users and closes every engine when its work is done or ctx ends.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	open := h.open
	h.open = map[string]*slot{}
	h.mu.Unlock()
	var errs []error
	for _, s := range open {
		<-s.ready
		if s.engine != nil {
			errs = append(errs, s.engine.Close(ctx))
		}
	}
	return errors.Join(errs...)
}
