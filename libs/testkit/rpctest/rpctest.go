// Package rpctest serves Connect handlers in a test through the suite's own
// server and clients, in memory or on a port of 127.0.0.1. For tests only.
package rpctest

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/rpc"
)

// Serve starts a server with the services that mount adds, and stops it with the test. cfg.Listen "" serves in
// memory only: use Server.Client.
func Serve(t testing.TB, cfg rpc.Config, opts rpc.Options, mount func(*rpc.Server)) *rpc.Server {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	s, err := rpc.NewServer(cfg, opts)
	require.NoError(t, err)
	mount(s)
	require.NoError(t, s.Start(t.Context()))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		_ = s.Stop(context.WithoutCancel(ctx))
		<-done
	})
	return s
}

// Client serves in memory what mount adds and returns a client of it.
func Client(t testing.TB, mount func(*rpc.Server)) *rpc.Client {
	t.Helper()
	c, err := Serve(t, rpc.Config{}, rpc.Options{}, mount).Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// testWriter sends the log to the test's own, as long as the test runs.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}
