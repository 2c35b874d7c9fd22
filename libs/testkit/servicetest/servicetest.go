// Package servicetest is what tests of services stand on: a NATS server, an
// embedded index, a blob store, a host of engines with tiny models, and one
// server on which services are mounted and reach each other in memory. For
// tests only.
//
// Ingest and the registry of models stand here as their records only (Ingest,
// Registry): a test says what they answer.
package servicetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/passageset"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
)

// Env is the surroundings of services in a test.
type Env struct {
	T        testing.TB
	Log      *slog.Logger
	NATS     *natstest.Server
	Conn     *events.Conn
	Jobs     *job.Jobs
	Files    *blob.Bucket
	Packages *modelstore.Store
	Index    *index.Client
	Host     *host.Host
	Server   *rpc.Server

	Records  *Ingest
	Registry *Registry

	Ingest     ingestv1connect.IngestServiceClient
	Models     modelv1connect.ModelServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	Reranker   rerankerv1connect.RerankerServiceClient
	Generator  generatorv1connect.GeneratorServiceClient
}

// New makes the surroundings. Engines are opened with o, the server with cfg.
func New(t testing.TB, o infer.Options, cfg rpc.Config) *Env {
	t.Helper()
	ctx := t.Context()
	e := &Env{T: t, Log: slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	var err error
	e.Files, err = blob.OpenDir(t.TempDir())
	require.NoError(t, err)
	e.Packages = modelstore.New(e.Files, t.TempDir())
	e.Host = host.New(host.Options{Dir: e.Packages.Dir, Engine: o, Log: e.Log})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, e.Host.Close(ctx))
	})
	vectors, err := embedded.Open(embedded.Options{Dir: t.TempDir(), Log: e.Log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vectors.Close()) })
	e.Index, err = index.Open(ctx, index.Options{Dial: vectors.Dial})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Index.Close()) })
	e.NATS = natstest.Start(t)
	e.Conn = e.NATS.Connect(events.Options{Log: e.Log})
	e.Jobs, err = job.Open(ctx, e.Conn, job.Options{Log: e.Log})
	require.NoError(t, err)

	e.Server, err = rpc.NewServer(cfg, rpc.Options{Log: e.Log, Lists: []string{ingestv1connect.IngestServiceListCollectionsProcedure}})
	require.NoError(t, err)
	e.Records = &Ingest{env: e, collections: map[string]*ingestv1.Collection{}, documents: map[string]*ingestv1.Document{}}
	e.Registry = &Registry{models: map[string]*modelv1.Model{}}
	e.Server.Handle(ingestv1connect.NewIngestServiceHandler(e.Records, e.Server.HandlerOptions()...))
	e.Server.Handle(modelv1connect.NewModelServiceHandler(e.Registry, e.Server.HandlerOptions()...))
	c, err := e.Server.Client(rpc.ClientConfig{Timeout: time.Minute}, rpc.ClientOptions{})
	require.NoError(t, err)
	e.Ingest = ingestv1connect.NewIngestServiceClient(c.HTTP, c.URL, c.Options()...)
	e.Models = modelv1connect.NewModelServiceClient(c.HTTP, c.URL, c.Options()...)
	e.Compressor = compressorv1connect.NewCompressorServiceClient(c.HTTP, c.URL, c.Options()...)
	e.Reranker = rerankerv1connect.NewRerankerServiceClient(c.HTTP, c.URL, c.Options()...)
	e.Generator = generatorv1connect.NewGeneratorServiceClient(c.HTTP, c.URL, c.Options()...)
	t.Cleanup(c.Close)
	return e
}

// Start serves what is mounted, follows what is indexed, and runs units until the test ends.
func (e *Env) Start(units ...lifecycle.Unit) {
	e.T.Helper()
	indexed, err := events.NewConsumer[*eventv1.DocumentIndexed](e.Conn, "ingest", events.HandlerFunc[*eventv1.DocumentIndexed](e.Records.indexed), events.ConsumerOptions{})
	require.NoError(e.T, err)
	all := append([]lifecycle.Unit{{Name: "server", Start: e.Server.Start, Run: e.Server.Run, Drain: e.Server.Drain, Stop: e.Server.Stop}, {Name: "records", Run: indexed.Run}}, units...)
	ctx, stop := context.WithCancel(context.Background())
	done, started := make(chan error, 1), make(chan struct{})
	all = append(all, lifecycle.Unit{Name: "started", Start: func(context.Context) error { close(started); return nil }})
	go func() {
		done <- lifecycle.Run(ctx, lifecycle.Options{Log: e.Log, DrainTimeout: 5 * time.Second, StopTimeout: 5 * time.Second}, all...)
	}()
	select {
	case <-started:
	case err := <-done:
		stop()
		require.NoError(e.T, err)
	}
	e.T.Cleanup(func() { stop(); require.NoError(e.T, <-done) })
}

