package ingest_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/passageset"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/services/ingest"
)

// compressor stands for the service: it reads passage sets and reports them indexed.
type compressor struct {
	compressorv1connect.UnimplementedCompressorServiceHandler
	app *app.App

	mu      sync.Mutex
	texts   map[string][]string // document -> passages, as indexed last
	models  map[string]string   // index -> model
	deleted []string
	dropped []string // indexes
	fail    error
}

func (c *compressor) Handle(ctx context.Context, e *eventv1.DocumentReady) error {
	c.mu.Lock()
	fail := c.fail
	c.mu.Unlock()
	if fail != nil {
		return fail
	}
	r, err := c.app.Files.Get(ctx, e.PassageSet)
	if err != nil {
		return err
	}
	defer r.Close()
	var texts []string
	for p, err := range passageset.Read(r) {
		if err != nil {
			return err
		}
		texts = append(texts, p.Text)
	}
	c.mu.Lock()
	c.texts[e.Document] = texts
	c.models[e.Index] = e.Model
	c.mu.Unlock()
	return c.app.Conn.Publish(ctx, "", &eventv1.DocumentIndexed{Collection: e.Collection, Document: e.Document, Revision: e.Revision, Index: e.Index, Passages: int32(len(texts)), Job: e.Job})
}

func (c *compressor) Parked(ctx context.Context, e *eventv1.DocumentReady, reason error) error {
	return c.app.Conn.Publish(ctx, "", &eventv1.DocumentIndexed{Collection: e.Collection, Document: e.Document, Revision: e.Revision, Index: e.Index, Job: e.Job, Error: reason.Error()})
}

func (c *compressor) DeletePoints(_ context.Context, r *compressorv1.DeletePointsRequest) (*compressorv1.DeletePointsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted = append(c.deleted, r.Document)
	return &compressorv1.DeletePointsResponse{}, nil
}

func (c *compressor) DropIndex(_ context.Context, r *compressorv1.DropIndexRequest) (*compressorv1.DropIndexResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped = append(c.dropped, r.Index)
	return &compressorv1.DropIndexResponse{}, nil
}

func (c *compressor) SweepIndex(context.Context, *compressorv1.SweepIndexRequest) (*compressorv1.SweepIndexResponse, error) {
	return &compressorv1.SweepIndexResponse{}, nil
}

// models stands for the registry: it has no model.
type models struct {
	modelv1connect.UnimplementedModelServiceHandler
}

func (models) GetModel(context.Context, *modelv1.GetModelRequest) (*modelv1.Model, error) {
	return nil, clara.Errorf(clara.NotFound, "no model is active")
}

// suite is an ingest service on real servers.
type suite struct {
	*app.App
	t          *testing.T
	state      []string // the folders of NATS and of the files
	compressor *compressor
	jobs       jobv1connect.JobServiceClient
}

func start(t *testing.T, cfg func(*ingest.Config), with ...func(*suite, *ingest.Service)) *suite {
	t.Helper()
	ctx := t.Context()
	a, err := app.New(ctx, "test", telemetry.Config{LogLevel: "error", LogFormat: "text"}, rpc.Config{}, os.Stderr)
	require.NoError(t, err)
	nats, files := natstest.Start(t), t.TempDir()
	require.NoError(t, a.OpenEvents(ctx, events.Config{}, nats, ingest.JobType, ingest.ModelJobType))
	require.NoError(t, a.OpenFiles(ctx, "file://"+filepath.ToSlash(files), t.TempDir()))
	require.NoError(t, a.Dial(app.Peers{}, func(string) (*rpc.Client, error) { return a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{}) }))
	c := ingest.Config{MaxFileBytes: 1 << 20, MaxPages: 100, PageTimeout: time.Minute, FileTimeout: time.Minute, OCR: "never", Concurrency: 2,
		SweepEvery: time.Hour, Grace: time.Hour, WatchEvery: 20 * time.Millisecond}
	if cfg != nil {
		cfg(&c)
	}
	require.NoError(t, c.Validate())
	s, err := ingest.New(ctx, c, a)
	require.NoError(t, err)
	made := &suite{App: a, t: t, state: []string{nats.StoreDir(), files}}
	for _, f := range with {
		f(made, s)
	}
	s.Mount(a.Server)
	comp := &compressor{app: a, texts: map[string][]string{}, models: map[string]string{}}
	a.Server.Handle(compressorv1connect.NewCompressorServiceHandler(comp, a.Server.HandlerOptions()...))
	a.Server.Handle(modelv1connect.NewModelServiceHandler(models{}, a.Server.HandlerOptions()...))
	a.Server.Handle(jobv1connect.NewJobServiceHandler(job.NewHandler(a.Jobs, s.JobHooks(), app.MayJob), a.Server.HandlerOptions()...))
	consumer, err := events.NewConsumer[*eventv1.DocumentReady](a.Conn, "compressor", comp, events.ConsumerOptions{MaxAttempts: 2, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
	require.NoError(t, err)
	deletions, err := events.NewConsumer[*eventv1.DocumentDeleted](a.Conn, "compressor", events.HandlerFunc[*eventv1.DocumentDeleted](
		func(context.Context, *eventv1.DocumentDeleted) error { return nil }), events.ConsumerOptions{})
	require.NoError(t, err)
	units := append(s.Units(), lifecycle.Unit{Name: "compressor", Run: consumer.Run, Drain: consumer.Drain}, lifecycle.Unit{Name: "deletions", Run: deletions.Run, Drain: deletions.Drain})
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan int)
	go func() { done <- a.Run(run, 0, units) }()
	t.Cleanup(func() {
		stop()
		assert.Zero(t, <-done)
	})
	client, err := a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	made.compressor, made.jobs = comp, jobv1connect.NewJobServiceClient(client.HTTP, client.URL, client.Options()...)
	return made
}

