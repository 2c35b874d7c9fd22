package synthesis_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/libs/testkit/llmtest"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
	"github.com/clara-suite/clara/proto/gen/clara/synthesis/v1/synthesisv1connect"
	"github.com/clara-suite/clara/services/synthesis"
)

// collections stands for ingest: one collection of documents.
type collections struct {
	ingestv1connect.UnimplementedIngestServiceHandler
	mu   sync.Mutex
	docs []dataset.Document
}

func (c *collections) GetCollection(_ context.Context, r *ingestv1.GetCollectionRequest) (*ingestv1.Collection, error) {
	if r.Name != "collections/plant" {
		return nil, clara.Errorf(clara.NotFound, "no collection %s", r.Name)
	}
	return &ingestv1.Collection{Name: r.Name}, nil
}

func (c *collections) ListDocuments(context.Context, *ingestv1.ListDocumentsRequest) (*ingestv1.ListDocumentsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &ingestv1.ListDocumentsResponse{}
	for _, d := range c.docs {
		out.Documents = append(out.Documents, &ingestv1.Document{Name: "collections/plant/documents/" + d.Filename, File: d.FilePath, Extract: "x", Format: "text", ContentHash: "abc"})
	}
	return out, nil
}

func (c *collections) GetMarkdown(_ context.Context, r *ingestv1.GetMarkdownRequest) (*ingestv1.GetMarkdownResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.docs {
		if r.Name == "collections/plant/documents/"+d.Filename {
			return &ingestv1.GetMarkdownResponse{Markdown: d.Content}, nil
		}
	}
	return nil, clara.Errorf(clara.NotFound, "no %s", r.Name)
}

// suite is a synthesis service on real servers, with an endpoint that misbehaves.
type suite struct {
	*app.App
	t      *testing.T
	llm    *llmtest.Server
	ingest *collections
	client synthesisv1connect.SynthesisServiceClient
	jobs   jobv1connect.JobServiceClient
}

func start(t *testing.T) *suite {
	t.Helper()
	return startWith(t, telemetry.Config{LogLevel: "error", LogFormat: "text"}, os.Stderr)
}

func startWith(t *testing.T, c telemetry.Config, log io.Writer) *suite {
	t.Helper()
	ctx := t.Context()
	a, err := app.New(ctx, "test", c, rpc.Config{}, log)
	require.NoError(t, err)
	require.NoError(t, a.OpenEvents(ctx, events.Config{}, natstest.Start(t), synthesis.JobType))
	require.NoError(t, a.OpenFiles(ctx, "file://"+filepath.ToSlash(t.TempDir()), t.TempDir()))
	require.NoError(t, a.Dial(app.Peers{}, func(string) (*rpc.Client, error) { return a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{}) }))
	s := &suite{App: a, t: t, llm: llmtest.Start(t), ingest: &collections{docs: handbook(4)}}
	svc, err := synthesis.New(ctx, synthesis.Config{Models: settings(s.llm), Concurrency: 1, FollowEvery: 10 * time.Millisecond, FollowQuiet: 50 * time.Millisecond}, a)
	require.NoError(t, err)
	svc.Mount(a.Server)
	a.Server.Handle(ingestv1connect.NewIngestServiceHandler(s.ingest, a.Server.HandlerOptions()...))
	a.Server.Handle(jobv1connect.NewJobServiceHandler(job.NewHandler(a.Jobs, svc.JobHooks(), app.MayJob), a.Server.HandlerOptions()...))
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan int)
	go func() { done <- a.Run(run, 0, svc.Units()) }()
	t.Cleanup(func() {
		stop()
		assert.Zero(t, <-done)
	})
	client, err := a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	s.client = synthesisv1connect.NewSynthesisServiceClient(client.HTTP, client.URL, client.Options()...)
	s.jobs = jobv1connect.NewJobServiceClient(client.HTTP, client.URL, client.Options()...)
	return s
}

func (s *suite) ended(j *jobv1.Job) *jobv1.Job {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	stream, err := s.jobs.WatchJob(ctx, &jobv1.WatchJobRequest{Name: j.Name})
	require.NoError(s.t, err)
	defer stream.Close()
	for stream.Receive() {
		j = stream.Msg()
	}
	require.NoError(s.t, stream.Err())
	return j
}

func (s *suite) dataset(name string) *synthesisv1.Dataset {
	s.t.Helper()
	d, err := s.client.GetDataset(s.t.Context(), &synthesisv1.GetDatasetRequest{Name: name})
	require.NoError(s.t, err)
	return d
}

const name = "collections/plant/datasets/default"

