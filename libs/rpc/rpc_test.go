package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/rpctest"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
)

const loopback = "127.0.0.1:0"

// jobs is a service whose answers the test decides.
type jobs struct {
	jobv1connect.UnimplementedJobServiceHandler
	get   func(context.Context, string) (*jobv1.Job, error)
	watch func(context.Context, *connect.ServerStream[jobv1.Job]) error
}

func (j jobs) GetJob(ctx context.Context, req *jobv1.GetJobRequest) (*jobv1.Job, error) {
	return j.get(ctx, req.GetName())
}

func (j jobs) ListJobs(ctx context.Context, req *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	job, err := j.get(ctx, req.GetTarget())
	return &jobv1.ListJobsResponse{Jobs: []*jobv1.Job{job}}, err
}

func (j jobs) WatchJob(ctx context.Context, _ *jobv1.WatchJobRequest, stream *connect.ServerStream[jobv1.Job]) error {
	return j.watch(ctx, stream)
}

func mount(h jobs) func(*rpc.Server) {
	return func(s *rpc.Server) { s.Handle(jobv1connect.NewJobServiceHandler(h, s.HandlerOptions()...)) }
}

func client(c *rpc.Client) jobv1connect.JobServiceClient {
	return jobv1connect.NewJobServiceClient(c.HTTP, c.URL, c.Options()...)
}

func dial(t *testing.T, address string, cfg rpc.ClientConfig, opts ...connect.ClientOption) jobv1connect.JobServiceClient {
	t.Helper()
	c, err := rpc.Dial(address, cfg, rpc.ClientOptions{})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return jobv1connect.NewJobServiceClient(c.HTTP, c.URL, append(c.Options(), opts...)...)
}

func echo(_ context.Context, name string) (*jobv1.Job, error) { return &jobv1.Job{Name: name}, nil }

func TestErrorsCrossTheWire(t *testing.T) {
	var fault error
	h := jobs{get: func(context.Context, string) (*jobv1.Job, error) { return nil, fault },
		watch: func(_ context.Context, s *connect.ServerStream[jobv1.Job]) error {
			if err := s.Send(&jobv1.Job{Name: "first"}); err != nil {
				return err
			}
			return fault
		}}
	var log bytes.Buffer
	s := rpctest.Serve(t, rpc.Config{Listen: loopback}, rpc.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Tracer: sdktrace.NewTracerProvider()}, mount(h))
	memory, err := s.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	clients := map[string]jobv1connect.JobServiceClient{
		"memory":  client(memory),
		"connect": dial(t, s.Addr(), rpc.ClientConfig{}),
		"grpc":    dial(t, s.Addr(), rpc.ClientConfig{}, connect.WithGRPC()),
	}
	kinds := []clara.Kind{clara.Invalid, clara.NotFound, clara.Exists, clara.State, clara.Conflict, clara.Busy, clara.Unavailable,
		clara.Unsupported, clara.Corrupt, clara.Denied, clara.Unauthenticated}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			for _, kind := range kinds {
				fault = fmt.Errorf("ask: %w", clara.Errorf(kind, "the %s thing", kind))
				_, err := c.GetJob(t.Context(), &jobv1.GetJobRequest{})
				assert.Equal(t, kind, clara.KindOf(err), "%v", err)
				assert.EqualError(t, err, "ask: the "+kind.String()+" thing")

				stream, err := c.WatchJob(t.Context(), &jobv1.WatchJobRequest{})
				require.NoError(t, err)
				assert.True(t, stream.Receive())
				assert.False(t, stream.Receive())
				assert.Equal(t, kind, clara.KindOf(stream.Err()), "%v", stream.Err())
				require.NoError(t, stream.Close())
			}
			fault = clara.BusyError(1500*time.Millisecond, "queue is full")
			_, err := c.GetJob(t.Context(), &jobv1.GetJobRequest{})
			assert.Equal(t, 1500*time.Millisecond, clara.RetryAfter(err))

			log.Reset()
			fault = errors.New("password of the database")
			_, err = c.GetJob(t.Context(), &jobv1.GetJobRequest{})
			assert.Equal(t, clara.Internal, clara.KindOf(err))
			assert.NotContains(t, err.Error(), "password")
			_, id, ok := strings.Cut(err.Error(), "internal error, trace ")
			require.True(t, ok, "%v", err)
			assert.Len(t, id, 32)
			assert.Equal(t, 1, strings.Count(log.String(), "password"), "logged once: %s", log.String())

			fault = context.DeadlineExceeded
			_, err = c.GetJob(t.Context(), &jobv1.GetJobRequest{})
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.True(t, clara.IsContext(err))
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", loopback)
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	_, err = dial(t, addr, rpc.ClientConfig{}).GetJob(t.Context(), &jobv1.GetJobRequest{})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err), "%v", err)
}

