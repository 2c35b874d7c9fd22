package trainer_test

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/trainer/v1/trainerv1connect"
	"github.com/clara-suite/clara/services/trainer"
	"github.com/clara-suite/clara/services/trainer/internal/faketrain"
)

func TestMain(m *testing.M) {
	faketrain.Main()
	os.Exit(m.Run())
}

// collections is an ingest that knows some collections.
type collections struct {
	ingestv1connect.UnimplementedIngestServiceHandler
	list []*ingestv1.Collection
}

func (c *collections) ListCollections(context.Context, *ingestv1.ListCollectionsRequest) (*ingestv1.ListCollectionsResponse, error) {
	return &ingestv1.ListCollectionsResponse{Collections: c.list}, nil
}

func (c *collections) GetCollection(_ context.Context, r *ingestv1.GetCollectionRequest) (*ingestv1.Collection, error) {
	for _, x := range c.list {
		if x.Name == r.Name {
			return x, nil
		}
	}
	return nil, clara.Errorf(clara.NotFound, "no collection %q", r.Name)
}

// suite is a trainer that runs, with an ingest of its own.
type suite struct {
	*app.App
	service   *trainer.Service
	training  trainerv1connect.TrainerServiceClient
	ingest    *collections
	published chan *eventv1.ModelActivated
	stop      func()
}

func start(t *testing.T, cfg trainer.Config) *suite {
	t.Helper()
	return startOn(t, cfg, natstest.Start(t))
}

// startOn is start on a NATS server that others use too.
func startOn(t *testing.T, cfg trainer.Config, nats *natstest.Server) *suite {
	t.Helper()
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_HUB_OFFLINE", "1")
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, "test", telemetry.Config{}, rpc.Config{}, io.Discard)
	require.NoError(t, err)
	require.NoError(t, a.OpenEvents(ctx, events.Config{}, nats.Server, trainer.JobTypes()...))
	require.NoError(t, a.OpenFiles(ctx, (&url.URL{Scheme: "file", Path: t.TempDir()}).String(), ""))
	require.NoError(t, a.Dial(app.Peers{}, func(string) (*rpc.Client, error) { return a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{}) }))
	c, err := a.Server.Client(rpc.ClientConfig{}, rpc.ClientOptions{})
	require.NoError(t, err)
	s := &suite{App: a, training: trainerv1connect.NewTrainerServiceClient(c.HTTP, c.URL, c.Options()...), ingest: &collections{}, published: make(chan *eventv1.ModelActivated, 16)}
	s.service, err = trainer.New(ctx, cfg, a)
	require.NoError(t, err)
	s.service.Mount(a.Server)
	path, h := ingestv1connect.NewIngestServiceHandler(s.ingest, a.Server.HandlerOptions()...)
	a.Server.Handle(path, h)
	activated, err := events.NewConsumer[*eventv1.ModelActivated](a.Conn, "ingest", events.HandlerFunc[*eventv1.ModelActivated](func(ctx context.Context, e *eventv1.ModelActivated) error {
		s.published <- e
		return a.Jobs.Seal(ctx, e.Job)
	}), events.ConsumerOptions{})
	require.NoError(t, err)
	units := append(s.service.Units(), lifecycle.Unit{Name: "activated", Run: activated.Run, Drain: activated.Drain})
	ended := make(chan int)
	go func() { ended <- a.Run(ctx, 0, units) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		assert.Zero(t, <-ended)
	})
	t.Cleanup(s.stop)
	return s
}

// end waits for a job's end.
func (s *suite) end(t *testing.T, name string) *jobv1.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last *jobv1.Job
	require.NoError(t, s.Jobs.Watch(ctx, name, func(j *jobv1.Job) error { last = j; return nil }))
	require.True(t, job.Ended(last.State))
	return last
}

// imported imports a tiny model and returns its resource name.
func (s *suite) imported(t *testing.T, r *modelv1.ImportModelRequest) string {
	t.Helper()
	j, err := s.Models.ImportModel(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, "import", j.Type)
	j = s.end(t, j.Name)
	require.Equal(t, jobv1.Job_STATE_SUCCEEDED, j.State, j.Error)
	return j.Target
}

// files writes a base model and a checkpoint on it below a folder, and returns their paths.
func files(t *testing.T, root string) (base, checkpoint string) {
	t.Helper()
	base, checkpoint = filepath.Join(root, "base"), filepath.Join(root, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, checkpoint, base, 40, 8, 2)
	return base, checkpoint
}