func TestServiceBuildsFollowsAndDeletes(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := t.Context()
	s.llm.Faults = llmtest.OnceEach("", llmtest.Busy, llmtest.Truncated, llmtest.NoJSON)
	j, err := s.client.BuildDataset(ctx, &synthesisv1.BuildDatasetRequest{Parent: "collections/plant", RequestId: "one", Recipe: &synthesisv1.Recipe{TopK: 3, Seed: 5}})
	require.NoError(t, err)
	same, err := s.client.BuildDataset(ctx, &synthesisv1.BuildDatasetRequest{Parent: "collections/plant", RequestId: "one", Recipe: &synthesisv1.Recipe{TopK: 3, Seed: 5}})
	require.NoError(t, err)
	assert.Equal(t, j.Name, same.Name)
	j = s.ended(j)
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, j.State, j.Error)
	d := s.dataset(name)
	assert.Equal(t, synthesisv1.Dataset_STATE_READY, d.State)
	assert.Positive(t, d.Statistics.Pairs)
	require.Len(t, d.Files, 6)

	v, err := s.client.ValidateDataset(ctx, &synthesisv1.ValidateDatasetRequest{Name: name, ExpectedTopK: 3})
	require.NoError(t, err)
	assert.True(t, v.Valid, "%v", v)
	v, err = s.client.ValidateDataset(ctx, &synthesisv1.ValidateDatasetRequest{Name: name, File: "end_to_end_data.jsonl", ExpectedTopK: 4})
	require.NoError(t, err)
	assert.False(t, v.Valid)

	stream, err := s.client.DownloadDataset(ctx, &synthesisv1.DownloadDatasetRequest{Name: name, File: "end_to_end_data.jsonl"})
	require.NoError(t, err)
	var data bytes.Buffer
	for stream.Receive() {
		data.Write(stream.Msg().Data)
	}
	require.NoError(t, stream.Err())
	assert.True(t, dataset.Check(&data, "x", dataset.EndToEnd, 3).OK())

	// Nothing is asked again for documents that have not changed.
	asked := len(s.llm.Calls())
	_, err = s.client.FollowDocuments(ctx, &synthesisv1.FollowDocumentsRequest{Name: name, Follow: true})
	require.NoError(t, err)
	s.ingest.mu.Lock()
	s.ingest.docs[1].Content = "The shaft of the new crane was changed in 2031 by the night crew, after lamp 77 went out. It had turned since 1990."
	s.ingest.mu.Unlock()
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.DocumentReady{Collection: "plant", Document: "manual_1.pdf", Revision: 2}))
	require.Eventually(t, func() bool { d := s.dataset(name); return d.Revision == 2 && d.StaleTime == nil }, 30*time.Second, 10*time.Millisecond)
	assert.Positive(t, len(s.llm.Calls())-asked)
	assert.LessOrEqual(t, len(s.llm.Calls())-asked, 3, "one chunk, asked at most three times")

	_, err = s.client.DeleteDataset(ctx, &synthesisv1.DeleteDatasetRequest{Name: name})
	require.NoError(t, err)
	_, err = s.client.GetDataset(ctx, &synthesisv1.GetDatasetRequest{Name: name})
	assert.Equal(t, clara.NotFound, clara.KindOf(err), "%v", err)
	for e, err := range s.Files.List(ctx, "datasets/") {
		require.NoError(t, err)
		t.Errorf("left behind: %s", e.Key)
	}
}

func TestServiceRefusesAndCancels(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := t.Context()
	for _, c := range []struct {
		name string
		req  *synthesisv1.BuildDatasetRequest
		kind clara.Kind
	}{
		{"no collection", &synthesisv1.BuildDatasetRequest{Parent: "collections/other"}, clara.NotFound},
		{"no name", &synthesisv1.BuildDatasetRequest{Parent: "plant"}, clara.Invalid},
		{"top k", &synthesisv1.BuildDatasetRequest{Parent: "collections/plant", Recipe: &synthesisv1.Recipe{TopK: 21}}, clara.Invalid},
		{"endpoint", &synthesisv1.BuildDatasetRequest{Parent: "collections/plant", Recipe: &synthesisv1.Recipe{Endpoint: "http://169.254.169.254"}}, clara.NotFound},
	} {
		_, err := s.client.BuildDataset(ctx, c.req)
		assert.Equal(t, c.kind, clara.KindOf(err), c.name)
	}
	s.llm.Faults = llmtest.Every(llmtest.Hang)
	j, err := s.client.BuildDataset(ctx, &synthesisv1.BuildDatasetRequest{Parent: "collections/plant"})
	require.NoError(t, err)
	_, err = s.client.BuildDataset(ctx, &synthesisv1.BuildDatasetRequest{Parent: "collections/plant"})
	assert.Equal(t, clara.Conflict, clara.KindOf(err))
	require.Eventually(t, func() bool { return len(s.llm.Calls()) > 0 }, 20*time.Second, 5*time.Millisecond)
	_, err = s.jobs.CancelJob(ctx, &jobv1.CancelJobRequest{Name: j.Name})
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, s.ended(j).State)
	require.Eventually(t, func() bool { return s.dataset(name).State == synthesisv1.Dataset_STATE_FAILED }, 20*time.Second, 5*time.Millisecond)

	list, err := s.client.ListEndpoints(ctx, &synthesisv1.ListEndpointsRequest{})
	require.NoError(t, err)
	assert.Equal(t, "writer", list.Endpoints[0].Model)
	assert.NotContains(t, list.String(), secret)
}

