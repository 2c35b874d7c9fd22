//go:build !race

package e2e_test

import (
	"bufio"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// question is a line of example/handbook.questions.jsonl.
type question struct {
	Question string
	Sources  []string
	Expect   []string
}

// TestWalk goes the way of a newcomer, with a tiny model in place of the example.
func TestWalk(t *testing.T) {
	folder, watched := t.TempDir(), t.TempDir()
	s := startSuite(t, "--ingest-roots", folder, "--ingest-watch", "watched="+watched, "--ingest-watch-every", "100ms", "--ingest-ocr", "never")
	c := s.clients()
	handbook := filepath.Join(root, "example", "handbook")

	// Without a model there are words already.
	out := s.ok("ingest", handbook, "-c", "handbook")
	files, err := os.ReadDir(handbook)
	require.NoError(t, err)
	for _, f := range files {
		assert.Regexp(t, `(?m)^`+f.Name()+` +done +\d+ *$`, out)
	}
	assert.Contains(t, out, "10 done, 0 in part, 0 failed")
	compare := func(t *testing.T) {
		for _, q := range questions(t) {
			r, err := c.reranker.Retrieve(t.Context(), &rerankerv1.RetrieveRequest{Collection: "collections/handbook", Question: q.Question, TopK: 5, Mode: rerankerv1.Mode_MODE_LEXICAL})
			require.NoError(t, err, q.Question)
			var text strings.Builder
			found := false
			for _, x := range r.Candidates {
				found = found || slices.Contains(q.Sources, x.File)
				text.WriteString(x.Text + "\n")
			}
			assert.True(t, found, "%s: none of %v among the best five", q.Question, q.Sources)
			for _, e := range q.Expect {
				assert.Contains(t, text.String(), e, q.Question)
			}
		}
	}
	s.sub(t, "questions of the handbook", compare)

	s.sub(t, "ask without a model", func(t *testing.T) {
		r := s.run("ask", "-c", "handbook", "How many days of leave?")
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "clara models")
	})

	base := tinyBase(t)
	out = s.ok("models", "import", base, "--name", "tiny-base", "--activate")
	assert.Contains(t, out, "succeeded")
	s.sub(t, "a base without adapters", func(t *testing.T) {
		require.Eventually(t, func() bool { return strings.HasSuffix(s.collection("handbook").Model, "/tiny-base") }, time.Minute, 100*time.Millisecond)
		r := s.run("ask", "-c", "handbook", "--max-tokens", "4", "How many days of leave?")
		require.Zero(t, r.code, r.err)
		assert.Contains(t, r.err, "adapters", "it must say why it reads text")
		assert.Contains(t, r.out, "context text, retrieval lexical")
		r = s.run("ask", "-c", "handbook", "--context", "memory", "How many days of leave?")
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "adapters")
	})

	s.ok("models", "import", base, "--checkpoint", tinyCheckpoint(t, base), "--name", "tiny-clara", "--activate")
	require.Eventually(t, func() bool { return s.collection("handbook").Memory }, time.Minute, 100*time.Millisecond, "the collection must move")
	for _, x := range []struct{ context, retrieve string }{{"memory", "memory"}, {"text", "lexical"}, {"mixed", "hybrid"}} {
		s.sub(t, "ask with "+x.context+" and "+x.retrieve, func(t *testing.T) {
			out := s.ok("ask", "-c", "handbook", "--context", x.context, "--retrieve", x.retrieve, "--top-k", "3", "--max-tokens", "4", "What is the daily meal allowance in Tokyo?")
			assert.Contains(t, out, "\nSources\n  1. ")
			assert.Contains(t, out, "  3. ")
			assert.NotContains(t, out, "  4. ")
			assert.Contains(t, out, "context "+x.context+", retrieval "+x.retrieve)
			assert.Regexp(t, `retrieve \d+ ms, prefill \d+ ms \(\d+ tokens\), \d+ tokens at [\d.]+ tokens/s`, out)
		})
	}
	s.sub(t, "ask by default", func(t *testing.T) {
		parts := lines[map[string]any](t, s.ok("ask", "--json", "-c", "handbook", "--max-tokens", "4", "Who leads the calibration team?"))
		require.NotEmpty(t, parts)
		assert.Contains(t, parts[0], "retrieved")
		assert.Equal(t, "CONTEXT_MEMORY", parts[0]["retrieved"].(map[string]any)["context"])
		assert.Contains(t, parts[len(parts)-1], "done")
	})
	s.sub(t, "ask without context", func(t *testing.T) {
		assert.NotContains(t, s.ok("ask", "--context", "none", "--max-tokens", "4", "Who are you?"), "Sources")
	})
	s.sub(t, "generate", func(t *testing.T) { generate(t, s) })
	s.sub(t, "deleted documents do not answer", func(t *testing.T) { deletion(t, s, c) })
	s.sub(t, "manage", func(t *testing.T) { manage(t, s) })
	s.sub(t, "events", func(t *testing.T) { eventsIn(t, s, folder) })
	s.sub(t, "a watched folder", func(t *testing.T) {
		write(t, watched, "sub/tides.md", "# Tides\n\nThe spring tide is the zanzibarest of all.\n")
		s.await(t, "watched", "sub/tides.md", ingestv1.Document_STATE_READY)
	})
	s.sub(t, "limits", func(t *testing.T) { limits(t, s, c) })
	s.sub(t, "a second clara up", func(t *testing.T) { second(t, s) })
	s.sub(t, "grpc", func(t *testing.T) { interop(t, s.addr) })
}

