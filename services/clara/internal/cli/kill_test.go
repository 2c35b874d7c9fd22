package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/testkit/llmtest"
	"github.com/clara-suite/clara/services/clara/internal/cli"
)

// asProgram makes the test's own binary the program, so that tests can kill it.
const asProgram = "CLARA_CLI_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	var p program
	env := &cli.Env{Out: os.Stdout, Err: os.Stderr}
	parsed, err := config.Parse(&p, config.Options{Name: "clara", Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Exit: os.Exit,
		Kong: []kong.Option{kong.BindTo(context.Background(), (*context.Context)(nil)), kong.Bind(env)}})
	if err == nil {
		env.Services = p.Services
		err = parsed.Kong.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// moments are told of what happens around a running build, and report when the awaited one has come.
type moments struct {
	mu      sync.Mutex
	awaited func(what string) bool
	came    chan struct{}
}

func (m *moments) await(f func(what string) bool) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awaited, m.came = f, make(chan struct{})
	return m.came
}

// tell reports whether this is the awaited moment.
func (m *moments) tell(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.awaited == nil || !m.awaited(what) {
		return false
	}
	m.awaited = nil
	close(m.came)
	return true
}

// nth is the n-th moment of a kind.
func nth(n int, kind string) func(string) bool {
	return func(what string) bool {
		if strings.HasPrefix(what, kind) {
			n--
		}
		return n == 0
	}
}

// A build is killed in every step, by SIGKILL, and goes on each time where it was: no more than the item in work is lost.
func TestKilledInEveryStep(t *testing.T) {
	t.Parallel()
	var m moments
	s := llmtest.Start(t)
	s.Faults = func(_ int, c llmtest.Call) llmtest.Fault {
		what := "passage"
		switch {
		case c.Path == "embeddings":
			what = "embeddings"
		case strings.Contains(c.Prompt, "Describe this picture"):
			what = "picture"
		case strings.Contains(c.Prompt, "verdicts"):
			what = "judge"
		case strings.Contains(c.Prompt, "multi_hop"):
			what = "multi-hop"
		}
		if m.tell(what) {
			return llmtest.Hang // the answer never comes
		}
		return llmtest.None
	}
	dir := raw(t)
	start := func(out string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "data", "build", dir, "--out", out, "--multi-hop", "60", "--judge", "--negatives", "embedding", "--ocr", "never")
		cmd.Env = append(os.Environ(), asProgram+"=1", "OPENAI_API_KEY="+key, "BASE_URL="+s.URL, "MODEL=writer", "VISION_MODEL=eye", "EMBEDDING_MODEL=vectors", "CLARA_LLM_CONCURRENCY=1")
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		require.NoError(t, cmd.Start())
		return cmd, &log
	}
	whole, out := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "killed")
	cmd, log := start(whole)
	require.NoError(t, cmd.Wait(), log)
	all := len(s.Calls())

	store := filepath.Join(out, ".clara", "extract")
	require.NoError(t, os.MkdirAll(store, 0o700))
	watch, err := fsnotify.NewWatcher()
	require.NoError(t, err)
	require.NoError(t, watch.Add(store))
	require.NoError(t, watch.Add(out))
	var watching sync.WaitGroup
	watching.Go(func() {
		for e := range watch.Events {
			if rel, err := filepath.Rel(out, e.Name); err == nil && e.Has(fsnotify.Create) {
				m.tell("file " + filepath.ToSlash(rel))
			}
		}
	})
	kills := 0
	for _, step := range []struct {
		name string
		at   func(string) bool
	}{
		{"extraction", nth(2, "file .clara/extract/")},
		{"writing extracted documents", nth(1, "file .raw_knowledge.jsonl")},
		{"pictures", nth(1, "picture")},
		{"synthesis", nth(3, "passage")},
		{"synthesis again", nth(2, "passage")},
		{"multi-hop questions", nth(2, "multi-hop")},
		{"judging", nth(2, "judge")},
		{"embeddings", nth(1, "embeddings")},
		{"writing the files", nth(1, "file .instruction_data.jsonl")},
	} {
		came := m.await(step.at)
		cmd, log := start(out)
		<-came // the test's own time limit ends what never comes
		require.NoError(t, cmd.Process.Kill(), step.name)
		_ = cmd.Wait() // it was killed
		kills++
		assert.NotContains(t, log.String(), key)
	}
	cmd, log = start(out)
	require.NoError(t, cmd.Wait(), log)
	require.NoError(t, watch.Close())
	watching.Wait()
	for _, f := range []string{"pretrain_data.jsonl", "instruction_data.jsonl", "end_to_end_data.jsonl", "clara_training_data.jsonl"} {
		want, err := os.ReadFile(filepath.Join(whole, f))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(out, f))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), f)
	}
	asked := len(s.Calls()) - all
	t.Logf("killed %d times: %d requests, %d without kills", kills, asked, all)
	assert.LessOrEqual(t, asked-all, kills, "each kill loses the one request in work at most")
	left, err := filepath.Glob(filepath.Join(out, ".*.jsonl.*"))
	require.NoError(t, err)
	assert.Empty(t, left, "nothing unfinished stays behind")
}
