package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/telemetry"
)

func TestMetricsAndLog(t *testing.T) {
	var log bytes.Buffer
	tel, err := telemetry.Start(t.Context(), "compressor", "1.2.3", telemetry.Config{LogLevel: "info", LogFormat: "json"}, &log)
	require.NoError(t, err)
	counter, err := tel.Meter.Meter("test").Int64Counter("clara_compressor_passages")
	require.NoError(t, err)
	counter.Add(t.Context(), 3)

	rec := httptest.NewRecorder()
	tel.Handler.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	assert.Contains(t, rec.Body.String(), "clara_compressor_passages_total 3")
	assert.Contains(t, rec.Body.String(), `version="1.2.3"`)
	assert.Contains(t, rec.Body.String(), "go_goroutines")

	tel.Log.Debug("hidden")
	tel.Log.Info("shown", "n", 1, "took", 1500*time.Millisecond)
	var line map[string]any
	require.NoError(t, json.Unmarshal(log.Bytes(), &line))
	assert.Equal(t, "shown", line["msg"])
	assert.Equal(t, "compressor", line["service"])
	assert.Equal(t, "1.5s", line["took"])
	ctx, span := tel.Tracer.Tracer("test").Start(t.Context(), "x")
	defer span.End()
	assert.NotEmpty(t, telemetry.TraceID(ctx), "calls have ids without a collector")
	require.NoError(t, tel.Shutdown(t.Context()))
}

// collector keeps the spans that it is sent.
type collector struct {
	tracepb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
}

func (c *collector) Export(_ context.Context, req *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			for _, span := range s.GetSpans() {
				c.names = append(c.names, span.GetName())
			}
		}
	}
	return &tracepb.ExportTraceServiceResponse{}, nil
}

func TestTracesReachTheCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var got collector
	server := grpc.NewServer()
	tracepb.RegisterTraceServiceServer(server, &got)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	var log bytes.Buffer
	tel, err := telemetry.Start(t.Context(), "x", "0", telemetry.Config{OTLPEndpoint: "http://" + l.Addr().String()}, &log)
	require.NoError(t, err)
	ctx, span := tel.Tracer.Tracer("test").Start(t.Context(), "compress")
	tel.Log.InfoContext(ctx, "within")
	assert.Contains(t, log.String(), telemetry.TraceID(ctx))
	span.End()
	stop, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_ = tel.Shutdown(stop) // metrics have no receiver here
	got.mu.Lock()
	defer got.mu.Unlock()
	assert.Equal(t, []string{"compress"}, got.names)
}

func TestBadSettings(t *testing.T) {
	for _, cfg := range []telemetry.Config{{LogLevel: "loud"}, {LogFormat: "xml"}, {OTLPEndpoint: "localhost:4317"}} {
		_, err := telemetry.Start(t.Context(), "x", "0", cfg, &bytes.Buffer{})
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "%+v", cfg)
	}
}