func questions(t *testing.T) []question {
	t.Helper()
	f, err := os.Open(filepath.Join(root, "example", "handbook.questions.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	var all []question
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var q question
		require.NoError(t, json.Unmarshal(lines.Bytes(), &q))
		all = append(all, q)
	}
	require.NotEmpty(t, all)
	return all
}

func (s *suite) collection(id string) *ingestv1.Collection {
	s.t.Helper()
	c, err := s.clients().ingest.GetCollection(s.t.Context(), &ingestv1.GetCollectionRequest{Name: "collections/" + id})
	require.NoError(s.t, err)
	return c
}

// find returns the document of a file, nil if there is none.
func (s *suite) find(collection, file string) *ingestv1.Document {
	r, err := s.clients().ingest.ListDocuments(s.t.Context(), &ingestv1.ListDocumentsRequest{Parent: "collections/" + collection})
	if err != nil {
		return nil
	}
	for _, d := range r.Documents {
		if d.File == file {
			return d
		}
	}
	return nil
}

// await waits until a file is in a state.
func (s *suite) await(t *testing.T, collection, file string, state ingestv1.Document_State) *ingestv1.Document {
	t.Helper()
	var d *ingestv1.Document
	require.Eventually(t, func() bool {
		d = s.find(collection, file)
		return d != nil && d.State == state
	}, 30*time.Second, 50*time.Millisecond, "%s in %s must become %s", file, collection, state)
	return d
}

func generate(t *testing.T, s *suite) {
	assert.NotEmpty(t, s.ok("generate", "paraphrase", "--max-tokens", "4", "The quay opens at six."))
	assert.NotEmpty(t, s.ok("generate", "answer", "--max-tokens", "4", "--question", "When does the quay open?", "--passage", "The quay opens at six."))
	out := s.ok("generate", "select", "--json", "--max-tokens", "4", "--top-k", "1", "--question", "When does the quay open?", "--candidate", "The quay opens at six.", "--candidate", "Nets are dried on Monday.")
	assert.Contains(t, out, "indices")
}

func deletion(t *testing.T, s *suite, c clients) {
	dir := t.TempDir()
	path := write(t, dir, "secret.md", "# Secret\n\nThe password of the lighthouse is quokkafish.\n")
	search := func() []*rerankerv1.Candidate {
		r, err := c.reranker.Retrieve(t.Context(), &rerankerv1.RetrieveRequest{Collection: "collections/deletion", Question: "quokkafish", TopK: 5, Mode: rerankerv1.Mode_MODE_LEXICAL})
		require.NoError(t, err)
		return r.Candidates
	}
	s.ok("ingest", path, "-c", "deletion")
	require.Len(t, search(), 1)
	d := s.find("deletion", "secret.md")
	id := "deletion/" + d.Name[strings.LastIndexByte(d.Name, '/')+1:]
	assert.Contains(t, s.ok("docs", "show", id, "--markdown"), "quokkafish")
	assert.Contains(t, s.ok("docs", "delete", id), "deleted")
	assert.Empty(t, search())
	r := s.run("docs", "show", id)
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "was deleted")
	s.ok("ingest", path, "-c", "deletion")
	assert.Len(t, search(), 1, "taken in again")
	s.ok("collections", "delete", "deletion")
	_, err := c.reranker.Retrieve(t.Context(), &rerankerv1.RetrieveRequest{Collection: "collections/deletion", Question: "quokkafish"})
	assert.Error(t, err)
}

