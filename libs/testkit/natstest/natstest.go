// Package natstest runs a real NATS server with JetStream inside a test, set as
// the suite sets it: on disk, synced on every write, reached in process. For
// tests only.
package natstest

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/events"
)

// ServerOptions are the settings of an embedded server that keeps its state below dir: no port, JetStream
// with every write synced before it is acknowledged.
func ServerOptions(dir string) *server.Options {
	return &server.Options{
		ServerName:      "clara",
		DontListen:      true,
		JetStream:       true,
		StoreDir:        dir,
		SyncAlways:      true,
		NoSigs:          true,
		NoLog:           true,
		NoSystemAccount: false,
	}
}

// Server is a NATS server of one test.
type Server struct {
	*server.Server
	t    testing.TB
	dir  string
	port int
}

// Start runs a server below t.TempDir and stops it with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir()}
	s.start()
	t.Cleanup(func() { s.Server.Shutdown(); s.Server.WaitForShutdown() })
	return s
}

// StartListening is Start with a TCP port of 127.0.0.1, for clients of other processes and for
// connections that must break.
func StartListening(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), port: server.RANDOM_PORT}
	s.start()
	t.Cleanup(func() { s.Server.Shutdown(); s.Server.WaitForShutdown() })
	return s
}

func (s *Server) start() {
	s.t.Helper()
	opts := ServerOptions(s.dir)
	if s.port != 0 {
		opts.DontListen, opts.Host, opts.Port = false, "127.0.0.1", s.port
	}
	srv, err := server.NewServer(opts)
	require.NoError(s.t, err)
	srv.Start()
	require.True(s.t, srv.ReadyForConnections(10*time.Second), "the NATS server must start")
	s.Server = srv
	if s.port == server.RANDOM_PORT {
		s.port = opts.Port
	}
}

// Restart stops the server and starts it again on the same state and port.
func (s *Server) Restart() {
	s.t.Helper()
	s.Server.Shutdown()
	s.Server.WaitForShutdown()
	s.start()
}

// Connect connects to the server in process with the suite's topology, or the one in opts, and closes
// with the test.
func (s *Server) Connect(opts events.Options) *events.Conn {
	s.t.Helper()
	cfg := events.Config{Wait: 10 * time.Second}
	if s.port != 0 {
		cfg.URL = s.Server.ClientURL()
	} else {
		opts.InProcess = s.Server
	}
	if _, bench := s.t.(*testing.B); opts.Log == nil && !bench {
		opts.Log = slog.New(slog.NewTextHandler(testWriter{s.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	conn, err := events.Connect(s.t.Context(), cfg, opts)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server may be gone already
	})
	return conn
}

// testWriter sends the log to the test's own, as long as the test runs.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil { // ends just before the test's cleanups
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}