type connKey struct{}

// A server that dies in the middle of an answer is away; that is no fault within it.
func TestBrokenConnection(t *testing.T) {
	envelope := func(promised int, data string) string { return string([]byte{0, 0, 0, 0, byte(promised)}) + data }
	for _, c := range []struct{ name, body string }{
		{"before the first message", ""},
		{"within the length of a message", envelope(3, "")[:3]},
		{"within a message", envelope(100, "abc")},
		{"after a message", envelope(0, "")},
	} {
		for _, protocol := range []connect.ClientOption{connect.WithClientOptions(), connect.WithGRPC(), connect.WithGRPCWeb()} {
			t.Run(fmt.Sprintf("%s, %T", c.name, protocol), func(t *testing.T) {
				dying := http.Server{
					Protocols: new(http.Protocols),
					ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
						return context.WithValue(ctx, connKey{}, conn)
					},
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
						_, _ = io.WriteString(w, c.body)
						_ = http.NewResponseController(w).Flush()
						_ = r.Context().Value(connKey{}).(net.Conn).Close()
					}),
				}
				dying.Protocols.SetUnencryptedHTTP2(true)
				l, err := net.Listen("tcp", loopback)
				require.NoError(t, err)
				go func() { _ = dying.Serve(l) }()
				t.Cleanup(func() { _ = dying.Close() })
				stream, err := dial(t, l.Addr().String(), rpc.ClientConfig{}, protocol).WatchJob(t.Context(), &jobv1.WatchJobRequest{})
				if err == nil {
					for stream.Receive() {
						assert.Empty(t, stream.Msg().Name)
					}
					err = stream.Err()
				}
				assert.Equal(t, clara.Unavailable, clara.KindOf(err), "%v", err)
			})
		}
	}
}

func TestPanicsAreHidden(t *testing.T) {
	var log bytes.Buffer
	c, err := rpctest.Serve(t, rpc.Config{}, rpc.Options{Log: slog.New(slog.NewTextHandler(&log, nil))},
		mount(jobs{get: func(context.Context, string) (*jobv1.Job, error) { panic("secret state") }})).Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	_, err = client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
	assert.Equal(t, clara.Internal, clara.KindOf(err))
	assert.NotContains(t, err.Error(), "secret")
	assert.Contains(t, log.String(), "rpc_test.go", "the log has the stack")
}

// Services ask each other for what may not be there, every few seconds: that is no news for the log.
func TestLogLevels(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  error
		logged string
	}{
		{"not there", clara.Errorf(clara.NotFound, "no model is active"), ""},
		{"wrong", clara.Errorf(clara.Invalid, "the question is empty"), ""},
		{"not ready", clara.Errorf(clara.State, "no model is loaded"), "level=WARN"},
		{"not allowed", clara.Errorf(clara.Denied, "not yours"), "level=WARN"},
		{"ours", errors.New("disk"), "level=ERROR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			s, err := rpctest.Serve(t, rpc.Config{}, rpc.Options{Log: slog.New(slog.NewTextHandler(&log, nil))},
				mount(jobs{get: func(context.Context, string) (*jobv1.Job, error) { return nil, c.fault }})).Client(rpc.ClientConfig{}, rpc.ClientOptions{})
			require.NoError(t, err)
			_, err = client(s).GetJob(t.Context(), &jobv1.GetJobRequest{})
			require.Error(t, err)
			if c.logged == "" {
				assert.Empty(t, log.String())
				return
			}
			assert.Contains(t, log.String(), c.logged)
		})
	}
}