func (s *suite) start(collection string) *jobv1.Job {
	s.t.Helper()
	j, err := s.Ingest.StartIngest(s.t.Context(), &ingestv1.StartIngestRequest{Parent: "collections/" + collection})
	require.NoError(s.t, err)
	return j
}

func (s *suite) upload(collection, file, text, job string) (*ingestv1.Document, error) {
	return s.send(&ingestv1.UploadDocumentRequest_Header{Parent: "collections/" + collection, File: file, Job: job, SizeBytes: int64(len(text))}, text)
}

// send uploads a text as a file.
func (s *suite) send(h *ingestv1.UploadDocumentRequest_Header, text string) (*ingestv1.Document, error) {
	stream, err := s.Ingest.UploadDocument(s.t.Context())
	require.NoError(s.t, err)
	// A send that fails says only that the call is over; the reason comes with the response.
	_ = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Header_{Header: h}})
	for rest := text; rest != ""; {
		n := min(len(rest), 1000)
		_ = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Data{Data: []byte(rest[:n])}})
		rest = rest[n:]
	}
	return stream.CloseAndReceive()
}

// ingested uploads a text to the collection docs, in a job of its own, and returns the document when that has succeeded.
func (s *suite) ingested(h *ingestv1.UploadDocumentRequest_Header, text string) *ingestv1.Document {
	s.t.Helper()
	j := s.start("docs")
	h.Parent, h.Job = "collections/docs", j.Name
	d, err := s.send(h, text)
	require.NoError(s.t, err)
	require.Equal(s.t, jobv1.Job_STATE_SUCCEEDED, s.finish(j.Name).State)
	return d
}

// startSwept is start that returns the service too, whose sweeper sweeps when it is told to.
func startSwept(t *testing.T) (*suite, *ingest.Service) {
	t.Helper()
	var service *ingest.Service
	s := start(t, nil, func(_ *suite, made *ingest.Service) { service = made })
	return s, service
}

// finish seals the job and waits for its end.
func (s *suite) finish(job string) *jobv1.Job {
	s.t.Helper()
	_, err := s.Ingest.FinishIngest(s.t.Context(), &ingestv1.FinishIngestRequest{Name: job})
	require.NoError(s.t, err)
	return s.ended(job)
}

func (s *suite) ended(job string) *jobv1.Job {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	stream, err := s.jobs.WatchJob(ctx, &jobv1.WatchJobRequest{Name: job})
	require.NoError(s.t, err)
	defer stream.Close()
	var last *jobv1.Job
	for stream.Receive() {
		last = stream.Msg()
	}
	require.NoError(s.t, stream.Err())
	return last
}

func (s *suite) document(name string) *ingestv1.Document {
	s.t.Helper()
	d, err := s.Ingest.GetDocument(s.t.Context(), &ingestv1.GetDocumentRequest{Name: name})
	require.NoError(s.t, err)
	return d
}

const handbook = "# Handbook\n\n## Leave\n\nEverybody has 25 days of leave.\n\n## Travel\n\nTrains are taken below 700 kilometres.\n"

