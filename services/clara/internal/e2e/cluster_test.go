//go:build !race

package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
	"github.com/clara-suite/clara/services/compressor"
	"github.com/clara-suite/clara/services/ingest"
	"github.com/clara-suite/clara/services/reranker"
)

// noModels stands for the registry: passages are searched by their words.
type noModels struct {
	modelv1connect.UnimplementedModelServiceHandler
}

func (noModels) GetModel(context.Context, *modelv1.GetModelRequest) (*modelv1.Model, error) {
	return nil, clara.Errorf(clara.NotFound, "no model is active")
}

// startReplica runs ingest, compressor and reranker on a cluster of NATS, beside others that share files and vectors with it.
func startReplica(t *testing.T, nats *natstest.Cluster, files string, vectors *embedded.Server) clients {
	t.Helper()
	ctx := t.Context()
	a, err := app.New(ctx, "replica", telemetry.Config{LogLevel: "error", LogFormat: "text"}, rpc.Config{}, os.Stderr)
	require.NoError(t, err)
	require.NoError(t, a.OpenEvents(ctx, nats.Config(), nil, ingest.JobType, ingest.ModelJobType))
	require.NoError(t, a.OpenFiles(ctx, "file://"+filepath.ToSlash(files), t.TempDir()))
	require.NoError(t, a.OpenIndex(ctx, index.Options{Dial: vectors.Dial}, 10*time.Second))
	a.OpenHost(app.Engine{})
	dial := func(string) (*rpc.Client, error) {
		return a.Server.Client(rpc.ClientConfig{Timeout: time.Minute}, rpc.ClientOptions{})
	}
	require.NoError(t, a.Dial(app.Peers{}, dial))

	in, err := ingest.New(ctx, ingest.Config{MaxFileBytes: 1 << 20, MaxPages: 100, PageTimeout: time.Minute, FileTimeout: time.Minute, OCR: "never", Concurrency: 2,
		SweepEvery: time.Hour, Grace: time.Hour, WatchEvery: time.Hour}, a)
	require.NoError(t, err)
	comp, err := compressor.New(ctx, compressor.Config{Documents: 4, Attempts: 5}, compressor.Deps{Log: a.Log, Conn: a.Conn, Files: a.Files, Index: a.Index, Host: a.Host,
		Packages: a.Packages, Ingest: a.Ingest, Registry: a.Models, Jobs: a.Jobs})
	require.NoError(t, err)
	rank, err := reranker.New(ctx, reranker.Config{MaxQueries: 10}, reranker.Deps{Log: a.Log, Index: a.Index, Host: a.Host, Packages: a.Packages, Ingest: a.Ingest,
		Compressor: a.Compressor, Registry: a.Models})
	require.NoError(t, err)
	in.Mount(a.Server)
	comp.Mount(a.Server)
	rank.Mount(a.Server)
	a.Server.Handle(modelv1connect.NewModelServiceHandler(noModels{}, a.Server.HandlerOptions()...))
	a.Server.Handle(jobv1connect.NewJobServiceHandler(job.NewHandler(a.Jobs, in.JobHooks(), app.MayJob), a.Server.HandlerOptions()...))

	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan int)
	go func() { done <- a.Run(run, 0, append(append(in.Units(), comp.Units()...), rank.Units()...)) }()
	t.Cleanup(func() {
		stop()
		assert.Zero(t, <-done)
	})
	c, err := dial("")
	require.NoError(t, err)
	return clients{ingest: a.Ingest, reranker: a.Reranker, compressor: a.Compressor, jobs: jobv1connect.NewJobServiceClient(c.HTTP, c.URL, c.Options()...)}
}

// TestCluster takes documents in and deletes them on three NATS servers, of which the one that leads the records stops, and
// later a second, so that for a while nothing can be stored. No call may fail while there is a majority; in the end every
// job has ended, each passage is in the index once, and nothing that was deleted is found, ever.
func TestCluster(t *testing.T) {
	nats, files := natstest.StartCluster(t, 3), t.TempDir()
	vectors, err := embedded.Open(embedded.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vectors.Close()) })
	replicas := []clients{startReplica(t, nats, files, vectors), startReplica(t, nats, files, vectors)}
	ctx := t.Context()
	w := &workload{fleet: &fleet{t: t, clients: replicas[0]}, rng: rand.New(rand.NewPCG(1, 1)), facts: map[int]*fact{}, broken: map[string]int{}}

	const each = 12 // documents of a part
	take := func(from int, stop func()) {
		j, err := replicas[0].ingest.StartIngest(ctx, &ingestv1.StartIngestRequest{Parent: crashed})
		require.NoError(t, err)
		w.jobNames = append(w.jobNames, j.Name)
		for n := from; n < from+each; n++ {
			if n == from+each/2 {
				stop()
			}
			here, there := replicas[n%2], replicas[(n+1)%2]
			d, err := send(ctx, here, crashed, fmt.Sprintf("d%d.md", n), text(n, 1, 8), j.Name)
			require.NoError(t, err)
			f := &fact{name: d.Name, contents: map[string]bool{d.ContentHash: true}}
			w.facts[n] = f
			if n%4 != 3 {
				continue
			}
			_, err = there.ingest.DeleteDocument(ctx, &ingestv1.DeleteDocumentRequest{Name: d.Name})
			require.NoError(t, err)
			f.gone = true
			w.gone(here, n)
		}
		_, err = replicas[1].ingest.FinishIngest(ctx, &ingestv1.FinishIngestRequest{Name: j.Name})
		require.NoError(t, err)
	}
	const records = "KV_documents"
	first, second := -1, -1
	take(0, func() { first = nats.Leader(records); nats.Stop(first) })
	take(each, func() {
		second = nats.Leader(records)
		nats.Stop(second)
		// With one server of three nobody knows whether a document was deleted: a search says so, and guesses nothing.
		w.gone(replicas[0], 3)
		var starting sync.WaitGroup
		starting.Go(func() { nats.Start(second) })
		t.Cleanup(starting.Wait)
	})
	w.verify()
	nats.Start(first)
	take(2*each, func() {})
	w.verify()
	for _, name := range w.jobNames {
		j, err := replicas[1].jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: name})
		require.NoError(t, err)
		assert.Zero(t, j.FailedCount, "%v", j.Items)
	}
}

// gone checks that a search for a document that was deleted does not find it, whether it can find anything or not.
func (w *workload) gone(c clients, n int) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	r, err := c.reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: crashed, Question: fmt.Sprintf("d%d", n), TopK: 1000, Mode: rerankerv1.Mode_MODE_LEXICAL})
	if err != nil && !clara.IsContext(err) {
		assert.Contains(w.t, []clara.Kind{clara.Unavailable, clara.NotFound}, clara.KindOf(err), "%v", err)
	}
	for _, x := range r.GetCandidates() {
		assert.NotEqual(w.t, fmt.Sprintf("d%d.md", n), x.File, "deleted and found: %q", x.Text)
	}
}
