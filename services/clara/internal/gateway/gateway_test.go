package gateway_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/services/clara/internal/gateway"
)

// A gateway is ready when its services are; until then it names those that are not, with their addresses.
func TestReadiness(t *testing.T) {
	var ready atomic.Bool
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("events: nats: reconnecting\n"))
		}
	}))
	service.Config.Protocols = &http.Protocols{}
	service.Config.Protocols.SetUnencryptedHTTP2(true) // as services speak
	service.Start()
	defer service.Close()
	nobody := httptest.NewServer(nil)
	nobody.Close()

	start := func(c *gateway.Cmd) *app.App {
		t.Helper()
		require.NoError(t, c.Validate())
		a, err := app.New(t.Context(), "test", telemetry.Config{LogLevel: "error", LogFormat: "text"}, rpc.Config{}, io.Discard)
		require.NoError(t, err)
		units, err := c.Mount(a)
		require.NoError(t, err)
		assert.ErrorContains(t, a.Ready.Err(""), "has not answered yet", "not ready before it has looked")
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, u := range units {
			running.Go(func() { assert.NoError(t, u.Run(ctx)) })
		}
		t.Cleanup(func() { stop(); running.Wait() })
		return a
	}
	says := func(a *app.App, name, what string) func() bool {
		return func() bool { err := a.Ready.Err(name); return err != nil && strings.HasPrefix(err.Error(), what) }
	}

	a := start(&gateway.Cmd{Peers: app.Peers{IngestAddr: service.URL, TrainerAddr: nobody.URL}})
	require.Eventually(t, says(a, "ingest", service.URL+" is not ready: events: nats: reconnecting"), 20*time.Second, 5*time.Millisecond)
	require.Eventually(t, says(a, "trainer", nobody.URL+" can't be reached: "), 20*time.Second, 5*time.Millisecond)
	assert.False(t, a.Ready.Known("synthesis"), "it was given no address")

	b := start(&gateway.Cmd{Peers: app.Peers{IngestAddr: service.URL}})
	ready.Store(true)
	require.Eventually(t, func() bool { return b.Ready.Err("") == nil }, 20*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { return a.Ready.Err("ingest") == nil }, 20*time.Second, 5*time.Millisecond)
	assert.ErrorContains(t, a.Ready.Err(""), "trainer: "+nobody.URL)

	assert.Error(t, (&gateway.Cmd{}).Validate(), "no service at all")
}