func TestUploadToSearchable(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx := t.Context()
	job := s.start("docs")
	d, err := s.upload("docs", "handbook.md", handbook, job.Name)
	require.NoError(t, err)
	assert.Equal(t, ingestv1.Document_STATE_RECEIVED, d.State)
	_, err = s.upload("docs", "program.exe", "MZ\x00\x01\x02\x03"+strings.Repeat("\x00\xff", 400), job.Name)
	assert.Equal(t, clara.Unsupported, clara.KindOf(err), "%v", err)

	end := s.finish(job.Name)
	assert.Equal(t, jobv1.Job_STATE_PARTIAL, end.State)
	assert.EqualValues(t, 1, end.DoneCount)
	assert.EqualValues(t, 1, end.FailedCount)
	require.Len(t, end.Items, 2)
	assert.Equal(t, "program.exe", end.Items[0].Label)
	assert.NotEmpty(t, end.Items[0].Error)

	d = s.document(d.Name)
	assert.Equal(t, ingestv1.Document_STATE_READY, d.State)
	assert.Equal(t, "markdown", d.Format)
	assert.Positive(t, d.PassageCount)
	list, err := s.Ingest.ListPassages(ctx, &ingestv1.ListPassagesRequest{Parent: d.Name})
	require.NoError(t, err)
	require.Len(t, list.Passages, int(d.PassageCount))
	assert.Contains(t, list.Passages[0].Text, "25 days")
	md, err := s.Ingest.GetMarkdown(ctx, &ingestv1.GetMarkdownRequest{Name: d.Name})
	require.NoError(t, err)
	assert.Contains(t, md.Markdown, "## Travel")
	file, err := s.Ingest.GetFile(ctx, &ingestv1.GetFileRequest{Name: d.Name})
	require.NoError(t, err)
	var data []byte
	for file.Receive() {
		data = append(data, file.Msg().Data...)
	}
	require.NoError(t, file.Err())
	assert.Equal(t, handbook, string(data))
	require.Eventually(t, func() bool {
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
		return err == nil && c.DocumentCount == 1 && c.PassageCount == int64(d.PassageCount)
	}, 10*time.Second, 10*time.Millisecond)

	// The same file again is no work; a changed one replaces it.
	job = s.start("docs")
	again, err := s.upload("docs", "handbook.md", handbook, job.Name)
	require.NoError(t, err)
	assert.Equal(t, d.Revision, again.Revision)
	changed, err := s.upload("docs", "handbook.md", "# Handbook\n\nAll is new.\n", job.Name)
	require.NoError(t, err)
	assert.Equal(t, d.Name, changed.Name)
	assert.Greater(t, changed.Revision, d.Revision)
	require.Eventually(t, func() bool { return s.document(d.Name).State == ingestv1.Document_STATE_READY }, 20*time.Second, 10*time.Millisecond)
	s.compressor.mu.Lock()
	defer s.compressor.mu.Unlock()
	assert.Equal(t, []string{"# Handbook\n\nAll is new."}, slices.Collect(func(yield func(string) bool) {
		for _, x := range s.compressor.texts[d.Name[strings.LastIndex(d.Name, "/")+1:]] {
			if !yield(strings.TrimSpace(x)) {
				return
			}
		}
	}))
}

func TestDeleteHidesAtOnceAndForGood(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx := t.Context()
	job := s.start("docs")
	d, err := s.upload("docs", "a.md", handbook, job.Name)
	require.NoError(t, err)
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.finish(job.Name).State)
	_, err = s.Ingest.DeleteDocument(ctx, &ingestv1.DeleteDocumentRequest{Name: d.Name})
	require.NoError(t, err)
	live, err := s.Ingest.BatchGetDocuments(ctx, &ingestv1.BatchGetDocumentsRequest{Names: []string{d.Name}})
	require.NoError(t, err)
	assert.Empty(t, live.Documents)
	_, err = s.Ingest.DeleteDocument(ctx, &ingestv1.DeleteDocumentRequest{Name: d.Name})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	// A late report of the deleted revision changes nothing.
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.DocumentIndexed{Collection: "docs", Document: d.Name[strings.LastIndex(d.Name, "/")+1:], Revision: d.Revision, Index: "x"}))

	back, err := s.upload("docs", "a.md", handbook, "")
	require.NoError(t, err)
	assert.Greater(t, back.Revision, d.Revision)
	require.Eventually(t, func() bool { return s.document(d.Name).State == ingestv1.Document_STATE_READY }, 20*time.Second, 10*time.Millisecond)

	_, err = s.Ingest.DeleteCollection(ctx, &ingestv1.DeleteCollectionRequest{Name: "collections/docs"})
	require.NoError(t, err)
	_, err = s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	live, err = s.Ingest.BatchGetDocuments(ctx, &ingestv1.BatchGetDocumentsRequest{Names: []string{d.Name}})
	require.NoError(t, err)
	assert.Empty(t, live.Documents)
}

