package index_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/index/indextest"
)

func serve(t *testing.T) *embedded.Server {
	t.Helper()
	s, err := embedded.Open(embedded.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func open(t *testing.T, o index.Options) *index.Client {
	t.Helper()
	c, err := index.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func TestInProcess(t *testing.T) { indextest.Run(t, open(t, index.Options{Dial: serve(t).Dial})) }

func TestOverTCP(t *testing.T) {
	s, l := serve(t), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, embedded.ServeOptions{APIKey: "secret"}) }()
	c := open(t, index.Options{Addr: l.Addr().String(), APIKey: "secret"})
	c.AsQdrant()
	indextest.Run(t, c)
	_, err := index.Open(ctx, index.Options{Addr: l.Addr().String(), APIKey: "wrong"})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "API key")
	cancel()
	require.NoError(t, <-ended)
}

func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer web.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(web.Certificate())
	client := &tls.Config{RootCAs: trusted, ServerName: "example.com", MinVersion: tls.VersionTLS12}

	s, l := serve(t), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Serve(ctx, l, embedded.ServeOptions{TLS: &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}})
	}()
	c := open(t, index.Options{Addr: l.Addr().String(), TLS: client})
	require.NoError(t, c.Health(ctx))
	_, err := index.Open(ctx, index.Options{Addr: l.Addr().String(), TLS: &tls.Config{MinVersion: tls.VersionTLS12}})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err), "an unknown certificate: %v", err)
	_, err = index.Open(ctx, index.Options{Addr: web.Listener.Addr().String(), TLS: client})
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "HTTP over TLS: %v", err)
	cancel()
	require.NoError(t, <-ended)
}

// TestContract runs the suite on a real server: make contract QDRANT_ADDR=host:6334.
func TestContract(t *testing.T) {
	addr := os.Getenv("QDRANT_ADDR")
	if addr == "" {
		t.Skip("not run against a real Qdrant: set QDRANT_ADDR to its host:port (gRPC)")
	}
	indextest.Run(t, open(t, index.Options{Addr: addr, APIKey: os.Getenv("QDRANT_API_KEY")}))
}

func TestOpenFaults(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	free := listen(t)
	require.NoError(t, free.Close())
	silent := listen(t) // takes connections and never answers
	defer func() { assert.NoError(t, silent.Close()) }()

	for _, c := range []struct {
		name, addr string
		kind       clara.Kind
		text       string
	}{
		{"an HTTP port", web.Listener.Addr().String(), clara.Invalid, "6334"},
		{"nothing there", free.Addr().String(), clara.Unavailable, free.Addr().String()},
		{"no answer", silent.Addr().String(), clara.Unavailable, silent.Addr().String()},
		{"no port", "localhost", clara.Invalid, "host:port"},
		{"no number", "localhost:grpc", clara.Invalid, "grpc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := index.Open(t.Context(), index.Options{Addr: c.addr, Timeout: 500 * time.Millisecond})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
			assert.ErrorContains(t, err, c.text)
		})
	}
}
