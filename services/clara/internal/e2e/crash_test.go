//go:build !race

package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	rerankerv1 "github.com/clara-suite/clara/proto/gen/clara/reranker/v1"
)

// TestCrash kills programs with SIGKILL at random moments while documents are taken in, changed, read again and
// deleted, and questions are asked. Then every accepted job must end, every passage of a live document must be in the
// index exactly once, deleted documents must not be found, and no answer may ever have been torn.
//
// CRASH_KILLS is the number of kills of each part, CRASH_SEED the seed: make crash KILLS=100 SEED=7.
func TestCrash(t *testing.T) {
	kills, seed := number(t, "CRASH_KILLS", 5), uint64(number(t, "CRASH_SEED", 1))
	t.Run("clara up", func(t *testing.T) {
		s := newSuite(t, t.TempDir(), "--ingest-ocr", "never")
		f := &fleet{t: t, clients: s.clients(), processes: []*process{&s.process}, victims: []*process{&s.process}, answers: true}
		f.crash(kills, seed)
	})
	if os.Getenv("CRASH_KILLS") == "" {
		t.Log("single services are killed too if CRASH_KILLS is set: building them takes long")
		return
	}
	t.Run("single services", func(t *testing.T) {
		newServices(t).crash(kills, seed+1)
	})
}

func number(t testing.TB, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, "%s=%s", name, s)
	return n
}

// newServices makes the services of an ingestion as processes of their own, with NATS in this one.
func newServices(t *testing.T) *fleet {
	t.Helper()
	require.NoError(t, build("clara-ingest", "clara-compressor", "clara-reranker", "clara-trainer"))
	nats, dir := natstest.StartListening(t), t.TempDir()
	index, ingest, compressor, reranker, trainer := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	service := func(name, addr string, more ...string) *process {
		return &process{name: name, addr: addr, log: filepath.Join(t.TempDir(), "log"), args: append([]string{
			"--listen", addr, "--nats-url", nats.ClientURL(), "--blob-url", "file://" + filepath.ToSlash(filepath.Join(dir, "files")), "--index-addr", index,
			"--ingest-addr", "http://" + ingest, "--compressor-addr", "http://" + compressor, "--reranker-addr", "http://" + reranker, "--trainer-addr", "http://" + trainer,
			"--threads", "1"}, more...)}
	}
	server := &process{name: "clara", log: filepath.Join(t.TempDir(), "log"), args: []string{"index", "serve", "--dir", filepath.Join(dir, "index"), "--listen", index}}
	services := []*process{server, service("clara-trainer", trainer, "--trainer-roots", os.TempDir()), service("clara-ingest", ingest, "--ingest-ocr", "never"),
		service("clara-compressor", compressor), service("clara-reranker", reranker)}
	at := func(addr string) clients { return (&suite{t: t, process: process{addr: addr}}).clients() }
	return &fleet{t: t, processes: services, victims: []*process{services[0], services[2], services[3]}, clients: clients{
		ingest: at(ingest).ingest, jobs: at(ingest).jobs, compressor: at(compressor).compressor, reranker: at(reranker).reranker, models: at(trainer).models,
	}}
}

// fleet is the processes of one run.
type fleet struct {
	clients
	t         *testing.T
	processes []*process
	victims   []*process
	answers   bool // whether there is a generator
	rng       *rand.Rand
}