func TestFailureEndsTheDocumentAndRetryRevivesIt(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.compressor.fail = clara.Errorf(clara.Internal, "the encoder is on fire")
	job := s.start("docs")
	d, err := s.upload("docs", "a.md", handbook, job.Name)
	require.NoError(t, err)
	end := s.finish(job.Name)
	assert.Equal(t, jobv1.Job_STATE_FAILED, end.State)
	assert.Contains(t, s.document(d.Name).Error, "on fire")
	s.compressor.mu.Lock()
	s.compressor.fail = nil
	s.compressor.mu.Unlock()
	_, err = s.jobs.RetryJob(t.Context(), &jobv1.RetryJobRequest{Name: job.Name})
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.ended(job.Name).State)
	assert.Equal(t, ingestv1.Document_STATE_READY, s.document(d.Name).State)
}

// A file may be read, and fail, before the upload that brought it has opened its item.
func TestAnEndBeforeTheBeginningIsTold(t *testing.T) {
	t.Parallel()
	s := start(t, nil, func(s *suite, service *ingest.Service) {
		service.BeforeReset(func(item *jobv1.Item) {
			require.Eventually(s.t, func() bool {
				d, err := s.Ingest.GetDocument(s.t.Context(), &ingestv1.GetDocumentRequest{Name: item.Name})
				return err == nil && d.State == ingestv1.Document_STATE_FAILED
			}, 20*time.Second, 5*time.Millisecond)
		})
	})
	job := s.start("docs")
	_, err := s.upload("docs", "blank.txt", " \n \n", job.Name)
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_FAILED, s.finish(job.Name).State)
}

func TestURIs(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "in.txt"), []byte("Inside of the root there is a text."), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret.txt"), []byte("secret"), 0o600))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret.txt"), filepath.Join(root, "link.txt")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	s := start(t, func(c *ingest.Config) { c.Roots = []string{root} })
	ctx := t.Context()
	uri := func(dir, name string) string {
		return (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, name))}).String()
	}
	for _, c := range []struct {
		name, uri string
		kind      clara.Kind
	}{
		{"outside", uri(outside, "secret.txt"), clara.Denied},
		{"link out", uri(root, "link.txt"), clara.Denied},
		{"dots", "file://" + filepath.ToSlash(root) + "/../" + filepath.Base(outside) + "/secret.txt", clara.Denied},
		{"missing", uri(root, "none.txt"), clara.NotFound},
		{"folder", uri(root, ""), clara.Invalid},
		{"pipe", uri(root, "pipe"), clara.Invalid},
		{"web", "http://127.0.0.1/x", clara.Unsupported},
		{"host", "file://host/x", clara.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Ingest.IngestUri(ctx, &ingestv1.IngestUriRequest{Parent: "collections/docs", Uri: c.uri})
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
		})
	}
	// By event: the file is taken in, a forbidden one ends its item with the reason.
	job := s.start("docs")
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.IngestRequested{Collection: "docs", Uri: uri(root, "in.txt"), Job: job.Name}))
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.IngestRequested{Collection: "docs", Uri: uri(outside, "secret.txt"), Job: job.Name}))
	require.Eventually(t, func() bool {
		j, err := s.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: job.Name})
		return err == nil && j.DoneCount == 1 && j.FailedCount == 1
	}, 20*time.Second, 10*time.Millisecond)
	end := s.finish(job.Name)
	assert.Contains(t, end.Items[0].Error, "roots")
}