// manage uses the commands that list and steer.
func manage(t *testing.T, s *suite) {
	assert.Contains(t, s.ok("collections", "list"), "handbook")
	assert.Contains(t, s.ok("collections", "create", "empty"), "collections/empty")
	assert.Contains(t, s.ok("collections", "show", "empty"), "tiny-clara")
	assert.Len(t, lines[map[string]any](t, s.ok("docs", "list", "-c", "handbook", "--json")), 10)
	list := s.ok("docs", "list", "-c", "handbook")
	id := strings.Fields(strings.Split(list, "\n")[1])[0]
	assert.Contains(t, s.ok("docs", "explain", id), "PASSAGE")
	assert.Contains(t, s.ok("docs", "reprocess", id), "1 done, 0 in part, 0 failed")
	assert.Contains(t, s.ok("models", "list"), "tiny-clara")
	assert.Contains(t, s.ok("models", "show", "active"), "models/tiny-clara")
	r := s.run("models", "delete", "tiny-clara")
	assert.Equal(t, 1, r.code, "the active model")

	// A job that failed can be tried again, and fails again, for the file is what it is.
	bad := write(t, t.TempDir(), "bad.pdf", "%PDF-1.7\nthis is none\n")
	r = s.run("ingest", bad, "-c", "bad")
	assert.Equal(t, 1, r.code, r.out)
	assert.Contains(t, r.out, "bad.pdf")
	jobs := lines[struct{ Name, State, Target string }](t, s.ok("jobs", "list", "--json", "--type", "ingest"))
	require.NotEmpty(t, jobs)
	assert.Equal(t, "STATE_FAILED", jobs[0].State)
	id = strings.TrimPrefix(jobs[0].Name, "jobs/")
	assert.Contains(t, s.ok("jobs", "show", id), "bad.pdf")
	assert.Equal(t, 1, s.run("jobs", "retry", id).code)

	// A job that waits for more files can be stopped.
	job, err := s.clients().ingest.StartIngest(t.Context(), &ingestv1.StartIngestRequest{Parent: "collections/empty"})
	require.NoError(t, err)
	id = strings.TrimPrefix(job.Name, "jobs/")
	s.ok("jobs", "cancel", id)
	assert.Contains(t, s.run("jobs", "watch", id).err, "was cancelled")
}