func TestImportListGetDelete(t *testing.T) {
	root := t.TempDir()
	base, checkpoint := files(t, root)
	s := start(t, trainer.Config{Roots: []string{root}})
	ctx := t.Context()

	_, err := s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/active"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))

	assert.Equal(t, "models/base", s.imported(t, &modelv1.ImportModelRequest{Base: base}), "named after its source")
	assert.Equal(t, "models/tiny", s.imported(t, &modelv1.ImportModelRequest{Model: "tiny", Checkpoint: checkpoint}), "the checkpoint names its base")

	m, err := s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/tiny"})
	require.NoError(t, err)
	assert.Equal(t, int32(5), m.MemoryTokens)
	assert.Equal(t, int32(48), m.Hidden)
	assert.Equal(t, int32(512), m.ContextLength)
	assert.Equal(t, []string{"decoder", "encoder", "query_reasoner"}, m.Adapters)
	assert.Contains(t, m.Source, checkpoint)
	assert.NotEmpty(t, m.Digest)
	assert.NotEmpty(t, m.EncoderHash)
	assert.Positive(t, m.SizeBytes)
	assert.Positive(t, m.CreateTime.GetSeconds())
	assert.False(t, m.Active)

	page, err := s.Models.ListModels(ctx, &modelv1.ListModelsRequest{PageSize: 1})
	require.NoError(t, err)
	require.Len(t, page.Models, 1)
	assert.Equal(t, "models/base", page.Models[0].Name)
	page, err = s.Models.ListModels(ctx, &modelv1.ListModelsRequest{PageSize: 1, PageToken: page.NextPageToken})
	require.NoError(t, err)
	require.Len(t, page.Models, 1)
	assert.Equal(t, "models/tiny", page.Models[0].Name)
	assert.Empty(t, page.NextPageToken)

	_, err = s.Models.DeleteModel(ctx, &modelv1.DeleteModelRequest{Name: "models/base"})
	require.NoError(t, err)
	_, err = s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/base"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestImportRefuses(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	base, checkpoint := files(t, root)
	other, _ := files(t, outside)
	require.NoError(t, os.Symlink(other, filepath.Join(root, "link")))
	half := filepath.Join(root, "half")
	tinymodel.Base(t, half, tinymodel.Default(), 1)
	require.NoError(t, os.Remove(filepath.Join(half, "model.safetensors")))
	require.NoError(t, os.Symlink(filepath.Join(other, "model.safetensors"), filepath.Join(half, "model.safetensors")))
	s := start(t, trainer.Config{Roots: []string{root}})

	for _, c := range []struct {
		name string
		req  *modelv1.ImportModelRequest
		kind clara.Kind // Internal: the job fails
		says string
	}{
		{"nothing", &modelv1.ImportModelRequest{}, clara.Invalid, "give a base"},
		{"bad name", &modelv1.ImportModelRequest{Model: "No/Name", Base: base}, clara.Invalid, "model name"},
		{"reserved name", &modelv1.ImportModelRequest{Model: "active", Base: base}, clara.Invalid, "active"},
		{"outside", &modelv1.ImportModelRequest{Base: other}, clara.Denied, "--trainer-roots"},
		{"outside, not there", &modelv1.ImportModelRequest{Base: filepath.Join(outside, "nothing")}, clara.Denied, "--trainer-roots"},
		{"link to outside", &modelv1.ImportModelRequest{Base: filepath.Join(root, "link")}, clara.Denied, "--trainer-roots"},
		{"file that is a link to outside", &modelv1.ImportModelRequest{Base: half}, clara.Denied, "--trainer-roots"},
		{"not there", &modelv1.ImportModelRequest{Base: filepath.Join(root, "nothing")}, clara.NotFound, "no "},
		{"no checkpoint", &modelv1.ImportModelRequest{Model: "x1", Checkpoint: root}, clara.Internal, "no CLaRa checkpoint"},
		{"wrong rate", &modelv1.ImportModelRequest{Model: "x2", Checkpoint: checkpoint, CompressRate: 4}, clara.Internal, "4"},
		{"unknown hub id", &modelv1.ImportModelRequest{Base: "nobody/nothing"}, clara.Internal, "nobody/nothing"},
		{"rate without checkpoint", &modelv1.ImportModelRequest{Base: base, CompressRate: 4}, clara.Invalid, "compress_rate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, err := s.Models.ImportModel(t.Context(), c.req)
			if c.kind != clara.Internal {
				require.Error(t, err)
				assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
				assert.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			j = s.end(t, j.Name)
			assert.Equal(t, jobv1.Job_STATE_FAILED, j.State)
			assert.Contains(t, j.Error, c.says)
		})
	}
}