func TestTraceCrossesTheWire(t *testing.T) {
	var got trace.TraceID
	s := rpctest.Serve(t, rpc.Config{}, rpc.Options{Tracer: sdktrace.NewTracerProvider()}, mount(jobs{get: func(ctx context.Context, _ string) (*jobv1.Job, error) {
		got = trace.SpanContextFromContext(ctx).TraceID()
		return &jobv1.Job{}, nil
	}}))
	c, err := s.Client(rpc.ClientConfig{}, rpc.ClientOptions{Tracer: sdktrace.NewTracerProvider()})
	require.NoError(t, err)
	ctx, span := sdktrace.NewTracerProvider().Tracer("x").Start(t.Context(), "ask")
	defer span.End()
	_, err = client(c).GetJob(ctx, &jobv1.GetJobRequest{})
	require.NoError(t, err)
	assert.Equal(t, span.SpanContext().TraceID(), got)
}

func TestGRPCClientsAreServed(t *testing.T) {
	var ready lifecycle.Readiness
	ready.Set("model/x", errors.New("loading"))
	s := rpctest.Serve(t, rpc.Config{Listen: loopback}, rpc.Options{Readiness: &ready}, mount(jobs{get: func(context.Context, string) (*jobv1.Job, error) {
		return nil, clara.Errorf(clara.NotFound, "no job")
	}}))
	conn, err := grpc.NewClient(s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	err = conn.Invoke(t.Context(), "/clara.job.v1.JobService/GetJob", &jobv1.GetJobRequest{}, &jobv1.Job{})
	assert.Equal(t, codes.NotFound, status.Code(err))

	health := healthv1.NewHealthClient(conn)
	check := func(name string) string {
		res, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil {
			return status.Code(err).String()
		}
		return res.GetStatus().String()
	}
	assert.Equal(t, "NOT_SERVING", check(""))
	assert.Equal(t, "NOT_SERVING", check("model/x"))
	assert.Equal(t, "NotFound", check("nobody"))
	watch, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: "clara.job.v1.JobService"})
	require.NoError(t, err)
	res, err := watch.Recv()
	require.NoError(t, err)
	assert.Equal(t, healthv1.HealthCheckResponse_NOT_SERVING, res.GetStatus())
	ready.Set("model/x", nil)
	res, err = watch.Recv()
	require.NoError(t, err)
	assert.Equal(t, healthv1.HealthCheckResponse_SERVING, res.GetStatus())
	assert.Equal(t, "SERVING", check("clara.job.v1.JobService"))
	list, err := health.List(t.Context(), &healthv1.HealthListRequest{})
	require.NoError(t, err)
	assert.Contains(t, list.GetStatuses(), "model/x")

	stream := grpcreflect.NewClient(http2Client(), "http://"+s.Addr(), connect.WithGRPC()).NewStream(t.Context())
	names, err := stream.ListServices()
	require.NoError(t, err)
	assert.Len(t, names, 2)
	files, err := stream.FileContainingSymbol("clara.job.v1.JobService")
	require.NoError(t, err)
	assert.NotEmpty(t, files)
	_, _ = stream.Close()

	ready.Stop(errors.New("stopping"))
	require.NoError(t, s.Drain(t.Context()), "streams that watch do not hold up the drain")
	_, err = watch.Recv()
	for err == nil {
		_, err = watch.Recv()
	}
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

func http2Client() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}

func get(t *testing.T, method, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body), res.Header
}