// An event that names no job has its own, which shows what became of the file and fetches it again.
func TestEventsHaveJobs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := start(t, func(c *ingest.Config) { c.Roots = []string{root} })
	late := filepath.Join(root, "late.txt")
	event := &eventv1.IngestRequested{Collection: "docs", Uri: (&url.URL{Scheme: "file", Path: filepath.ToSlash(late)}).String()}
	require.NoError(t, s.Conn.Publish(t.Context(), "", event))
	var name string
	require.Eventually(t, func() bool {
		r, err := s.jobs.ListJobs(t.Context(), &jobv1.ListJobsRequest{})
		if err == nil && len(r.Jobs) == 1 {
			name = r.Jobs[0].Name
		}
		return name != ""
	}, 20*time.Second, 10*time.Millisecond)
	end := s.ended(name)
	assert.Equal(t, jobv1.Job_STATE_FAILED, end.State)
	assert.Contains(t, end.Error, "late.txt")

	require.NoError(t, os.WriteFile(late, []byte("It has come in the end, and is long enough."), 0o600))
	_, err := s.jobs.RetryJob(t.Context(), &jobv1.RetryJobRequest{Name: name})
	require.NoError(t, err)
	end = s.ended(name)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, end.State)
	require.Len(t, end.Items, 1)
	assert.Equal(t, ingestv1.Document_STATE_READY, s.document(end.Items[0].Name).State)

	// Asked for twice under one request id, it is one job.
	event.RequestId = "monday"
	for range 2 {
		require.NoError(t, s.Conn.Publish(t.Context(), "", event))
	}
	require.Eventually(t, func() bool {
		r, err := s.jobs.ListJobs(t.Context(), &jobv1.ListJobsRequest{})
		return err == nil && len(r.Jobs) == 2 && r.Jobs[0].State == jobv1.Job_STATE_SUCCEEDED && r.Jobs[1].State == jobv1.Job_STATE_SUCCEEDED
	}, 20*time.Second, 10*time.Millisecond)
}

func TestWatchedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, func(c *ingest.Config) { c.Watch = []string{"docs=" + dir} })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("A watched text that is long enough."), 0o600))
	ready := func(n int, text string) func() bool {
		return func() bool {
			r, err := s.Ingest.ListDocuments(t.Context(), &ingestv1.ListDocumentsRequest{Parent: "collections/docs"})
			if err != nil || len(r.Documents) != n || r.Documents[0].State != ingestv1.Document_STATE_READY {
				return false
			}
			m, err := s.Ingest.GetMarkdown(t.Context(), &ingestv1.GetMarkdownRequest{Name: r.Documents[0].Name})
			return err == nil && strings.Contains(m.Markdown, text)
		}
	}
	require.Eventually(t, ready(1, "A watched"), 20*time.Second, 20*time.Millisecond)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("It was changed into this longer text."), 0o600))
	require.Eventually(t, ready(1, "It was changed"), 20*time.Second, 20*time.Millisecond)
	// Each version has a job, by which it can be followed.
	r, err := s.jobs.ListJobs(t.Context(), &jobv1.ListJobsRequest{})
	require.NoError(t, err)
	require.Len(t, r.Jobs, 2)
	for _, j := range r.Jobs {
		assert.Equal(t, "a.txt", j.Detail)
		assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.ended(j.Name).State)
	}
}

