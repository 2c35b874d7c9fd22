//go:build !race

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/reranker/v1/rerankerv1connect"
)

// programs is the folder of the programs under test: CLARA_PROGRAMS, such as bin/ after make build, or one that TestMain fills.
var programs string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if programs = os.Getenv("CLARA_PROGRAMS"); programs != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "clara-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	if err := build("clara"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const root = "../../../.."

// build builds programs into their folder unless they are there.
func build(names ...string) error {
	for _, name := range names {
		out, err := filepath.Abs(filepath.Join(programs, name))
		if err != nil {
			return err
		}
		if _, err := os.Stat(out); err == nil {
			continue
		}
		service := strings.TrimPrefix(name, "clara-")
		cmd := exec.Command("go", "build", "-o", out, "./services/"+service+"/cmd/"+service)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// environment is this process's without settings of the suite, but with where its caches are.
func environment(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "CLARA_") && name != "CLARA_CACHE" && name != "CLARA_ONNXRUNTIME" || strings.HasPrefix(name, "OTEL_") || name == "NATS_URL" {
			continue
		}
		env = append(env, e)
	}
	return append(env, more...)
}

// freePort returns an address of this machine that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// process is a program that runs.
type process struct {
	name string
	args []string
	wrap []string // a command that the program is started by; it becomes the program
	addr string   // where it answers /readyz; "" if it does not
	log  string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

func (p *process) start() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	line := slices.Concat(p.wrap, []string{filepath.Join(programs, p.name)}, p.args)
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = environment("CLARA_LOG_FORMAT=text"), out, out
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // its state says how it ended
		close(done)
	}(p.cmd, p.done)
	return nil
}

// ready waits until the program answers that it is.
func (p *process) ready(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "clara"), "wait", "--addr", "http://"+p.addr, "--timeout", "60s", "--pid", fmt.Sprint(p.cmd.Process.Pid))
	cmd.Env = environment()
	gone := make(chan struct{})
	go func() {
		select {
		case <-p.done: // a process that has ended stays visible until it is waited for
			_ = cmd.Process.Kill()
		case <-gone:
		}
	}()
	out, err := cmd.CombinedOutput()
	close(gone)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w: %s\n%s", p.name, err, out, p.tail(30))
	}
	return nil
}

// kill ends the program without giving it a chance to say anything.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop asks the program to end and returns its exit code.
func (p *process) stop() int {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// tail returns the last lines of the log.
func (p *process) tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// suite is `clara up` on a data folder of the test.
type suite struct {
	process
	t    testing.TB
	data string
	nats string
}

// newSuite makes a suite that is not started yet.
func newSuite(t testing.TB, data string, args ...string) *suite {
	t.Helper()
	s := &suite{t: t, data: data, nats: freePort(t)}
	s.process = process{name: "clara", addr: freePort(t), log: filepath.Join(t.TempDir(), "log")}
	s.args = append([]string{"up", "--data", data, "--listen", s.addr, "--nats-listen", s.nats, "--threads", "1", "--trainer-roots", os.TempDir()}, args...)
	return s
}

// startSuite runs `clara up` until the test ends. Then it must stop without a fault.
func startSuite(t testing.TB, args ...string) *suite {
	t.Helper()
	s := newSuite(t, t.TempDir(), args...)
	require.NoError(t, s.start())
	t.Cleanup(func() {
		if code := s.stop(); code != 0 {
			t.Errorf("clara up ended with %d:\n%s", code, s.tail(30))
		}
		if t.Failed() {
			t.Logf("end of the log of clara up:\n%s", s.tail(60))
		}
	})
	require.NoError(t, s.ready(t.Context()))
	return s
}

// sub runs a subtest in which the suite reports to that.
func (s *suite) sub(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		outer := s.t
		s.t = t
		defer func() { s.t = outer }()
		f(t)
	})
}

// result is what became of a command.
type result struct {
	out, err string
	code     int
}

// run runs a command of clara against the suite.
func (s *suite) run(args ...string) result {
	s.t.Helper()
	return s.runIn("", args...)
}

func (s *suite) runIn(dir string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "clara"), args...)
	cmd.Dir, cmd.Env = dir, environment("CLARA_ADDR=http://"+s.addr, "CLARA_NATS_URL=nats://"+s.nats)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a command that must succeed and returns what it prints.
func (s *suite) ok(args ...string) string {
	s.t.Helper()
	r := s.run(args...)
	require.Zero(s.t, r.code, "clara %s\n%s%s", strings.Join(args, " "), r.out, r.err)
	return r.out
}

// lines reads what a command printed with --json.
func lines[T any](t testing.TB, out string) []T {
	t.Helper()
	var all []T
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var v T
		require.NoError(t, d.Decode(&v), out)
		all = append(all, v)
	}
	return all
}

// clients are the services of a suite, each at its address.
type clients struct {
	ingest     ingestv1connect.IngestServiceClient
	jobs       jobv1connect.JobServiceClient
	compressor compressorv1connect.CompressorServiceClient
	reranker   rerankerv1connect.RerankerServiceClient
	generator  generatorv1connect.GeneratorServiceClient
	models     modelv1connect.ModelServiceClient
}

func (s *suite) clients() clients {
	c := dial(s.t, s.addr)
	return clients{
		ingest:     ingestv1connect.NewIngestServiceClient(c.HTTP, c.URL, c.Options()...),
		jobs:       jobv1connect.NewJobServiceClient(c.HTTP, c.URL, c.Options()...),
		compressor: compressorv1connect.NewCompressorServiceClient(c.HTTP, c.URL, c.Options()...),
		reranker:   rerankerv1connect.NewRerankerServiceClient(c.HTTP, c.URL, c.Options()...),
		generator:  generatorv1connect.NewGeneratorServiceClient(c.HTTP, c.URL, c.Options()...),
		models:     modelv1connect.NewModelServiceClient(c.HTTP, c.URL, c.Options()...),
	}
}

func dial(t testing.TB, addr string) *rpc.Client {
	t.Helper()
	c, err := rpc.Dial(addr, rpc.ClientConfig{Timeout: time.Minute}, rpc.ClientOptions{})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// tinyBase writes a tiny model and returns its folder; its context is long enough for prompts of passages.
func tinyBase(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny-base")
	tinymodel.Base(t, dir, tinymodel.Default().With(tinymodel.Config{"max_position_embeddings": 4096}), 7)
	return dir
}

// tinyCheckpoint writes a CLaRa checkpoint on the base: passages of 256 bytes, four memory tokens each.
func tinyCheckpoint(t testing.TB, base string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny-clara")
	tinymodel.Checkpoint(t, dir, base, 256, 64, 7)
	return dir
}

// write makes a file of the test and returns its path.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}