func TestPlainHTTP(t *testing.T) {
	var ready lifecycle.Readiness
	ready.Set("events", errors.New("connecting"))
	s := rpctest.Serve(t, rpc.Config{Listen: loopback, AllowOrigins: []string{"https://app.example.com"}}, rpc.Options{Readiness: &ready,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metric 1")) })}, mount(jobs{get: echo}))
	base := "http://" + s.Addr()
	procedure := base + "/clara.job.v1.JobService/GetJob"
	tests := []struct {
		name, method, url string
		header            []string
		code              int
		body              string
	}{
		{"alive", "GET", base + "/healthz", nil, 200, "ok"},
		{"not ready", "GET", base + "/readyz", nil, 503, "events: connecting"},
		{"metrics", "GET", base + "/metrics", nil, 200, "metric 1"},
		{"call by JSON", "POST", procedure, []string{"Content-Type", "application/json"}, 200, "{}"},
		{"gRPC-Web is off", "POST", procedure, []string{"Content-Type", "application/grpc-web+proto"}, 415, "--grpc-web"},
		{"page of another origin", "POST", procedure, []string{"Content-Type", "application/json", "Origin", "https://evil.example"}, 403, "--allow-origins"},
		{"allowed page", "POST", procedure, []string{"Content-Type", "application/json", "Origin", "https://app.example.com"}, 200, "{}"},
		{"own page", "POST", procedure, []string{"Content-Type", "application/json", "Origin", base}, 200, "{}"},
		{"preflight", "OPTIONS", procedure, []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST"}, 204, ""},
		{"name that was bent to this machine", "POST", procedure, []string{"Content-Type", "application/json", "Host", "evil.example"}, 403, "localhost"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			code, body, _ := get(t, tc.method, tc.url, tc.header...)
			assert.Equal(t, tc.code, code, body)
			assert.Contains(t, body, tc.body)
		})
	}
	_, _, header := get(t, "OPTIONS", procedure, "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
	assert.Equal(t, "https://app.example.com", header.Get("Access-Control-Allow-Origin"))
	ready.Set("events", nil)
	code, _, _ := get(t, "GET", base+"/readyz")
	assert.Equal(t, 200, code)
}

func TestAllowHosts(t *testing.T) {
	serve := func(cfg rpc.Config) string {
		cfg.Listen = loopback
		return "http://" + rpctest.Serve(t, cfg, rpc.Options{}, mount(jobs{get: echo})).Addr() + "/healthz"
	}
	plain, listed := serve(rpc.Config{}), serve(rpc.Config{AllowHosts: []string{"compressor"}})
	insecure, both := serve(rpc.Config{Insecure: true}), serve(rpc.Config{Insecure: true, AllowHosts: []string{"compressor"}})
	tests := []struct {
		name, url, host string
		code            int
	}{
		{"this machine", both, "localhost:7400", 200},
		{"name in the list", listed, "compressor:8080", 200},
		{"name in the list of an insecure server", both, "compressor", 200},
		{"name outside of the list", listed, "evil.example", 403},
		{"name outside of the list of an insecure server", both, "evil.example:8080", 403},
		{"any name of an insecure server without a list", insecure, "evil.example", 200},
		{"address", listed, "192.0.2.1:8080", 403},
		{"address of an insecure server", both, "192.0.2.1:8080", 200},
		{"IPv6 address of an insecure server", both, "[2001:db8::1]:8080", 200},
		{"name without a list", plain, "compressor", 403},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			code, body, _ := get(t, "GET", tc.url, "Host", tc.host)
			assert.Equal(t, tc.code, code, body)
		})
	}
}

func TestTokens(t *testing.T) {
	all, allToken := rpc.NewToken("admin", rpc.AllCollections)
	one, oneToken := rpc.NewToken("team a", "a", "b")
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte("# tokens\n"+allToken.Line()+"\n"+oneToken.Line()+"\n"), 0o600))
	var caller rpc.Caller
	s := rpctest.Serve(t, rpc.Config{Listen: loopback, TokenFile: file}, rpc.Options{Lists: []string{"/clara.job.v1.JobService/ListJobs"}}, func(s *rpc.Server) {
		mount(jobs{get: func(ctx context.Context, name string) (*jobv1.Job, error) {
			caller = rpc.CallerOf(ctx)
			return &jobv1.Job{Name: name}, nil
		}, watch: func(context.Context, *connect.ServerStream[jobv1.Job]) error { return nil }})(s)
		s.HandleHTTP("GET /v1/models", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, rpc.CallerOf(r.Context()).Name)
		}), false)
	})
	call := func(secret, name string) error {
		_, err := dial(t, s.Addr(), rpc.ClientConfig{Token: secret}).GetJob(t.Context(), &jobv1.GetJobRequest{Name: name})
		return err
	}
	assert.Equal(t, clara.Unauthenticated, clara.KindOf(call("", "collections/a/x")))
	assert.Equal(t, clara.Unauthenticated, clara.KindOf(call("clara_wrong", "collections/a/x")))
	require.NoError(t, call(all, "jobs/x"))
	assert.Equal(t, "admin", caller.Name)
	require.NoError(t, call(one, "collections/a/x"))
	assert.True(t, caller.May("a"))
	assert.False(t, caller.May("c"))
	assert.False(t, caller.May(""))
	assert.Equal(t, clara.Denied, clara.KindOf(call(one, "collections/c/x")))
	assert.Equal(t, clara.Denied, clara.KindOf(call(one, "collections/aa/x")))
	assert.Equal(t, clara.Denied, clara.KindOf(call(one, "jobs/x")), "what names no collection needs a token for all")
	_, err := dial(t, s.Addr(), rpc.ClientConfig{Token: one}).ListJobs(t.Context(), &jobv1.ListJobsRequest{})
	require.NoError(t, err, "lists filter by themselves")
	_, err = dial(t, s.Addr(), rpc.ClientConfig{Token: one}).ListJobs(t.Context(), &jobv1.ListJobsRequest{Target: "collections/c"})
	assert.Equal(t, clara.Denied, clara.KindOf(err))
	for _, name := range []string{"collections/a", "collections/c"} {
		stream, err := dial(t, s.Addr(), rpc.ClientConfig{Token: one}).WatchJob(t.Context(), &jobv1.WatchJobRequest{Name: name})
		require.NoError(t, err)
		for stream.Receive() {
		}
		assert.Equal(t, name == "collections/c", clara.KindOf(stream.Err()) == clara.Denied, "%v", stream.Err())
	}

	code, _, _ := get(t, "GET", "http://"+s.Addr()+"/v1/models")
	assert.Equal(t, 401, code)
	code, body, _ := get(t, "GET", "http://"+s.Addr()+"/v1/models", "Authorization", "Bearer "+one)
	assert.Equal(t, 200, code)
	assert.Equal(t, "team a", body)
	code, _, _ = get(t, "GET", "http://"+s.Addr()+"/healthz")
	assert.Equal(t, 200, code, "health needs no token")
	_, err = grpcreflect.NewClient(http2Client(), "http://"+s.Addr(), connect.WithGRPC()).NewStream(t.Context()).ListServices()
	assert.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(err), "the contracts need one")

	memory, err := s.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	_, err = client(memory).GetJob(t.Context(), &jobv1.GetJobRequest{})
	assert.NoError(t, err, "calls within the process need none")
}

func TestTokenFileFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "holds no token",
		"clara_abc * admin":                      ":1: the first word must be the SHA-256",
		"#\n" + strings.Repeat("a", 64):          ":2: the second word",
		strings.Repeat("a", 63) + " * too short": "64 hex digits",
	} {
		file := filepath.Join(t.TempDir(), "tokens")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := rpc.NewServer(rpc.Config{TokenFile: file}, rpc.Options{})
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "clara_abc")
	}
}

func TestListenFaults(t *testing.T) {
	taken, err := net.Listen("tcp", loopback)
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	tests := []struct {
		name string
		cfg  rpc.Config
		want []string
	}{
		{"port in use", rpc.Config{Listen: taken.Addr().String()}, []string{taken.Addr().String(), "in use", "--ingest-listen"}},
		{"open to all", rpc.Config{Listen: "0.0.0.0:0"}, []string{"0.0.0.0:0", "--insecure", "TLS", "token"}},
		{"open to all, empty host", rpc.Config{Listen: ":0"}, []string{"--insecure"}},
		{"open to all, IPv6", rpc.Config{Listen: "[::]:0"}, []string{"--insecure"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s, err := rpc.NewServer(tc.cfg, rpc.Options{ListenFlag: "--ingest-listen"})
			require.NoError(t, err)
			err = s.Start(t.Context())
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
			for _, w := range tc.want {
				assert.ErrorContains(t, err, w)
			}
		})
	}
	s, err := rpc.NewServer(rpc.Config{Listen: "0.0.0.0:0", Insecure: true}, rpc.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Stop(t.Context()))
	_, err = rpc.NewServer(rpc.Config{Listen: "nohost", TLSCert: "x"}, rpc.Options{})
	assert.ErrorContains(t, err, "nohost")
	assert.ErrorContains(t, err, "tls-cert", "all faults at once")
}