func eventsIn(t *testing.T, s *suite, folder string) {
	uri := func(path string) string { return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String() }
	event := func(path string) string {
		b, err := json.Marshal(map[string]string{"collection": "events", "uri": uri(path)})
		require.NoError(t, err)
		return string(b)
	}
	s.ok("events", "publish", "clara.ingest.requested.v1", event(write(t, folder, "one.md", "# One\n\nA file of an event.\n")))
	s.await(t, "events", "one.md", ingestv1.Document_STATE_READY)

	// Any client of NATS may publish.
	conn, err := nats.Connect("nats://" + s.nats)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Publish("clara.ingest.requested.v1.events", []byte(event(write(t, folder, "two.txt", "A second file of an event.\n")))))
	require.NoError(t, conn.Publish("clara.ingest.requested.v1.events", []byte(event("/etc/hostname"))))
	require.NoError(t, conn.Publish("clara.ingest.requested.v1.events", []byte("no JSON")))
	require.NoError(t, conn.Flush())
	s.await(t, "events", "two.txt", ingestv1.Document_STATE_READY)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		dead := s.run("events", "dead").out
		assert.Contains(c, dead, "outside of the roots")
		assert.Contains(c, dead, "decode event")
	}, 30*time.Second, 200*time.Millisecond)

	r := s.run("events", "publish", "clara.ingest.requested.v1", `{"collection":"events","uro":"x"}`)
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "uro")
}

func limits(t *testing.T, s *suite, c clients) {
	s.ok("collections", "create", "void")
	r := s.run("ask", "-c", "void", "Anything there?")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "clara ingest")
	r = s.run("ask", "-c", "nowhere", "Anything there?")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "nowhere")

	s.ok("ingest", write(t, t.TempDir(), "few.md", "# Few\n\nOne passage only.\n"), "-c", "few")
	out := s.ok("ask", "-c", "few", "--top-k", "50", "--max-tokens", "2", "How many passages?")
	assert.Contains(t, out, "  1. few.md")
	assert.NotContains(t, out, "  2. ")
	r = s.run("ask", "-c", "few", "--top-k", "100000", "How many passages?")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "100000")

	r = s.run("ask", "-c", "few", "--context", "text", strings.Repeat("why is it so ", 1000))
	assert.Equal(t, 1, r.code, r.out)
	assert.Regexp(t, `token`, r.err, "a question longer than the context")
	r = s.run("ask", "-c", "few", "")
	assert.NotZero(t, r.code)
	assert.Contains(t, r.err, "question")
}

// second starts further suites where one is already.
func second(t *testing.T, s *suite) {
	for _, x := range []struct {
		name, data, listen, nats, want string
	}{
		{"on the same data folder", s.data, freePort(t), freePort(t), s.data},
		{"with its port in use", t.TempDir(), s.addr, freePort(t), s.addr},
		{"with its NATS port in use", t.TempDir(), freePort(t), s.nats, s.nats},
	} {
		s.sub(t, x.name, func(t *testing.T) {
			r := s.run("up", "--data", x.data, "--listen", x.listen, "--nats-listen", x.nats)
			assert.Equal(t, 1, r.code)
			assert.Contains(t, r.err, x.want, "the thing")
			assert.Regexp(t, `--(data|listen|nats-listen)`, r.err, "the way out")
		})
	}
	assert.Contains(t, s.ok("collections", "list"), "handbook", "the first is unharmed")
}

// interop speaks to the services with grpc-go, knowing nothing but the address.
func interop(t *testing.T, addr string) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	reply, err := stream.Recv()
	require.NoError(t, err)
	var names []string
	for _, s := range reply.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	for _, name := range []string{
		"clara.ingest.v1.IngestService", "clara.synthesis.v1.SynthesisService", "clara.compressor.v1.CompressorService", "clara.reranker.v1.RerankerService",
		"clara.generator.v1.GeneratorService", "clara.model.v1.ModelService", "clara.job.v1.JobService",
	} {
		assert.Contains(t, names, name)
		require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}))
		reply, err := stream.Recv()
		require.NoError(t, err)
		assert.NotEmpty(t, reply.GetFileDescriptorResponse().GetFileDescriptorProto(), name)
		health, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name})
		require.NoError(t, err, name)
		assert.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, health.Status, name)
	}
}