func (f *fleet) crash(kills int, seed uint64) {
	t, ctx := f.t, f.t.Context()
	f.rng = rand.New(rand.NewPCG(seed, 1))
	for _, p := range f.processes {
		require.NoError(t, p.start())
		t.Cleanup(func() {
			p.stop()
			if t.Failed() {
				t.Logf("end of the log of %s %s:\n%s", p.name, p.addr, p.tail(80))
			}
		})
	}
	for _, p := range f.processes {
		if p.addr != "" {
			require.NoError(t, p.ready(ctx))
		}
	}
	f.activate(tinyBase(t))

	w := &workload{fleet: f, rng: rand.New(rand.NewPCG(seed, 2)), facts: map[int]*fact{}, broken: map[string]int{}}
	working, stop := context.WithCancel(ctx)
	var busy sync.WaitGroup
	busy.Go(func() { w.work(working) })
	busy.Go(func() { w.ask(working, rand.New(rand.NewPCG(seed, 3))) })
	for n := range kills {
		f.pause(ctx, 50+f.rng.IntN(1400))
		p := f.victims[f.rng.IntN(len(f.victims))]
		p.kill()
		require.NoError(t, p.start(), "start after kill %d", n+1)
		if f.rng.IntN(4) == 0 {
			continue // the next kill may come while it starts
		}
		if p.addr != "" {
			require.NoError(t, p.ready(ctx), "start after kill %d", n+1)
		}
	}
	for _, p := range f.processes {
		if p.addr != "" {
			require.NoError(t, p.ready(ctx), "after the last kill")
		}
	}
	stop()
	busy.Wait()
	begin := time.Now()
	w.verify()
	t.Logf("seed %d: %d kills, %d uploads, %d deletions, %d rereadings in %d jobs, %d searches, %d answers (ended with an error: %v), settled after %.1f s; %d documents given up",
		seed, kills, w.uploads, w.deletions, w.rereads, len(w.jobNames), w.searches, w.answered, w.broken, time.Since(begin).Seconds(), w.givenUp)
}

// activate makes a package of a tiny model with a checkpoint and waits until it is the active one.
func (f *fleet) activate(base string) {
	t, ctx := f.t, f.t.Context()
	_, err := f.models.ImportModel(ctx, &modelv1.ImportModelRequest{Base: base, Checkpoint: tinyCheckpoint(t, base), Activate: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := f.models.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/active"})
		return err == nil
	}, time.Minute, 100*time.Millisecond, "the model must become active")
}

func (f *fleet) pause(ctx context.Context, ms int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(ms) * time.Millisecond):
	}
}

// fact is what is known about a document.
type fact struct {
	name     string
	revision int             // of its text, counted up with each upload
	contents map[string]bool // hashes that the record may have by what was said to us
	gone     bool            // deleted for certain
	maybe    bool            // may be there and may not
	version  int             // changes before and after everything that is done to it
}

// workload takes documents in, deletes them and asks for them, and remembers what it was told.
type workload struct {
	*fleet
	rng *rand.Rand

	mu       sync.Mutex
	facts    map[int]*fact
	jobNames []string

	uploads, deletions, rereads, searches, answered, givenUp int
	broken                                                   map[string]int // answers that ended with an error, by kind
}

const (
	crashed   = "collections/crash"
	documents = 24
)

// text is a document in which every passage says which document and revision it is of.
func text(document, revision, parts int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# File d%d\n", document)
	for p := range parts {
		fmt.Fprintf(&b, "\nThis is d%d at revision r%d, part %d: the harbour of number %d has %d boats and %d nets.\n", document, revision, p, p*7+revision, p*p, p+document)
	}
	return b.String()
}

var tag = regexp.MustCompile(`d(\d+) at revision r(\d+)`)

// work changes documents until ctx ends.
func (w *workload) work(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		switch x := w.rng.IntN(10); {
		case x < 6:
			w.ingest(ctx, n)
		case x < 9:
			w.remove(ctx, w.rng.IntN(documents))
		default:
			w.reread(ctx, w.rng.IntN(documents))
		}
		w.pause(ctx, w.rng.IntN(300))
	}
}

// insist does something again while the service is away, mostly: now and then a client gives up. It reports whether it was done.
func (w *workload) insist(ctx context.Context, do func(context.Context) error) (bool, error) {
	patient := w.rng.IntN(5) > 0
	for {
		// What was begun is ended, so that it is known what became of it.
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		err := do(try)
		cancel()
		if err == nil {
			return true, nil
		}
		if !patient || ctx.Err() != nil {
			return false, err
		}
		switch clara.KindOf(err) {
		case clara.NotFound, clara.Invalid, clara.State:
			return false, err
		}
		w.pause(ctx, 100)
	}
}