func TestServiceSynthesizesTexts(t *testing.T) {
	t.Parallel()
	s := start(t)
	r, err := s.client.Synthesize(t.Context(), &synthesisv1.SynthesizeRequest{Texts: []string{handbook(1)[0].Content[:900]}})
	require.NoError(t, err)
	require.Len(t, r.Results, 1)
	assert.NotEmpty(t, r.Results[0].DenseSummary)
	assert.NotEmpty(t, r.Results[0].Pairs)
	assert.Empty(t, r.Results[0].Error)
}

// A cancelled build goes on where it was: what was answered is not asked about again.
func TestServiceResumesACancelledBuild(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := t.Context()
	var hang atomic.Bool
	hang.Store(true)
	s.llm.Faults = func(n int, _ llmtest.Call) llmtest.Fault {
		if hang.Load() && n > 4 {
			return llmtest.Hang
		}
		return llmtest.None
	}
	j, err := s.client.BuildDataset(ctx, &synthesisv1.BuildDatasetRequest{Parent: "collections/plant"})
	require.NoError(t, err)
	require.Eventually(t, func() bool { // answers are counted when they are kept
		now, err := s.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: j.Name})
		return err == nil && now.Progress.GetDone() >= 4 && len(s.llm.Calls()) > 4
	}, 20*time.Second, 5*time.Millisecond)
	_, err = s.jobs.CancelJob(ctx, &jobv1.CancelJobRequest{Name: j.Name})
	require.NoError(t, err)
	require.Equal(t, jobv1.Job_STATE_CANCELLED, s.ended(j).State)
	require.Eventually(t, func() bool { return s.dataset(name).State == synthesisv1.Dataset_STATE_FAILED }, 20*time.Second, 5*time.Millisecond)
	hang.Store(false)
	asked := len(s.llm.Calls())
	_, err = s.jobs.RetryJob(ctx, &jobv1.RetryJobRequest{Name: j.Name})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.dataset(name).State == synthesisv1.Dataset_STATE_READY }, 30*time.Second, 10*time.Millisecond)
	d := s.dataset(name)
	assert.Equal(t, d.Statistics.Chunks-4, int64(len(s.llm.Calls())-asked), "four were answered before")
	again, err := s.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: j.Name})
	require.NoError(t, err)
	assert.NotContains(t, again.String()+d.String(), secret)
}

// collector keeps the spans that it is sent, as text.
type collector struct {
	tracepb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans strings.Builder
}

// numbers takes metrics, and keeps none.
type numbers struct {
	metricspb.UnimplementedMetricsServiceServer
}

func (numbers) Export(context.Context, *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	return &metricspb.ExportMetricsServiceResponse{}, nil
}

func (c *collector) Export(_ context.Context, r *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans.WriteString(r.String())
	return &tracepb.ExportTraceServiceResponse{}, nil
}

// The key is in no log line, trace, stored file, job or record, not even when the endpoint repeats it; nor is the text
// of documents in logs and traces.
func TestSecretsStayHidden(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var spans collector
	server := grpc.NewServer()
	tracepb.RegisterTraceServiceServer(server, &spans)
	metricspb.RegisterMetricsServiceServer(server, numbers{})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	var log bytes.Buffer
	told := ""
	t.Run("builds", func(t *testing.T) { // the service has ended, and written all, when it returns
		s := startWith(t, telemetry.Config{LogLevel: "debug", LogFormat: "json", OTLPEndpoint: "http://" + l.Addr().String()}, &log)
		s.llm.Faults = func(n int, _ llmtest.Call) llmtest.Fault {
			if n == 2 {
				return llmtest.Broken
			}
			if n > 8 {
				return llmtest.Unauthorized // the test's server repeats the key
			}
			return llmtest.None
		}
		j, err := s.client.BuildDataset(t.Context(), &synthesisv1.BuildDatasetRequest{Parent: "collections/plant"})
		require.NoError(t, err)
		j = s.ended(j)
		require.Equal(t, jobv1.Job_STATE_PARTIAL, j.State)
		require.Contains(t, j.String(), "OPENAI_API_KEY")
		told = j.String() + s.dataset(name).String()
		for e, err := range s.Files.List(t.Context(), "") {
			require.NoError(t, err)
			data, err := s.Files.ReadAll(t.Context(), e.Key, 1<<20)
			require.NoError(t, err)
			assert.NotContains(t, string(data), secret, e.Key)
		}
	})
	spans.mu.Lock()
	defer spans.mu.Unlock()
	require.Contains(t, spans.spans.String(), "BuildDataset")
	require.Contains(t, log.String(), "trying again")
	for what, text := range map[string]string{"log": log.String(), "traces": spans.spans.String(), "job and record": told} {
		assert.NotContains(t, text, secret, what)
		assert.NotContains(t, text, "Procedure 3 for the", what)
	}
}
