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
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/clara-suite/clara/libs/clara"
)

// NATS is an embedded server.
type NATS struct {
	srv *server.Server
	log *slog.Logger
}

// NATSOptions say where it keeps its data and where it listens.
type NATSOptions struct {
	// Dir holds the streams.
	Dir string
	// Listen is host:port for clients outside the process; empty: none.
	Listen string
	Log    *slog.Logger
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
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, clara.Errorf(clara.State, "start NATS in %s: %w", o.Dir, err)
	}
	srv.SetLoggerV2(natsLog{o.Log}, false, false, false)
	go srv.Start()
	for !srv.ReadyForConnections(100 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			srv.Shutdown()
			return nil, fmt.Errorf("start NATS: %w", err)
		}
		if !srv.Running() {
			return nil, clara.Errorf(clara.State, "NATS stopped while starting in %s: see the log", o.Dir)
		}
	}
	return &NATS{srv: srv, log: o.Log}, nil
}

// Conn returns a connection within the process, for nats.InProcessServer.
func (n *NATS) InProcessConn() (net.Conn, error) { return n.srv.InProcessConn() }

// URL is where clients outside the process connect; empty if it does not listen.
func (n *NATS) URL() string {
	if n.srv.Addr() == nil {
		return ""
	}
	return "nats://" + n.srv.Addr().String()
}

// Stop ends the server after its streams are on disk.
func (n *NATS) Stop() {
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
}

// natsLog passes the server's messages on; its notices are debug to us.
type natsLog struct{ log *slog.Logger }

func (l natsLog) Noticef(f string, v ...any) { l.log.Debug("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Warnf(f string, v ...any)   { l.log.Warn("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Fatalf(f string, v ...any)  { l.log.Error("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Errorf(f string, v ...any)  { l.log.Error("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Debugf(f string, v ...any)  { l.log.Debug("nats", "msg", fmt.Sprintf(f, v...)) }
func (l natsLog) Tracef(string, ...any)      {}