// Import makes the tiny model package name, with m memory tokens for documents of up to 40 tokens, or without
// adapters if m is 0, and enters it into the registry.
func (e *Env) Import(name string, m int, seed uint64) *modelpkg.Manifest {
	e.T.Helper()
	dir := e.T.TempDir()
	o := modelpkg.ImportOptions{Base: filepath.Join(dir, "base")}
	tinymodel.Base(e.T, o.Base, tinymodel.Default(), seed)
	if m > 0 {
		o.Checkpoint = filepath.Join(dir, "clara")
		tinymodel.Checkpoint(e.T, o.Checkpoint, o.Base, DocMaxLength, DocMaxLength/m, seed)
	}
	return e.ImportFrom(name, o)
}

// DocMaxLength is what the models of Import take, in tokens, which are bytes.
const DocMaxLength = 40

// ImportFrom is Import of files.
func (e *Env) ImportFrom(name string, o modelpkg.ImportOptions) *modelpkg.Manifest {
	e.T.Helper()
	manifest, err := e.Packages.Import(e.T.Context(), name, o)
	require.NoError(e.T, err)
	id, err := manifest.ID()
	require.NoError(e.T, err)
	e.Registry.mu.Lock()
	defer e.Registry.mu.Unlock()
	e.Registry.models["models/"+name] = &modelv1.Model{Name: "models/" + name, MemoryTokens: int32(manifest.M), Digest: id}
	return manifest
}

// Registry is the models that there are.
type Registry struct {
	modelv1connect.UnimplementedModelServiceHandler
	mu     sync.Mutex
	models map[string]*modelv1.Model
	active string
}

// Activate makes a model the active one.
func (r *Registry) Activate(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = "models/" + name
}

// GetModel returns a model.
func (r *Registry) GetModel(_ context.Context, q *modelv1.GetModelRequest) (*modelv1.Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := q.Name
	if name == "models/active" {
		name = r.active
	}
	if m := r.models[name]; m != nil {
		return proto.Clone(m).(*modelv1.Model), nil
	}
	return nil, clara.Errorf(clara.NotFound, "no model %q", q.Name)
}

