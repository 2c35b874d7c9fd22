package cli

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

func TestTableAlignsByCells(t *testing.T) {
	var b strings.Builder
	table(&b, []string{"FILE", "RESULT", "REASON"}, [][]string{
		{"welcome.md", "done", ""},
		{"产品手册.md", "failed", "line 1\nline 2\x1b[2J"},
		{"a  b.md", "in part", "page 3"},
	})
	assert.Equal(t, `FILE         RESULT   REASON
welcome.md   done
产品手册.md  failed   line 1 line 2 [2J
a  b.md      in part  page 3
`, b.String())
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		name, in string
		width    int
		want     string
	}{
		{"fits", "abc", 3, "abc"},
		{"latin", "abcd", 3, "abc"},
		{"no half of a wide character", "产品手册", 5, "产品"},
		{"accent stays with its letter", "cafe\u0301s", 4, "cafe\u0301"},
		{"nothing", "abc", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, clip(c.in, c.width)) })
	}
	assert.Equal(t, "产品  ", pad("产品", 6))
}

func TestPace(t *testing.T) {
	for _, c := range []struct {
		name string
		in   *jobv1.Progress
		want string
	}{
		{"none", nil, ""},
		{"nothing known yet", &jobv1.Progress{Unit: "documents"}, ""},
		{"stage alone", &jobv1.Progress{Stage: "hashes"}, "hashes"},
		{"no total", &jobv1.Progress{Done: 6, Unit: "steps", Stage: "hashes"}, "hashes, 6 steps"},
		{"all", &jobv1.Progress{Done: 2, Total: 4, Unit: "passages", Rate: 1.5, RemainingSeconds: 3}, "2 of 4 passages, 1.5/s, 3s left"},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, pace(c.in)) })
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, false)
	p.update(&jobv1.Job{State: jobv1.Job_STATE_PENDING, Progress: &jobv1.Progress{Unit: "documents"}})
	assert.Empty(t, b.String(), "nothing is known yet")
	p.update(&jobv1.Job{State: jobv1.Job_STATE_RUNNING, Progress: &jobv1.Progress{Total: 2, Unit: "documents"}, Items: []*jobv1.Item{
		{Name: "a", Label: "a.md", State: jobv1.Job_STATE_FAILED, Error: "a.md is empty"},
		{Name: "b", Label: "b.pdf", State: jobv1.Job_STATE_RUNNING, Stage: "extract", Progress: &jobv1.Progress{Done: 3, Total: 9, Unit: "pages"}},
	}})
	assert.Equal(t, "a.md: failed: a.md is empty\nrunning: 0 of 2 documents; b.pdf: extract, 3 of 9 pages\n", b.String())
}

func TestSummary(t *testing.T) {
	created := time.Unix(1e9, 0)
	job := &jobv1.Job{
		Name: "jobs/x", State: jobv1.Job_STATE_PARTIAL, ItemCount: 2, DoneCount: 1, FailedCount: 1, Attempt: 1,
		CreateTime: timestamppb.New(created), StartTime: timestamppb.New(created.Add(2 * time.Second)), EndTime: timestamppb.New(created.Add(3 * time.Second)),
		Items: []*jobv1.Item{
			{Label: "empty.txt", State: jobv1.Job_STATE_FAILED, Error: "empty.txt is empty"},
			{Label: "a.md", State: jobv1.Job_STATE_SUCCEEDED, Progress: &jobv1.Progress{Done: 4, Total: 4, Unit: "passages"}},
		},
	}
	// The service has refused empty.txt and keeps it as an item; gone.txt has never reached it.
	local := untold(job, []failure{{"empty.txt", "empty.txt is empty"}, {"gone.txt", "open: no such file"}})
	var b strings.Builder
	summary(&b, job, local)
	assert.Equal(t, `FILE       RESULT  PASSAGES  REASON
empty.txt  failed            empty.txt is empty
a.md       done    4
gone.txt   failed            open: no such file

jobs/x: 1 done, 0 in part, 2 failed in 3.0 s
`, b.String())
}

func TestItemTableOfAnActivation(t *testing.T) {
	var b strings.Builder
	itemTable(&b, &jobv1.Job{Type: "activate", Items: []*jobv1.Item{
		{Label: "handbook", State: jobv1.Job_STATE_SUCCEEDED, Progress: &jobv1.Progress{Done: 10, Total: 10, Unit: "documents"}},
		{Label: "other", State: jobv1.Job_STATE_RUNNING, Progress: &jobv1.Progress{Done: 1, Total: 3, Unit: "documents"}},
	}}, nil)
	assert.Equal(t, `COLLECTION  RESULT   DOCUMENTS  REASON
handbook    done     10
other       running  1 of 3
`, b.String())
}

