package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/telemetry"
)

// Wait waits until the suite is ready.
type Wait struct {
	Timeout time.Duration `help:"How long." default:"60s"`
	PID     int           `name:"pid" help:"Give up when this process ends." placeholder:"PID"`
}

// Run polls readiness.
func (w *Wait) Run(ctx context.Context, e *Env) error {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	client := http.Client{Timeout: 2 * time.Second}
	last := "no answer"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(e.Addr, "/")+"/readyz", nil)
		if err != nil {
			return clara.Errorf(clara.Invalid, "address %q: %w", e.Addr, err)
		}
		resp, err := client.Do(req)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = strings.TrimSpace(string(body))
		} else {
			last = err.Error()
		}
		if w.PID > 0 && syscall.Kill(w.PID, 0) != nil {
			return clara.Errorf(clara.Unavailable, "process %d has ended", w.PID)
		}
		select {
		case <-ctx.Done():
			return clara.Errorf(clara.Unavailable, "%s is not ready after %s: %s", e.Addr, w.Timeout, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Events publishes events by hand.
type Events struct {
	Publish EventsPublish `cmd:"" help:"Publish an event, such as clara.ingest.requested.v1."`
	Dead    EventsDead    `cmd:"" help:"List events that were given up, with the reason."`
	Replay  EventsReplay  `cmd:"" help:"Try an event that was given up once more."`
}

// eventsConn connects to NATS, as it is.
func eventsConn(ctx context.Context, cfg events.Config) (*events.Conn, error) {
	cfg.Wait = min(cfg.Wait, 5*time.Second)
	return events.Connect(ctx, cfg, events.Options{Name: "clara cli"})
}

// EventsPublish publishes one event.
type EventsPublish struct {
	NATS    events.Config `embed:"" prefix:"nats-"`
	Subject string        `arg:"" help:"Subject, with or without the collection at its end."`
	Event   string        `arg:"" help:"The event as JSON; - reads it from standard input."`
}

// Run checks the event and publishes it.
func (p *EventsPublish) Run(ctx context.Context, e *Env) error {
	data := []byte(p.Event)
	if p.Event == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(os.Stdin, 1<<20)); err != nil {
			return clara.Errorf(clara.Invalid, "read event: %w", err)
		}
	}
	conn, err := eventsConn(ctx, p.NATS)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := conn.PublishJSON(ctx, p.Subject, data); err != nil {
		return err
	}
	if e.JSON {
		return json.NewEncoder(e.Out).Encode(map[string]string{"published": p.Subject})
	}
	fmt.Fprintf(e.Out, "published to %s\n", p.Subject)
	return nil
}

// EventsDead lists dead letters.
type EventsDead struct {
	NATS    events.Config `embed:"" prefix:"nats-"`
	Service string        `help:"Only those of this service."`
}

// Run prints a row an event.
func (d *EventsDead) Run(ctx context.Context, e *Env) error {
	conn, err := eventsConn(ctx, d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var rows [][]string
	err = conn.Dead(ctx, d.Service, func(x events.DeadLetter) error {
		if e.JSON {
			return json.NewEncoder(e.Out).Encode(deadJSON(x))
		}
		rows = append(rows, []string{fmt.Sprint(x.Sequence), x.Service, x.Subject, x.Time.Local().Format(time.DateTime), x.Reason})
		return nil
	})
	if err != nil || e.JSON {
		return err
	}
	table(e.Out, []string{"NUMBER", "SERVICE", "SUBJECT", "GIVEN UP", "REASON"}, rows)
	return nil
}

// deadJSON has the keys of the rest of the output, and the event as it was sent.
func deadJSON(x events.DeadLetter) map[string]any {
	var event any = string(x.Data)
	if json.Valid(x.Data) {
		event = json.RawMessage(x.Data)
	}
	return map[string]any{
		"number": x.Sequence, "service": x.Service, "subject": x.Subject, "collection": x.Collection, "reason": x.Reason,
		"kind": x.Kind, "attempts": x.Attempts, "time": x.Time, "event": event,
	}
}

// EventsReplay tries dead letters again.
type EventsReplay struct {
	NATS   events.Config `embed:"" prefix:"nats-"`
	Number []uint64      `arg:"" help:"Numbers as events dead prints them."`
}

// Run puts each event back.
func (r *EventsReplay) Run(ctx context.Context, e *Env) error {
	conn, err := eventsConn(ctx, r.NATS)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, n := range r.Number {
		if err := conn.Replay(ctx, n); err != nil {
			return err
		}
		if e.JSON {
			if err := json.NewEncoder(e.Out).Encode(map[string]uint64{"replayed": n}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(e.Out, "replayed %d\n", n)
	}
	return nil
}

// Index runs the index server alone.
type Index struct {
	Serve IndexServe `cmd:"" help:"Serve the embedded index over Qdrant's gRPC protocol, in place of Qdrant."`
}

// IndexServe serves an index folder over TCP.
type IndexServe struct {
	Telemetry telemetry.Config `embed:""`
	Dir       string           `help:"Data folder." env:"CLARA_INDEX_DIR" default:"data/index"`
	Listen    string           `help:"Address to listen on." env:"CLARA_INDEX_LISTEN" default:"127.0.0.1:6334"`
	APIKey    config.Secret    `help:"Key that callers must give." env:"CLARA_INDEX_API_KEY"`
	Insecure  bool             `help:"Allow listening beyond loopback without a key." env:"CLARA_INSECURE"`
}

// Run serves until ctx ends.
func (s *IndexServe) Run(ctx context.Context, e *Env) error {
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return clara.Errorf(clara.Invalid, "listen %q: want host:port", s.Listen)
	}
	if ip := net.ParseIP(host); s.APIKey == "" && !s.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return clara.Errorf(clara.Invalid, "--listen %s can be reached from other machines, but no key is set: set --api-key, listen on 127.0.0.1, or allow it with --insecure", s.Listen)
	}
	tel, err := telemetry.Start(ctx, "clara-index", telemetry.Version, s.Telemetry, e.Err)
	if err != nil {
		return err
	}
	defer tel.Shutdown(context.WithoutCancel(ctx))
	if err := os.MkdirAll(s.Dir, 0o750); err != nil {
		return clara.Errorf(clara.State, "make index folder: %w", err)
	}
	srv, err := embedded.Open(embedded.Options{Dir: s.Dir, Log: tel.Log})
	if err != nil {
		return err
	}
	defer srv.Close()
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return clara.Errorf(clara.State, "listen on %s: %w; choose another address with --listen", s.Listen, err)
	}
	tel.Log.Info("index serves", "addr", l.Addr().String(), "dir", filepath.Clean(s.Dir))
	return srv.Serve(ctx, l, embedded.ServeOptions{APIKey: s.APIKey.Reveal()})
}