// A collection may be deleted while a file for it is on its way: nothing of it shows up in the next one of that name.
func TestCollectionDeletedDuringUpload(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx := t.Context()
	job := s.start("docs")
	stream, err := s.Ingest.UploadDocument(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Header_{Header: &ingestv1.UploadDocumentRequest_Header{
		Parent: "collections/late", File: "a.md", Job: job.Name}}}))
	// The upload makes its collection, and goes on to its data.
	require.Eventually(t, func() bool {
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/late"})
		return err == nil && c.Index != ""
	}, 20*time.Second, 5*time.Millisecond)
	_, err = s.Ingest.DeleteCollection(ctx, &ingestv1.DeleteCollectionRequest{Name: "collections/late"})
	require.NoError(t, err)
	require.NoError(t, stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Data{Data: []byte(handbook)}}))
	_, err = stream.CloseAndReceive()
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, s.finish(job.Name).State)
	_, err = s.Ingest.CreateCollection(ctx, &ingestv1.CreateCollectionRequest{Collection: &ingestv1.Collection{Name: "collections/late"}})
	require.NoError(t, err)
	list, err := s.Ingest.ListDocuments(ctx, &ingestv1.ListDocumentsRequest{Parent: "collections/late"})
	require.NoError(t, err)
	assert.Empty(t, list.Documents)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx := t.Context()
	_, err := s.upload("docs", "empty.txt", "", "")
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
	assert.ErrorContains(t, err, "empty.txt is empty")
	_, err = s.upload("docs", "big.txt", strings.Repeat("word ", 1<<18), "")
	assert.ErrorContains(t, err, "limit")
	_, err = s.upload("Not A Name", "a.txt", "x", "")
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = s.Ingest.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: "collections/none/documents/a.docx"})
	require.ErrorContains(t, err, "clara docs list shows", "a file's name is no document's")
	_, err = s.Ingest.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: "collections/none/documents/x"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = s.Ingest.ListDocuments(ctx, &ingestv1.ListDocumentsRequest{Parent: "documents/x"})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	stream, err := s.Ingest.UploadDocument(ctx)
	require.NoError(t, err)
	_ = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Data{Data: []byte("x")}})
	_, err = stream.CloseAndReceive()
	assert.ErrorContains(t, err, "header")

	// A file that shrinks while it is sent.
	_, err = s.send(&ingestv1.UploadDocumentRequest_Header{Parent: "collections/docs", File: "shrinks.txt", SizeBytes: 100}, "half of it")
	assert.ErrorContains(t, err, "10 bytes came of the 100 announced")
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	job := s.start("docs")
	const n = 40
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := s.upload("docs", fmt.Sprintf("f%02d.md", i), fmt.Sprintf("# File %d\n\nThis is the text of file number %d.\n", i, i), job.Name)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	end := s.finish(job.Name)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, end.State, end.Error)
	assert.EqualValues(t, n, end.DoneCount)
	var names []string
	for token := ""; ; {
		r, err := s.Ingest.ListDocuments(t.Context(), &ingestv1.ListDocumentsRequest{Parent: "collections/docs", PageSize: 7, PageToken: token})
		require.NoError(t, err)
		for _, d := range r.Documents {
			names = append(names, d.Name)
		}
		if token = r.NextPageToken; token == "" {
			break
		}
	}
	assert.Len(t, slices.Compact(names), n)
}

// TestLateActivation activates two models and then sees the first event again: it moves nothing back.
func TestLateActivation(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx := t.Context()
	for i, name := range []string{"first", "second"} {
		base := filepath.Join(t.TempDir(), "base")
		tinymodel.Base(t, base, tinymodel.Default(), uint64(i+1))
		_, err := s.Packages.Import(ctx, name, modelpkg.ImportOptions{Base: base})
		require.NoError(t, err)
	}
	j := s.start("docs")
	_, err := s.upload("docs", "a.md", handbook, j.Name)
	require.NoError(t, err)
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.finish(j.Name).State)
	move := func(model string, generation int64) *jobv1.Job {
		t.Helper()
		made, err := s.Jobs.CreateOpen(ctx, &jobv1.Job{Type: ingest.ModelJobType, Target: "models/" + model})
		require.NoError(t, err)
		require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.ModelActivated{Model: "models/" + model, Job: made.Name, Generation: generation}))
		return s.ended(made.Name)
	}
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, move("first", 1).State)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, move("second", 2).State)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, move("first", 1).State)
	c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
	require.NoError(t, err)
	assert.Equal(t, "models/second", c.Model)
	assert.Empty(t, c.NextIndex)
}

// A purge that comes late, for a collection that was deleted and made again meanwhile, leaves the new one alone.
func TestLatePurge(t *testing.T) {
	t.Parallel()
	s, service := startSwept(t)
	ctx := t.Context()
	fill := func() (*ingestv1.Collection, *ingestv1.Document) {
		t.Helper()
		d := s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "a.md"}, handbook)
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
		require.NoError(t, err)
		return c, d
	}
	old, _ := fill()
	_, err := s.Ingest.DeleteCollection(ctx, &ingestv1.DeleteCollectionRequest{Name: "collections/docs"})
	require.NoError(t, err)
	now, d := fill()
	require.NotEqual(t, old.Uid, now.Uid)

	old.Deleted = true
	require.NoError(t, service.Purge(ctx, old))
	after, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
	require.NoError(t, err)
	assert.Equal(t, now.Uid, after.Uid)
	assert.Equal(t, ingestv1.Document_STATE_READY, s.document(d.Name).State)
	s.compressor.mu.Lock()
	defer s.compressor.mu.Unlock()
	assert.Contains(t, s.compressor.dropped, old.Index)
	assert.NotContains(t, s.compressor.dropped, now.Index)
}