// A file's name may be any bytes but the slash; what travels is UTF-8, and what is shown moves no cursor.
func TestOddNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"bad-\xff\xfe.txt", "new\nline.txt", "-dash.txt", "emoji-\U0001F40B.txt", strings.Repeat("a", 251) + ".txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("text"), 0o600))
	}
	files, err := listFiles([]string{dir})
	require.NoError(t, err)
	require.Len(t, files, 5)
	uris := map[string]bool{}
	var rows [][]string
	for _, f := range files {
		uri := fileURI(f.path)
		assert.True(t, utf8.ValidString(f.label) && utf8.ValidString(uri), "%q %q", f.label, uri)
		uris[uri] = true
		rows = append(rows, []string{f.label, "done"})
		_, err := os.Stat(f.path)
		assert.NoError(t, err, "the path itself is left as it is")
	}
	assert.True(t, uris["file://"+filepath.ToSlash(dir)+"/bad-%FF%FE.txt"], "%v", uris)
	var b strings.Builder
	table(&b, []string{"FILE", "RESULT"}, rows)
	assert.Equal(t, 6, strings.Count(b.String(), "\n"))
	for line := range strings.Lines(b.String()) {
		assert.Less(t, len(line), 100, line)
	}
}

func TestListFilesRefusesPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := listFiles([]string{pipe})
	require.ErrorContains(t, err, pipe+" is neither a file nor a folder")
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = listFiles([]string{pipe + "x"})
	require.ErrorContains(t, err, pipe+"x: no such file or directory")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestDeadLetterAsJSON(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"event", `{"collection":"x"}`, `{"collection":"x"}`},
		{"not JSON", "\x00{", `"\u0000{"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := json.Marshal(deadJSON(events.DeadLetter{Sequence: 7, Service: "ingest", Data: []byte(c.data)}))
			require.NoError(t, err)
			assert.Contains(t, string(b), `"number":7`)
			assert.Contains(t, string(b), `"event":`+c.want)
		})
	}
}

func TestExplainUnreachedService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	e := &Env{Services: Services{Addr: "http://" + addr}, Out: io.Discard, Err: io.Discard}
	err = e.Explain((&DocsList{Collection: "x"}).Run(t.Context(), e))
	require.ErrorContains(t, err, addr)
	assert.ErrorContains(t, err, "clara up")
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	other := errors.New("other")
	assert.Equal(t, other, e.Explain(other))
}

// Flags that do nothing in a command are refused with what is meant, and are not in its help.
func TestFlagsThatDoNothing(t *testing.T) {
	type program struct {
		Services
		Up      struct{} `cmd:""`
		Gateway struct {
			Peer string `name:"to-ingest-addr" default:"x"`
		} `cmd:""`
		Docs struct {
			List struct{} `cmd:""`
		} `cmd:""`
		Index struct {
			Serve struct{} `cmd:""`
		} `cmd:""`
	}
	for _, c := range []struct {
		name string
		args []string
		want string // "": it is taken
	}{
		{"gateway", []string{"gateway", "--ingest-addr", "http://a"}, "--to-ingest-addr"},
		{"before the command", []string{"--trainer-addr", "http://a", "gateway"}, "--to-trainer-addr"},
		{"up", []string{"up", "--addr", "http://a"}, "--listen"},
		{"two words", []string{"index", "serve", "--ingest-addr", "http://a"}, "calls no service"},
		{"meant for the gateway", []string{"gateway", "--to-ingest-addr", "http://a"}, ""},
		{"a command that calls", []string{"docs", "list", "--ingest-addr", "http://a", "--json"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p program
			k, err := kong.New(&p, kong.Name("clara"))
			require.NoError(t, err)
			ctx, err := k.Parse(c.args)
			require.NoError(t, err)
			err = CheckFlags(ctx)
			if c.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, c.want)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
		})
	}
	t.Run("shared variables are no fault", func(t *testing.T) {
		t.Setenv("CLARA_INGEST_ADDR", "http://a")
		var p program
		k, err := kong.New(&p, kong.Name("clara"))
		require.NoError(t, err)
		ctx, err := k.Parse([]string{"gateway"})
		require.NoError(t, err)
		assert.Equal(t, "http://a", p.IngestAddr)
		assert.NoError(t, CheckFlags(ctx))
	})
	t.Run("help", func(t *testing.T) {
		for command, shown := range map[string]bool{"gateway": false, "docs": true} {
			var p program
			var out strings.Builder
			k, err := kong.New(&p, kong.Name("clara"), kong.Help(Help), kong.Writers(&out, &out), kong.Exit(func(int) {}))
			require.NoError(t, err)
			_, _ = k.Parse([]string{command, "--help"}) // it goes on after help where a program would end
			assert.Equal(t, shown, strings.Contains(out.String(), " --ingest-addr"), out.String())
		}
	})
}