func (w *workload) ingest(ctx context.Context, n int) {
	var job *jobv1.Job
	request := fmt.Sprintf("request-%d", n)
	ok, _ := w.insist(ctx, func(ctx context.Context) (err error) {
		job, err = w.clients.ingest.StartIngest(ctx, &ingestv1.StartIngestRequest{Parent: crashed, RequestId: request})
		return err
	})
	if !ok {
		return
	}
	w.mu.Lock()
	w.jobNames = append(w.jobNames, job.Name)
	w.mu.Unlock()
	for range 1 + w.rng.IntN(5) {
		if ctx.Err() != nil {
			break
		}
		w.upload(ctx, w.rng.IntN(documents), job.Name)
	}
	_, _ = w.insist(ctx, func(ctx context.Context) error {
		_, err := w.clients.ingest.FinishIngest(ctx, &ingestv1.FinishIngestRequest{Name: job.Name})
		return err
	})
}

// begin takes hold of what is known about a document.
func (w *workload) begin(document int) *fact {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.facts[document]
	if f == nil {
		f = &fact{gone: true, contents: map[string]bool{}}
		w.facts[document] = f
	}
	f.version++
	return f
}

func (w *workload) end(f *fact, change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.version++
	change()
}

func (w *workload) upload(ctx context.Context, document int, job string) {
	f := w.begin(document)
	f.revision++
	body := text(document, f.revision, 1+w.rng.IntN(60))
	sum := sha256.Sum256([]byte(body))
	hash := hex.EncodeToString(sum[:])
	var d *ingestv1.Document
	ok, _ := w.insist(ctx, func(ctx context.Context) (err error) {
		d, err = send(ctx, w.clients, crashed, fmt.Sprintf("d%d.md", document), body, job)
		return err
	})
	w.uploads++
	w.end(f, func() {
		if ok {
			f.name, f.contents, f.gone, f.maybe = d.Name, map[string]bool{hash: true}, false, false
			return
		}
		f.contents[hash] = true
		f.maybe = f.maybe || f.gone
		f.gone = false
	})
}

// send uploads a text.
func send(ctx context.Context, c clients, parent, file, body, job string) (*ingestv1.Document, error) {
	stream, err := c.ingest.UploadDocument(ctx)
	if err != nil {
		return nil, err
	}
	// A send that fails says only that the call is over; the reason comes with the response.
	_ = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Header_{Header: &ingestv1.UploadDocumentRequest_Header{
		Parent: parent, File: file, Job: job, SizeBytes: int64(len(body))}}})
	_ = stream.Send(&ingestv1.UploadDocumentRequest{Part: &ingestv1.UploadDocumentRequest_Data{Data: []byte(body)}})
	return stream.CloseAndReceive()
}

func (w *workload) remove(ctx context.Context, document int) {
	f := w.begin(document)
	if f.name == "" {
		w.end(f, func() {})
		return
	}
	ok, err := w.insist(ctx, func(ctx context.Context) error {
		_, err := w.clients.ingest.DeleteDocument(ctx, &ingestv1.DeleteDocumentRequest{Name: f.name})
		return err
	})
	w.deletions++
	w.end(f, func() {
		switch {
		case ok || clara.KindOf(err) == clara.NotFound:
			f.gone, f.maybe, f.contents = true, false, map[string]bool{}
		case !f.gone:
			f.maybe = true
		}
	})
}

func (w *workload) reread(ctx context.Context, document int) {
	f := w.begin(document)
	defer w.end(f, func() {})
	if f.name == "" {
		return
	}
	// The call makes its own job, so it is not repeated: a lost reply would leave a job that nobody knows.
	try, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	job, err := w.clients.ingest.ReprocessDocument(try, &ingestv1.ReprocessDocumentRequest{Name: f.name})
	if err == nil {
		w.rereads++
		w.mu.Lock()
		w.jobNames = append(w.jobNames, job.Name)
		w.mu.Unlock()
	}
}