// A move to another model waits for a document that is being read. If that fails, what was read before moves, and the document
// stays failed.
func TestMoveWaitsForAFailedDocument(t *testing.T) {
	t.Parallel()
	s, service := startSwept(t)
	ctx := t.Context()
	base := filepath.Join(t.TempDir(), "base")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	_, err := s.Packages.Import(ctx, "tiny", modelpkg.ImportOptions{Base: base})
	require.NoError(t, err)
	d := s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "a.md"}, handbook)
	s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "b.md"}, "# Other\n\nThis one is in nobody's way.\n")

	_, blank, _, err := s.Files.PutContent(ctx, "files", strings.NewReader(" \n \n"), 1<<20)
	require.NoError(t, err)
	require.NoError(t, service.Lose(ctx, d.Name, blank, ""))
	made, err := s.Jobs.CreateOpen(ctx, &jobv1.Job{Type: ingest.ModelJobType, Target: "models/tiny"})
	require.NoError(t, err)
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.ModelActivated{Model: "models/tiny", Job: made.Name, Generation: 1}))
	// The other document arrives in the next index; the collection does not change over.
	var next string
	require.Eventually(t, func() bool {
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
		require.NoError(t, err)
		s.compressor.mu.Lock()
		defer s.compressor.mu.Unlock()
		next = c.NextIndex
		return next != "" && s.compressor.models[next] != ""
	}, 20*time.Second, 10*time.Millisecond)
	waiting, err := s.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: made.Name})
	require.NoError(t, err)
	assert.Nil(t, waiting.EndTime)

	require.Eventually(t, func() bool {
		require.NoError(t, service.Sweep(ctx))
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
		return err == nil && c.Index == next
	}, 20*time.Second, 50*time.Millisecond)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.ended(made.Name).State)
	failed := s.document(d.Name)
	assert.Equal(t, ingestv1.Document_STATE_FAILED, failed.State)
	assert.Contains(t, failed.Error, "white space")
	require.Len(t, slices.DeleteFunc(failed.Placements, func(p *ingestv1.Placement) bool { return p.Index != next || !p.Indexed }), 1)
}

// TestMemoryPrecision: a collection's index says how memories are kept, and a change moves it to another.
func TestMemoryPrecision(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *ingest.Config) { c.Memories = "int8" })
	ctx := t.Context()
	update := func(p ingestv1.MemoryPrecision) (*jobv1.Job, error) {
		return s.Ingest.UpdateCollection(ctx, &ingestv1.UpdateCollectionRequest{Collection: &ingestv1.Collection{Name: "collections/docs", MemoryPrecision: p}})
	}
	get := func() *ingestv1.Collection {
		t.Helper()
		c, err := s.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/docs"})
		require.NoError(t, err)
		return c
	}
	j := s.start("docs")
	_, err := s.upload("docs", "a.md", handbook, j.Name)
	require.NoError(t, err)
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.finish(j.Name).State)
	assert.Equal(t, ingestv1.MemoryPrecision_MEMORY_PRECISION_INT8, get().MemoryPrecision, "as the service is set up to")
	_, err = update(ingestv1.MemoryPrecision_MEMORY_PRECISION_INT4)
	assert.Equal(t, clara.State, clara.KindOf(err), "without a model: %v", err)

	dir := t.TempDir()
	base, checkpoint := filepath.Join(dir, "base"), filepath.Join(dir, "checkpoint")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, checkpoint, base, 64, 4, 2)
	_, err = s.Packages.Import(ctx, "tiny", modelpkg.ImportOptions{Base: base, Checkpoint: checkpoint})
	require.NoError(t, err)
	made, err := s.Jobs.CreateOpen(ctx, &jobv1.Job{Type: ingest.ModelJobType, Target: "models/tiny"})
	require.NoError(t, err)
	require.NoError(t, s.Conn.Publish(ctx, "", &eventv1.ModelActivated{Model: "models/tiny", Job: made.Name, Generation: 1}))
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.ended(made.Name).State)
	int8 := get()
	assert.True(t, int8.Memory)
	assert.Equal(t, index.Int8, index.PrecisionOf(int8.Index), int8.Index)

	for _, c := range []struct {
		to   ingestv1.MemoryPrecision
		want index.Precision
	}{
		{ingestv1.MemoryPrecision_MEMORY_PRECISION_INT4, index.Int4},
		{ingestv1.MemoryPrecision_MEMORY_PRECISION_INT4, index.Int4}, // where it is already
		{ingestv1.MemoryPrecision_MEMORY_PRECISION_FP16, index.FP16},
	} {
		job, err := update(c.to)
		require.NoError(t, err)
		assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.ended(job.Name).State)
		now := get()
		assert.Equal(t, c.to, now.MemoryPrecision)
		assert.Equal(t, c.want, index.PrecisionOf(now.Index), now.Index)
		assert.Empty(t, now.NextIndex)
		assert.Equal(t, "models/tiny", now.Model)
	}
	for _, p := range []ingestv1.MemoryPrecision{0, 17} {
		_, err = update(p)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
	}
}

