// Package embed runs the servers that `clara up` brings along: NATS with
// JetStream on disk. The index server is libs/index/embedded. Both speak the
// same protocols as their big counterparts, so the rest of the suite can't tell.
package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/disk"
)

// NATS is an embedded server. A stream that could not be written stays closed until its server starts again, so
// after a full disk Run starts it again by itself; clients reconnect.
type NATS struct {
	opts   server.Options
	log    *slog.Logger
	state  func(error)
	broken atomic.Bool // a write of a stream has failed

	mu  sync.Mutex
	srv *server.Server
}

// NATSOptions say where it keeps its data and where it listens.
type NATSOptions struct {
	// Dir holds the streams.
	Dir string
	// Listen is host:port for clients outside the process; empty: none.
	Listen string
	Log    *slog.Logger
	// OnState is told why nothing can be stored, and nil when it can be again. Optional.
	OnState func(error)
}

// StartNATS starts the server and returns when it takes connections.
// Errors: Invalid for an address, State for a port in use or a folder that can't be written.
func StartNATS(ctx context.Context, o NATSOptions) (*NATS, error) {
	opts := &server.Options{
		ServerName: "clara", JetStream: true, StoreDir: o.Dir, NoSigs: true, NoLog: false,
		// JetStream acknowledges before it syncs unless told otherwise: a power cut would lose accepted work.
		SyncAlways: true,
		MaxPayload: 1 << 20, DontListen: o.Listen == "",
		JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 1 << 40,
	}
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "NATS address %q: %w; want host:port", o.Listen, err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, clara.Errorf(clara.Invalid, "NATS address %q: port %q is no number", o.Listen, port)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// The server itself would only log a port in use and stop; a look first gives the clear error.
		l, err := net.Listen("tcp", o.Listen)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, clara.Errorf(clara.State, "listen on %s for NATS: the port is in use by another program; stop it or choose another with --nats-listen", o.Listen)
		}
		if err != nil {
			return nil, clara.Errorf(clara.State, "listen on %s for NATS: %w; give another address with --nats-listen", o.Listen, err)
		}
		l.Close()
	}
	n := &NATS{opts: *opts, log: o.Log, state: o.OnState}
	if n.state == nil {
		n.state = func(error) {}
	}
	if err := n.start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// start starts a server and returns when it takes connections.
func (n *NATS) start(ctx context.Context) error {
	opts := n.opts // a server changes its options
	srv, err := server.NewServer(&opts)
	if err != nil {
		return clara.Errorf(clara.State, "start NATS in %s: %w", opts.StoreDir, err)
	}
	srv.SetLoggerV2(natsLog{n.log, &n.broken}, false, false, false)
	go srv.Start()
	for !srv.ReadyForConnections(100 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			srv.Shutdown()
			return fmt.Errorf("start NATS: %w", err)
		}
		if !srv.Running() {
			return clara.Errorf(clara.State, "NATS stopped while starting in %s: see the log", opts.StoreDir)
		}
	}
	if addr, ok := srv.Addr().(*net.TCPAddr); ok {
		n.opts.Port = addr.Port // a random port stays the same for clients that reconnect
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.srv = srv
	return nil
}

func (n *NATS) server() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.srv
}

// Run starts the server again when a full disk has closed a stream and there is room once more. It ends with ctx.
func (n *NATS) Run(ctx context.Context) error {
	const every = 2 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !n.broken.Load() {
			continue
		}
		if err := disk.Room(n.opts.StoreDir, 0); err != nil {
			if !told {
				n.log.Error("events can't be stored", "err", err)
				n.state(err)
			}
			told = true
			continue
		}
		n.log.Info("starting NATS again: a stream was closed after a write that failed")
		n.broken.Store(false)
		n.Stop()
		if err := n.start(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		n.state(nil)
		told = false
	}
}

// InProcessConn returns a connection within the process, for nats.InProcessServer.
func (n *NATS) InProcessConn() (net.Conn, error) { return n.server().InProcessConn() }

// URL is where clients outside the process connect; empty if it does not listen.
func (n *NATS) URL() string {
	if n.server().Addr() == nil {
		return ""
	}
	return "nats://" + n.server().Addr().String()
}

// Stop ends the server after its streams are on disk.
func (n *NATS) Stop() {
	srv := n.server()
	srv.Shutdown()
	srv.WaitForShutdown()
}

// natsLog passes the server's messages on; its notices are debug to us.
type natsLog struct {
	log    *slog.Logger
	broken *atomic.Bool // set when a write of a stream has failed
}

func (l natsLog) Noticef(f string, v ...any) { l.log.Debug("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Warnf(f string, v ...any)   { l.log.Warn("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Fatalf(f string, v ...any)  { l.log.Error("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Debugf(f string, v ...any)  { l.log.Debug("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Tracef(string, ...any)      {}

// Errorf also looks for writes that failed: the server has no other way of telling. Of what repeats one line is enough.
func (l natsLog) Errorf(f string, v ...any) {
	msg := fmt.Sprintf(f, v...)
	full := strings.Contains(msg, syscall.ENOSPC.Error()) || strings.Contains(msg, syscall.EDQUOT.Error())
	if full && l.broken.Swap(true) {
		return
	}
	l.log.Error("nats", "msg", msg)
}