// ask searches and asks until ctx ends, and checks what it gets.
func (w *workload) ask(ctx context.Context, rng *rand.Rand) {
	modes := []rerankerv1.Mode{rerankerv1.Mode_MODE_LEXICAL, rerankerv1.Mode_MODE_MEMORY, rerankerv1.Mode_MODE_HYBRID}
	contexts := []generatorv1.Context{generatorv1.Context_CONTEXT_TEXT, generatorv1.Context_CONTEXT_MEMORY, generatorv1.Context_CONTEXT_MIXED}
	for ctx.Err() == nil {
		document, mode := rng.IntN(documents), modes[rng.IntN(len(modes))]
		before := w.state(document)
		question := fmt.Sprintf("How many boats has d%d?", document)
		var found []*rerankerv1.Candidate
		var err error
		if w.answers && rng.IntN(3) == 0 {
			var done bool
			found, done, err = w.answer(ctx, question, mode, contexts[rng.IntN(len(contexts))])
			w.answered++
			if err != nil {
				kind := clara.KindOf(err)
				if w.broken[kind.String()]++; kind == clara.Internal {
					w.t.Logf("an answer ended with: %v", err)
				}
			} else if !done {
				w.t.Errorf("an answer ended without a word: %d passages", len(found))
			}
		} else {
			var r *rerankerv1.RetrieveResponse
			r, err = w.reranker.Retrieve(ctx, &rerankerv1.RetrieveRequest{Collection: crashed, Question: question, TopK: 40, Mode: mode})
			found = r.GetCandidates()
			w.searches++
		}
		w.check(document, before, w.state(document), found)
		if err != nil {
			w.pause(ctx, 50)
		}
	}
}

func (w *workload) answer(ctx context.Context, question string, mode rerankerv1.Mode, kind generatorv1.Context) (found []*rerankerv1.Candidate, done bool, err error) {
	stream, err := w.generator.Answer(ctx, &generatorv1.AnswerRequest{Collection: crashed, Question: question, Retrieve: mode, Context: kind, TopK: 4, MaxTokens: 6})
	if err != nil {
		return nil, false, err
	}
	defer stream.Close()
	for stream.Receive() {
		switch part := stream.Msg().Part.(type) {
		case *generatorv1.AnswerResponse_Retrieved:
			found = part.Retrieved.Candidates
		case *generatorv1.AnswerResponse_Done:
			done = true
		}
	}
	return found, done, stream.Err()
}

// state is a copy of what is known about a document at this moment.
func (w *workload) state(document int) fact {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.facts[document]; f != nil {
		return *f
	}
	return fact{}
}

// check reports passages of a document that was deleted before and after the search, and revisions side by side.
func (w *workload) check(document int, before, after fact, found []*rerankerv1.Candidate) {
	revisions := map[string]string{}
	for _, c := range found {
		m := tag.FindStringSubmatch(c.Text)
		if m == nil {
			w.t.Errorf("a passage without its document: %q", c.Text)
			continue
		}
		if before.name != "" && before.gone && before.version == after.version && m[1] == strconv.Itoa(document) {
			w.t.Errorf("d%d was deleted and answers: %q", document, c.Text)
		}
		if r := revisions[m[1]]; r != "" && r != m[2] {
			w.t.Errorf("an answer holds d%s at revisions %s and %s", m[1], r, m[2])
		}
		revisions[m[1]] = m[2]
	}
}

