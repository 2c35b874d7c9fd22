package stage_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// TestMain turns the test program into a rank where the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("STAGE_TEST_RANK") != "" {
		if err := worker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func worker() error {
	var p trainplan.Plan
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	rank, _ := strconv.Atoi(os.Getenv("STAGE_TEST_RANK"))
	port, _ := strconv.Atoi(os.Getenv("STAGE_TEST_PORT"))
	torchx.SetThreads(1)
	env := stage.Env{Out: os.Stdout, Log: slog.New(slog.DiscardHandler), Device: torchx.CPU}
	ctx := context.Background()
	switch os.Getenv("STAGE_TEST_THIRD_STEP") {
	case "dies":
		ctx = &third{ctx, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }, 0}
	case "disk full":
		signal.Ignore(syscall.SIGXFSZ)
		ctx = &third{ctx, func() { _ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 8 << 10, Max: 8 << 10}) }, 0}
	}
	if p.World == 1 {
		return stage.Execute(ctx, p, env)
	}
	g, err := torchx.Join("gloo", "127.0.0.1", "127.0.0.1", port, rank, p.World, torchx.CPU, time.Duration(p.PeerTimeout*float64(time.Second)))
	if err != nil {
		return err
	}
	env.Group = g
	return stage.Execute(ctx, p, env)
}

// third calls f when it is asked about for the third time, which is once a step.
type third struct {
	context.Context
	f     func()
	asked int
}

func (d *third) Err() error {
	if d.asked++; d.asked == 3 {
		d.f()
	}
	return d.Context.Err()
}

// alone prepares a process that runs a plan as its only rank.
func alone(t *testing.T, p trainplan.Plan, env ...string) *exec.Cmd {
	t.Helper()
	plan, err := json.Marshal(p)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(exe)
	c.Env = append(append(os.Environ(), "STAGE_TEST_RANK=0", "OMP_WAIT_POLICY=passive"), env...)
	c.Stdin = bytes.NewReader(plan)
	return c
}

// ranks runs a plan on two processes and returns the output of rank 0 and the error of each.
func ranks(t *testing.T, p trainplan.Plan, dies bool) ([]trainplan.Metrics, string, [2]error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	p.World = 2
	plan, err := json.Marshal(p)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	var cmds [2]*exec.Cmd
	var out, stderr bytes.Buffer
	for rank := range cmds {
		c := exec.Command(exe)
		c.Env = append(os.Environ(), fmt.Sprintf("STAGE_TEST_RANK=%d", rank), fmt.Sprintf("STAGE_TEST_PORT=%d", port), "OMP_WAIT_POLICY=passive")
		c.Stdin, c.Stdout = bytes.NewReader(plan), io.Discard
		if rank == 0 {
			c.Stdout, c.Stderr = &out, &stderr
		} else if dies {
			c.Env = append(c.Env, "STAGE_TEST_THIRD_STEP=dies")
		}
		require.NoError(t, c.Start())
		cmds[rank] = c
	}
	var errs [2]error
	for rank, c := range cmds {
		errs[rank] = c.Wait()
	}
	m, _ := parse(out.Bytes())
	return m, stderr.String(), errs
}

// Two ranks make the steps of one process, up to rounding, the last and smaller batch included.
func TestTwoRanksEqualOne(t *testing.T) {
	p := tinyPlan(t)
	p.Dropout, p.Epochs = 0, 1
	p.BatchSize = 5 // 5, 5 and 1 of 11 samples: in the last step a rank has none
	want, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	for _, zero := range []int{0, 2, 3} {
		t.Run(fmt.Sprintf("zero_stage %d", zero), func(t *testing.T) {
			q := p
			q.SavePath, q.RunDir, q.ZeroStage = filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x.run"), zero
			got, stderr, errs := ranks(t, q, false)
			require.NoError(t, errs[0], stderr)
			require.NoError(t, errs[1])
			assert.InEpsilonSlice(t, losses(want), losses(got), 1e-3)
			_, err = checkpoint.Open(q.SavePath)
			require.NoError(t, err)
		})
	}
}