func TestActivate(t *testing.T) {
	root := t.TempDir()
	base, checkpoint := files(t, root)
	s := start(t, trainer.Config{Roots: []string{root}})
	ctx := t.Context()
	s.imported(t, &modelv1.ImportModelRequest{Base: base, Activate: true})
	first := <-s.published
	assert.Equal(t, "models/base", first.Model)
	assert.Empty(t, first.Collections)

	m, err := s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/active"})
	require.NoError(t, err)
	assert.Equal(t, "models/base", m.Name)
	assert.True(t, m.Active)
	assert.Equal(t, first.Generation, m.Generation)

	s.imported(t, &modelv1.ImportModelRequest{Model: "tiny", Checkpoint: checkpoint})
	j, err := s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/tiny", RequestId: "r1"})
	require.NoError(t, err)
	assert.Equal(t, "activate", j.Type)
	assert.Equal(t, "models/tiny", j.Target)
	second := <-s.published
	assert.Equal(t, j.Name, second.Job)
	assert.Greater(t, second.Generation, first.Generation)

	// Back to the first, then the second's request once more: a late repeat must not undo what came after.
	_, err = s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/base"})
	require.NoError(t, err)
	third := <-s.published
	again, err := s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/tiny", RequestId: "r1"})
	require.NoError(t, err)
	assert.Equal(t, j.Name, again.Name)
	m, err = s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/active"})
	require.NoError(t, err)
	assert.Equal(t, "models/base", m.Name)
	assert.Equal(t, third.Generation, m.Generation)

	// Named collections move alone.
	s.ingest.list = []*ingestv1.Collection{{Name: "collections/manuals", Model: "models/tiny"}}
	_, err = s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/tiny", Collections: []string{"collections/manuals"}})
	require.NoError(t, err)
	fourth := <-s.published
	assert.Equal(t, []string{"manuals"}, fourth.Collections)
	assert.Greater(t, fourth.Generation, third.Generation)
	m, err = s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/active"})
	require.NoError(t, err)
	assert.Equal(t, "models/base", m.Name)

	_, err = s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/tiny", Collections: []string{"collections/none"}})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = s.Models.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: "models/none"})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))

	// What is used stays.
	_, err = s.Models.DeleteModel(ctx, &modelv1.DeleteModelRequest{Name: "models/base"})
	assert.Equal(t, clara.State, clara.KindOf(err))
	_, err = s.Models.DeleteModel(ctx, &modelv1.DeleteModelRequest{Name: "models/tiny"})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "collections/manuals")
	s.imported(t, &modelv1.ImportModelRequest{Model: "tiny", Checkpoint: checkpoint}) // the same again
	manifest := func() *modelpkg.Manifest {
		m, err := s.Packages.Manifest(ctx, "tiny")
		require.NoError(t, err)
		return m
	}
	early := manifest()
	early.Format--
	raw, err := json.Marshal(early)
	require.NoError(t, err)
	require.NoError(t, s.Files.PutBytes(ctx, "models/tiny/"+modelpkg.ManifestFile, raw))
	list, err := s.Models.ListModels(ctx, &modelv1.ListModelsRequest{})
	require.NoError(t, err)
	assert.Len(t, list.Models, 2, "one of an earlier format is listed")
	s.imported(t, &modelv1.ImportModelRequest{Model: "tiny", Checkpoint: checkpoint})
	assert.Equal(t, modelpkg.Format, manifest().Format, "in use, and of an earlier format")
	j, err = s.Models.ImportModel(ctx, &modelv1.ImportModelRequest{Model: "tiny", Base: base})
	require.NoError(t, err)
	j = s.end(t, j.Name)
	assert.Equal(t, jobv1.Job_STATE_FAILED, j.State)
	assert.Contains(t, j.Error, "in use")
	list, err = s.Models.ListModels(ctx, &modelv1.ListModelsRequest{})
	require.NoError(t, err)
	assert.Len(t, list.Models, 2, "nothing is left of packages made for comparison")
}

func TestImportResumes(t *testing.T) {
	root := t.TempDir()
	base, _ := files(t, root)
	s := start(t, trainer.Config{Roots: []string{root}})
	// A job whose worker died before it began to work is taken up by the reaper.
	j, err := s.Jobs.Create(t.Context(), &jobv1.Job{Type: trainer.JobType, Target: "models/base", Spec: []byte(`{"model":"base","base":"` + base + `"}`)})
	require.NoError(t, err)
	_, err = s.Jobs.Modify(t.Context(), j.Name, func(j *jobv1.Job) error { j.LeaseTime.Seconds -= 3600; return nil })
	require.NoError(t, err)
	require.NoError(t, s.Jobs.Reap(t.Context()))
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, s.end(t, j.Name).State)

	// Hopeless ones end.
	j, err = s.Jobs.Create(t.Context(), &jobv1.Job{Type: trainer.JobType, Target: "models/x", Spec: []byte(`{`)})
	require.NoError(t, err)
	_, err = s.Jobs.Modify(t.Context(), j.Name, func(j *jobv1.Job) error { j.LeaseTime.Seconds -= 3600; return nil })
	require.NoError(t, err)
	require.NoError(t, s.Jobs.Reap(t.Context()))
	assert.Equal(t, jobv1.Job_STATE_FAILED, s.end(t, j.Name).State)
}