// verify waits until all is done and compares what is there with what was said.
func (w *workload) verify() {
	t, ctx := w.t, w.t.Context()
	for _, name := range w.jobNames {
		_, err := w.clients.ingest.FinishIngest(ctx, &ingestv1.FinishIngestRequest{Name: name})
		require.NoError(t, err)
	}
	moving := map[string]string{}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for _, name := range w.jobNames {
			j, err := w.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: name})
			require.NoError(c, err)
			if j.EndTime == nil {
				moving[name] = fmt.Sprint(j.State, j.Items)
			} else {
				delete(moving, name)
			}
		}
		assert.Empty(c, moving, "jobs that do not end")
	}, 2*time.Minute, 500*time.Millisecond)

	var live []*ingestv1.Document
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		live = w.list(c)
		for _, d := range live {
			assert.True(c, d.State == ingestv1.Document_STATE_READY || d.State == ingestv1.Document_STATE_FAILED, "%s is %s", d.File, d.State)
		}
		w.index(c, live)
	}, 90*time.Second, 500*time.Millisecond, "the index must hold what the records say")

	byName := map[string]*ingestv1.Document{}
	for _, d := range live {
		byName[d.Name] = d
	}
	for n, f := range w.facts {
		d := byName[f.name]
		switch {
		case f.name == "":
		case f.gone:
			assert.Nil(t, d, "d%d was deleted", n)
			w.silent(n)
		case d == nil:
			assert.True(t, f.maybe, "d%d was accepted and is not there", n)
			w.silent(n)
		case d.State == ingestv1.Document_STATE_FAILED:
			// An event that is met by a kill at every attempt is given up, and says so.
			assert.Contains(t, d.Error, "given up after", "d%d", n)
			w.givenUp++
		default:
			assert.True(t, f.contents[d.ContentHash], "d%d holds a content that was not its last", n)
			w.whole(n, d)
		}
	}
}

func (w *workload) list(t require.TestingT) []*ingestv1.Document {
	var all []*ingestv1.Document
	for token := ""; ; {
		r, err := w.clients.ingest.ListDocuments(w.t.Context(), &ingestv1.ListDocumentsRequest{Parent: crashed, PageToken: token})
		require.NoError(t, err)
		all = append(all, r.Documents...)
		if token = r.NextPageToken; token == "" {
			return all
		}
	}
}

// index compares the points with the records.
func (w *workload) index(t require.TestingT, live []*ingestv1.Document) {
	c, err := w.clients.ingest.GetCollection(w.t.Context(), &ingestv1.GetCollectionRequest{Name: crashed})
	require.NoError(t, err)
	r := &compressorv1.SweepIndexRequest{Collection: "crash", Index: c.Index}
	var want int64
	for _, d := range live {
		if d.State == ingestv1.Document_STATE_READY {
			want += int64(d.PassageCount)
			r.Expected = append(r.Expected, &compressorv1.Expected{Document: d.Name[strings.LastIndexByte(d.Name, '/')+1:], Revision: d.Revision, Passages: d.PassageCount})
		}
	}
	report, err := w.compressor.SweepIndex(w.t.Context(), r)
	require.NoError(t, err)
	assert.Empty(t, report.Orphans, "documents with points that nobody stands for")
	assert.Empty(t, report.Incomplete, "documents without all of their points")
	assert.Equal(t, want, report.Points, "points in the index; passages of the records")
	assert.EqualValues(t, len(live), c.DocumentCount, "documents counted")
}

// silent checks that a document is not found.
func (w *workload) silent(n int) {
	for _, c := range w.search(n) {
		assert.NotEqual(w.t, fmt.Sprintf("d%d.md", n), c.File, "deleted and found: %q", c.Text)
	}
}

// whole checks that search finds each passage of a document once.
func (w *workload) whole(n int, d *ingestv1.Document) {
	var ordinals []int
	for _, c := range w.search(n) {
		if c.Document == d.Name {
			ordinals = append(ordinals, int(c.Ordinal))
		}
	}
	slices.Sort(ordinals)
	want := make([]int, d.PassageCount)
	for i := range want {
		want[i] = i
	}
	assert.Equal(w.t, want, ordinals, "passages of %s that search finds", d.File)
}

func (w *workload) search(n int) []*rerankerv1.Candidate {
	r, err := w.reranker.Retrieve(w.t.Context(), &rerankerv1.RetrieveRequest{Collection: crashed, Question: fmt.Sprintf("d%d", n), TopK: 1000, Mode: rerankerv1.Mode_MODE_LEXICAL})
	require.NoError(w.t, err)
	return r.Candidates
}