func TestLimits(t *testing.T) {
	s := rpctest.Serve(t, rpc.Config{MaxMessage: 1, MaxTime: 50 * time.Millisecond}, rpc.Options{}, mount(jobs{get: func(ctx context.Context, _ string) (*jobv1.Job, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}))
	c, err := s.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	_, err = client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = client(c).GetJob(t.Context(), &jobv1.GetJobRequest{Name: strings.Repeat("x", 2<<20)})
	assert.Equal(t, clara.Busy, clara.KindOf(err), "%v", err)
	short, err := s.Client(rpc.ClientConfig{Timeout: 10 * time.Millisecond}, rpc.ClientOptions{})
	require.NoError(t, err)
	_, err = client(short).GetJob(t.Context(), &jobv1.GetJobRequest{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDrainWaitsForCallsInHand(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := rpctest.Serve(t, rpc.Config{Listen: loopback}, rpc.Options{}, mount(jobs{get: func(context.Context, string) (*jobv1.Job, error) {
		once.Do(func() { close(started) })
		<-release
		return &jobv1.Job{Name: "done"}, nil
	}}))
	for name, c := range map[string]jobv1connect.JobServiceClient{"port": dial(t, s.Addr(), rpc.ClientConfig{})} {
		t.Run(name, func(t *testing.T) {
			answer := make(chan error, 1)
			go func() { _, err := c.GetJob(t.Context(), &jobv1.GetJobRequest{}); answer <- err }()
			<-started
			drained := make(chan error, 1)
			go func() { drained <- s.Drain(t.Context()) }()
			close(release)
			require.NoError(t, <-answer)
			require.NoError(t, <-drained)
			_, err := c.GetJob(t.Context(), &jobv1.GetJobRequest{})
			assert.Equal(t, clara.Unavailable, clara.KindOf(err), "%v", err)
		})
	}
}

func TestBadAddresses(t *testing.T) {
	for _, a := range []string{"", "ftp://x", "http://", "a b"} {
		_, err := rpc.Dial(a, rpc.ClientConfig{}, rpc.ClientOptions{})
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "%q", a)
	}
}

func BenchmarkUnary(b *testing.B) {
	s := rpctest.Serve(b, rpc.Config{Listen: loopback}, rpc.Options{}, mount(jobs{get: echo}))
	memory, err := s.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(b, err)
	port, err := rpc.Dial(s.Addr(), rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(b, err)
	for name, c := range map[string]*rpc.Client{"memory": memory, "port": port} {
		b.Run(name, func(b *testing.B) {
			jc := client(c)
			for b.Loop() {
				_, err := jc.GetJob(b.Context(), &jobv1.GetJobRequest{Name: "jobs/x"})
				require.NoError(b, err)
			}
		})
	}
}