// Two ranks of a machine keep the documents' memories in one file: neither may keep the other from it.
func TestTwoRanksShareMemories(t *testing.T) {
	p := tinyPlan(t)
	p.MaxSteps = 1
	_, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	q := next(t, p, trainplan.Stage2)
	q.Dropout, q.PeerTimeout = 0, 60
	want, _, err := execute(context.Background(), q)
	require.NoError(t, err)
	q.SavePath, q.RunDir = filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x.run")
	got, stderr, errs := ranks(t, q, false)
	require.NoError(t, errs[0], stderr)
	require.NoError(t, errs[1])
	assert.InEpsilonSlice(t, losses(want), losses(got), 1e-3)
}

// State that lay in shards goes on in one process, and the other way round.
func TestResumeOfShards(t *testing.T) {
	p := tinyPlan(t)
	p.Dropout = 0
	want, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	q := p
	q.SavePath, q.RunDir, q.ZeroStage, q.SaveSteps, q.Resume, q.PeerTimeout = p.SavePath+"z", p.SavePath+"z.run", 1, 1, true, 60
	_, _, errs := ranks(t, q, true) // dies in its third step
	require.Error(t, errs[0])
	rest, _, err := execute(context.Background(), q)
	require.NoError(t, err)
	assert.InEpsilonSlice(t, losses(want)[4:], losses(rest), 1e-3)
}

// A rank that is killed ends the run with a message, and what was saved can be gone on from.
func TestKilledRank(t *testing.T) {
	p := tinyPlan(t)
	p.Dropout, p.SaveSteps, p.PeerTimeout = 0, 1, 60
	_, stderr, errs := ranks(t, p, true)
	require.Error(t, errs[0])
	require.Error(t, errs[1])
	assert.Contains(t, stderr, "a peer is lost or slow")
	kept := stage.Checkpoints(p.RunDir)
	require.NotEmpty(t, kept)
	assert.Equal(t, "step-00000002", filepath.Base(kept[len(kept)-1]))
	p.Resume = true
	rest, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	assert.Len(t, rest, 4)
}

// A run whose watcher has died saves, stops, and can be gone on from.
func TestReaderGone(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs = 500 // far more than it makes before it sees that nobody reads
	c := alone(t, p)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), `"event":"step"`) {
	}
	require.NoError(t, out.Close())
	require.Error(t, c.Wait())
	assert.True(t, c.ProcessState.Exited(), "killed: %s", c.ProcessState)
	kept := stage.Checkpoints(p.RunDir)
	require.Len(t, kept, 1, stderr.String())
	_, err = checkpoint.Open(kept[0])
	require.NoError(t, err)
}

// A disk that is full when a checkpoint is due ends the run with a message; the checkpoint before is whole.
func TestDiskFull(t *testing.T) {
	p := tinyPlan(t)
	p.Dropout, p.SaveSteps = 0, 1
	want, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	p.SavePath, p.RunDir = p.SavePath+"d", p.SavePath+"d.run"
	c := alone(t, p, "STAGE_TEST_THIRD_STEP=disk full")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	require.Error(t, c.Run())
	assert.Contains(t, stderr.String(), "save step 3")
	kept := stage.Checkpoints(p.RunDir)
	require.NotEmpty(t, kept)
	assert.Equal(t, "step-00000002", filepath.Base(kept[len(kept)-1]))
	p.Resume = true
	rest, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	assert.Equal(t, losses(want)[4:], losses(rest))
}

func TestUnreachableMaster(t *testing.T) {
	_, err := torchx.Join("gloo", "127.0.0.1", "127.0.0.1", 9, 1, 2, torchx.CPU, 2*time.Second)
	require.ErrorContains(t, err, "reach the master at 127.0.0.1:9")
}