// ListModels returns all models.
func (r *Registry) ListModels(context.Context, *modelv1.ListModelsRequest) (*modelv1.ListModelsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &modelv1.ListModelsResponse{}
	for _, m := range r.models {
		out.Models = append(out.Models, proto.Clone(m).(*modelv1.Model))
	}
	slices.SortFunc(out.Models, func(a, b *modelv1.Model) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Ingest is the records of collections and documents.
type Ingest struct {
	ingestv1connect.UnimplementedIngestServiceHandler
	env         *Env
	mu          sync.Mutex
	collections map[string]*ingestv1.Collection
	documents   map[string]*ingestv1.Document
	outcomes    []*eventv1.DocumentIndexed
}

// GetCollection returns a collection.
func (s *Ingest) GetCollection(_ context.Context, r *ingestv1.GetCollectionRequest) (*ingestv1.Collection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.collections[strings.TrimPrefix(r.Name, "collections/")]; c != nil {
		return proto.Clone(c).(*ingestv1.Collection), nil
	}
	return nil, clara.Errorf(clara.NotFound, "no collection %q", r.Name)
}

// ListCollections returns all collections.
func (s *Ingest) ListCollections(context.Context, *ingestv1.ListCollectionsRequest) (*ingestv1.ListCollectionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &ingestv1.ListCollectionsResponse{}
	for _, c := range s.collections {
		out.Collections = append(out.Collections, proto.Clone(c).(*ingestv1.Collection))
	}
	slices.SortFunc(out.Collections, func(a, b *ingestv1.Collection) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// BatchGetDocuments returns those that exist.
func (s *Ingest) BatchGetDocuments(_ context.Context, r *ingestv1.BatchGetDocumentsRequest) (*ingestv1.BatchGetDocumentsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &ingestv1.BatchGetDocumentsResponse{}
	for _, name := range r.Names {
		if d := s.documents[name]; d != nil {
			out.Documents = append(out.Documents, proto.Clone(d).(*ingestv1.Document))
		}
	}
	return out, nil
}

// indexed keeps what the compressor reports.
func (s *Ingest) indexed(_ context.Context, e *eventv1.DocumentIndexed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes = append(s.outcomes, e)
	d := s.documents[DocumentName(e.Collection, e.Document)]
	if d == nil || d.Revision != e.Revision {
		return nil
	}
	for _, p := range d.Placements {
		if p.Index != e.Index || p.Indexed {
			continue
		}
		p.Indexed, p.Error = e.Error == "", e.Error
		if d.State = ingestv1.Document_STATE_READY; e.Error != "" {
			d.State, d.Error = ingestv1.Document_STATE_FAILED, e.Error
		}
	}
	return nil
}

// Outcomes are the reports of the compressor so far.
func (s *Ingest) Outcomes() []*eventv1.DocumentIndexed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.outcomes)
}

// Document returns a document's record, nil if there is none.
func (s *Ingest) Document(collection, document string) *ingestv1.Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.documents[DocumentName(collection, document)]; d != nil {
		return proto.Clone(d).(*ingestv1.Document)
	}
	return nil
}

// DocumentName makes a resource name.
func DocumentName(collection, document string) string {
	return "collections/" + collection + "/documents/" + document
}

// Collection enters a collection for a model, "" is none, in an index of its own name.
func (s *Ingest) Collection(id, model string) *ingestv1.Collection {
	s.env.T.Helper()
	c := &ingestv1.Collection{Name: "collections/" + id}
	hash := "0"
	if model != "" {
		m, err := s.env.Packages.Manifest(s.env.T.Context(), model)
		require.NoError(s.env.T, err)
		c.Model, c.Memory = "models/"+model, m.HasAdapters()
		if c.Memory {
			hash = m.Hashes.Encoder[:8]
		}
	}
	c.Index = index.Name(id, hash, c.Memory)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collections[id] = c
	return proto.Clone(c).(*ingestv1.Collection)
}

// Put stores passages as a new revision of a document and returns the event that asks for them to be indexed.
func (s *Ingest) Put(collection, document string, passages ...string) *eventv1.DocumentReady {
	s.env.T.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.collections[collection]
	require.NotNil(s.env.T, c, "the collection must be made first")
	sum := sha256.Sum256([]byte(strings.Join(passages, "\x00")))
	set := "passages/" + hex.EncodeToString(sum[:])
	var blob bytes.Buffer
	_, err := passageset.Write(&blob, func(yield func(clara.Passage, error) bool) {
		for i, text := range passages {
			hash := sha256.Sum256([]byte(text))
			if !yield(clara.Passage{Ordinal: i, Text: text, Hash: hex.EncodeToString(hash[:]), Headings: []string{"Heading"}, PageFirst: i + 1, PageLast: i + 1}, nil) {
				return
			}
		}
	})
	require.NoError(s.env.T, err)
	require.NoError(s.env.T, s.env.Files.PutBytes(context.Background(), set, blob.Bytes()))
	name := DocumentName(collection, document)
	d := s.documents[name]
	if d == nil {
		d = &ingestv1.Document{Name: name, File: document + ".md"}
		s.documents[name] = d
	}
	d.Revision = max(d.Revision+1, time.Now().UnixMilli())
	d.State, d.Error = ingestv1.Document_STATE_INDEXING, ""
	d.Placements = []*ingestv1.Placement{{Index: c.Index, PassageSet: set, Passages: int32(len(passages))}}
	return &eventv1.DocumentReady{
		Collection: collection, Document: document, Revision: d.Revision, PassageSet: set, Index: c.Index, Model: c.Model, Passages: int32(len(passages)), File: d.File, Job: d.Job,
	}
}

// Delete removes a document's record and returns the event that asks for its points to go.
func (s *Ingest) Delete(collection, document string) *eventv1.DocumentDeleted {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := DocumentName(collection, document)
	d := s.documents[name]
	require.NotNil(s.env.T, d)
	delete(s.documents, name)
	return &eventv1.DocumentDeleted{Collection: collection, Document: document, Revision: d.Revision + 1, Indexes: []string{s.collections[collection].Index}}
}

// Drop removes a collection's record with those of its documents.
func (s *Ingest) Drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.collections, id)
	for name := range s.documents {
		if strings.HasPrefix(name, "collections/"+id+"/") {
			delete(s.documents, name)
		}
	}
}

// Change edits a document's record.
func (s *Ingest) Change(collection, document string, change func(*ingestv1.Document)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.documents[DocumentName(collection, document)])
}

// Ready indexes a document: it puts it, publishes the event and waits until it is settled.
func (e *Env) Ready(collection, document string, passages ...string) *ingestv1.Document {
	e.T.Helper()
	event := e.Records.Put(collection, document, passages...)
	require.NoError(e.T, e.Conn.Publish(e.T.Context(), "", event))
	return e.Settled(collection, document)
}

// Settled waits until a document is ready or has failed.
func (e *Env) Settled(collection, document string) *ingestv1.Document {
	e.T.Helper()
	var d *ingestv1.Document
	require.Eventually(e.T, func() bool {
		d = e.Records.Document(collection, document)
		return d != nil && d.State != ingestv1.Document_STATE_INDEXING
	}, 20*time.Second, 5*time.Millisecond, "document %s must be indexed", document)
	return d
}

// Texts makes n passages that all differ and fit a tiny model.
func Texts(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s number %d", prefix, i)
	}
	return out
}

// logWriter sends the log to the test's own, as long as the test runs.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}