func TestJobEndsWhenItsDocumentIsTakenOver(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.compressor.mu.Lock()
	s.compressor.fail = clara.Errorf(clara.Unavailable, "away")
	s.compressor.mu.Unlock()
	first, second := s.start("over"), s.start("over")
	d, err := s.upload("over", "a.md", "# One\n\nThe first text.\n", first.Name)
	require.NoError(t, err)
	_, err = s.upload("over", "a.md", "# Two\n\nThe second text.\n", second.Name)
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, s.finish(first.Name).State, "another job has its only document")
	_, err = s.Ingest.DeleteDocument(t.Context(), &ingestv1.DeleteDocumentRequest{Name: d.Name})
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, s.finish(second.Name).State, "its only document was deleted")
}

// What nobody works on is read anew by the sweeper, from its own file and with its own password, which is nowhere in clear and
// goes when it has served.
func TestSweeperRevives(t *testing.T) {
	t.Parallel()
	s, service := startSwept(t)
	ctx := t.Context()
	plain := s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "a.md"}, handbook)
	locked := s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "locked.md", Password: "open sesame"}, handbook+"More.")
	assert.Empty(t, locked.PasswordKey)
	assert.Empty(t, s.sealed(), "it was read")
	extract := s.document(locked.Name).Extract

	is := func(document string, state ingestv1.Document_State) func() bool {
		return func() bool { return s.document(document).State == state }
	}
	require.NoError(t, service.Lose(ctx, plain.Name, "", ""))
	require.NoError(t, service.Lose(ctx, locked.Name, "", "open sesame"))
	assert.Len(t, s.sealed(), 1)
	assert.Empty(t, s.document(locked.Name).PasswordKey, "it is not shown")
	require.NoError(t, service.Sweep(ctx))
	require.Eventually(t, is(plain.Name, ingestv1.Document_STATE_READY), 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, is(locked.Name, ingestv1.Document_STATE_READY), 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, extract, s.document(locked.Name).Extract, "with the password")
	assert.NotEqual(t, extract, s.document(plain.Name).Extract)
	require.Eventually(t, func() bool { return len(s.sealed()) == 0 }, 20*time.Second, 10*time.Millisecond)

	// One that is lost is asked for again.
	require.NoError(t, service.Lose(ctx, locked.Name, "", "open sesame"))
	for _, key := range s.sealed() {
		require.NoError(t, s.Files.Delete(ctx, key))
	}
	require.NoError(t, service.Sweep(ctx))
	require.Eventually(t, is(locked.Name, ingestv1.Document_STATE_FAILED), 20*time.Second, 10*time.Millisecond)
	assert.Contains(t, s.document(locked.Name).Error, "clara docs reprocess docs/")

	for _, dir := range s.state {
		require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			assert.NotContains(t, string(data), "sesame", path)
			return err
		}))
	}
}

// sealed lists the passwords that are kept.
func (s *suite) sealed() []string {
	s.t.Helper()
	var keys []string
	for b, err := range s.Files.List(s.t.Context(), "secrets/") {
		require.NoError(s.t, err)
		keys = append(keys, b.Key)
	}
	return keys
}

// A document that was sent anew, and not read yet, is revived from the new file: what the old one left is not taken for it.
func TestSweeperRevivesTheNewVersion(t *testing.T) {
	t.Parallel()
	s, service := startSwept(t)
	ctx := t.Context()
	d := s.ingested(&ingestv1.UploadDocumentRequest_Header{File: "a.md"}, handbook)
	_, hash, _, err := s.Files.PutContent(ctx, "files", strings.NewReader("# New\n\nThe second text of all.\n"), 1<<20)
	require.NoError(t, err)
	require.NoError(t, service.Lose(ctx, d.Name, hash, ""))
	require.NoError(t, service.Sweep(ctx))
	require.Eventually(t, func() bool { return s.document(d.Name).State == ingestv1.Document_STATE_READY }, 20*time.Second, 10*time.Millisecond)
	m, err := s.Ingest.GetMarkdown(ctx, &ingestv1.GetMarkdownRequest{Name: d.Name})
	require.NoError(t, err)
	assert.Contains(t, m.Markdown, "second text")
}
