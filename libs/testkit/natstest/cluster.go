package natstest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/events"
)

// Cluster is NATS servers of one test that keep copies of each other's streams, in this process, on ports of 127.0.0.1.
type Cluster struct {
	t     testing.TB
	nodes []*node
}

type node struct {
	opts server.Options
	srv  *server.Server // nil while it is stopped
}

// StartCluster runs n servers until the test ends, and returns when they have a leader.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := NewCluster(t, n)
	for i := range n {
		c.Start(i)
	}
	c.Await()
	return c
}

// NewCluster makes a cluster of n servers, none of which runs yet.
func NewCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	ports := freePorts(t, 2*n)
	var routes []*url.URL
	for i := range n {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[n+i])})
	}
	for i := range n {
		opts := ServerOptions(t.TempDir())
		opts.ServerName, opts.DontListen, opts.Host, opts.Port = fmt.Sprintf("n%d", i+1), false, "127.0.0.1", ports[i]
		opts.Cluster = server.ClusterOpts{Name: "clara", Host: "127.0.0.1", Port: ports[n+i]}
		opts.Routes = routes
		c.nodes = append(c.nodes, &node{opts: *opts})
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.Stop(i)
		}
	})
	return c
}

// freePorts returns ports of 127.0.0.1 that nobody listens on. They are below those that systems give to connections, so that
// none is taken while its server restarts.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var out []int
	for tries := 0; len(out) < n; tries++ {
		require.Less(t, tries, 1000, "no port is free")
		port := 15000 + rand.IntN(15000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		out = append(out, port)
	}
	return out
}

// Start starts server i, again on the state that it had.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	n := c.nodes[i]
	opts := n.opts // a server changes its options
	srv, err := server.NewServer(&opts)
	require.NoError(c.t, err)
	n.srv = srv
	srv.Start()
	require.True(c.t, srv.ReadyForConnections(20*time.Second), "server %d must take connections", i)
}

// Stop ends server i if it runs.
func (c *Cluster) Stop(i int) {
	if n := c.nodes[i]; n.srv != nil {
		n.srv.Shutdown()
		n.srv.WaitForShutdown()
		n.srv = nil
	}
}

// Await returns when the servers that run have chosen who leads them.
func (c *Cluster) Await() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		for _, n := range c.nodes {
			if n.srv != nil && n.srv.JetStreamIsLeader() {
				return true
			}
		}
		return false
	}, time.Minute, 10*time.Millisecond, "the cluster must have a leader")
}

// Leader returns the server that leads a stream. The test fails if there is none for long.
func (c *Cluster) Leader(stream string) int {
	c.t.Helper()
	leader := -1
	require.Eventually(c.t, func() bool {
		for i, n := range c.nodes {
			if n.srv != nil && n.srv.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
				leader = i
				return true
			}
		}
		return false
	}, time.Minute, 10*time.Millisecond, "stream %s must have a leader", stream)
	return leader
}

// Copies returns how many of the servers that run keep a stream.
func (c *Cluster) Copies(stream string) int {
	copies := 0
	for _, n := range c.nodes {
		if n.srv != nil && n.srv.JetStreamIsStreamAssigned(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			copies++
		}
	}
	return copies
}

// URL names all servers.
func (c *Cluster) URL() string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", n.opts.Port))
	}
	return strings.Join(urls, ",")
}

// Config is what a client needs that keeps a copy on every server.
func (c *Cluster) Config() events.Config {
	return events.Config{URL: c.URL(), Replicas: len(c.nodes), Wait: time.Minute}
}

// Connect connects to the cluster, and closes with the test.
func (c *Cluster) Connect(opts events.Options) *events.Conn {
	c.t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	conn, err := events.Connect(c.t.Context(), c.Config(), opts)
	require.NoError(c.t, err)
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // servers may be gone already
	})
	return conn
}
