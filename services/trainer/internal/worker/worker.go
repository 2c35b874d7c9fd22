package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

// PlanFile is the plan in the run's folder.
const PlanFile = "plan.json"

// Options say what to run. Program and Plan are required.
type Options struct {
	Program string // path of clara-train
	Plan    trainplan.Plan
	// Grace is how long a rank may take to save and leave before it is killed. 0: 5 min.
	Grace time.Duration
	// Lost is Grace for the ranks that are left when one is lost: they can no longer save. 0: 20 s.
	Lost time.Duration
	// Place says which ranks of the run are started here; by default all of the plan.
	Place Place
	// Event is told what happens, one call at a time.
	Event func(trainplan.Event)
	// Log is told each line of a rank's log, one call at a time.
	Log func(rank int, line string)
}

// Place is one machine's part in a run over several, by the names of torchrun. Each machine starts its own ranks; they meet at
// the master, which is a machine with rank 0.
type Place struct {
	Nodes, Node int    // how many machines, and which one this is, from 0; 0 machines: this one alone
	Ranks       int    // on each of them
	Master      string // host name or address of machine 0
	Port        int    // where rank 0 listens, on all machines the same
}

// Validate returns all faults, as one Invalid error.
func (p Place) Validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if p.Nodes < 1 || p.Ranks < 1 {
		bad("nnodes is %d and nproc_per_node %d, at least 1", p.Nodes, p.Ranks)
	}
	if p.Node < 0 || p.Node >= p.Nodes {
		bad("node_rank is %d of nnodes %d: count from 0", p.Node, p.Nodes)
	}
	if p.Nodes > 1 && (p.Master == "" || p.Port < 1 || p.Port > 65535) {
		bad("master_addr and master_port must say where the %d machines meet: an address of machine 0, and a free port there", p.Nodes)
	}
	if len(faults) > 0 {
		return clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return nil
}

// ErrStopped says that the workers saved and left because the context ended.
var ErrStopped = errors.New("stopped")

// Find returns the path of clara-train: the given one, one beside this program, or one on the search path. State, with
// the way to get it, if there is none.
func Find(given string) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", clara.Errorf(clara.State, "start training: %s is not a program (%w); build it with make train-build, or name another with --trainer-program", given, err)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "clara-train")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("clara-train")
	if err != nil {
		return "", clara.Errorf(clara.State, "start training: clara-train is not installed; build it with make deps-torch && make train-build, or name it with --trainer-program")
	}
	return path, nil
}

// Info is what clara-train says of its machine.
type Info struct {
	Libtorch string `json:"libtorch"`
	Threads  int    `json:"threads"`
	Devices  int    `json:"cuda_devices"`
	CUDA     string `json:"cuda"` // why there are no devices
	Memory   int64  `json:"free_memory"`
}

// Ask runs clara-train info.
func Ask(ctx context.Context, program string) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "info")
	cmd.Stdout, cmd.Stderr = &out, &errs
	var info Info
	if err := cmd.Run(); err != nil {
		return info, clara.Errorf(clara.State, "start training: %s info: %w: %s", program, err, lastLines(errs.String(), 5))
	}
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		return info, clara.Errorf(clara.State, "start training: %s info says nothing that can be read: %w", program, err)
	}
	return info, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// group is the processes of a stage.
type group struct {
	Options
	mu     sync.Mutex // of the callbacks and what follows
	failed map[int]trainplan.Event
	tails  map[int][]string
	heads  map[int]string // the line that says why, if one does
}

// ended is how a rank's process ended.
type ended struct {
	rank int
	err  error // of Wait; nil: exit status 0
}

// Run trains the stage and returns when every process has ended: nil if it finished, ErrStopped if ctx ended and the ranks
// saved and left, else why it failed.
func Run(ctx context.Context, o Options) error {
	if o.Grace == 0 {
		o.Grace = 5 * time.Minute
	}
	if o.Lost == 0 {
		o.Lost = 20 * time.Second
	}
	g := &group{Options: o, failed: map[int]trainplan.Event{}, tails: map[int][]string{}, heads: map[int]string{}}
	if err := ctx.Err(); err != nil {
		return ErrStopped
	}
	if err := g.writePlan(); err != nil {
		return err
	}
	if err := g.meet(); err != nil {
		return err
	}
	ends := make(chan ended, g.Place.Ranks)
	var processes []*os.Process
	for local := range g.Place.Ranks {
		p, err := g.start(local, ends)
		if err != nil {
			for _, p := range processes {
				kill(p, syscall.SIGKILL)
			}
			for range processes {
				<-ends
			}
			return err
		}
		processes = append(processes, p)
	}
	return g.wait(ctx, processes, ends)
}

// meet settles where the ranks meet.
func (g *group) meet() error {
	at := &g.Place
	if at.Nodes == 0 {
		*at = Place{Nodes: 1, Ranks: max(1, g.Plan.World)}
	}
	if err := at.Validate(); err != nil {
		return err
	}
	if at.Nodes > 1 {
		// A name that nobody knows is told at once; an address that does not answer yet may be a machine that is still starting.
		if _, err := net.LookupHost(at.Master); err != nil {
			return clara.Errorf(clara.Invalid, "master_addr %s: %w", at.Master, err)
		}
		return nil
	}
	at.Master = "127.0.0.1"
	if at.Port == 0 {
		var err error
		at.Port, err = freePort()
		return err
	}
	return nil
}

// wait collects the ends of all processes and says what became of the group.
func (g *group) wait(ctx context.Context, processes []*os.Process, ends <-chan ended) error {
	var (
		first   *ended // that failed
		done    = ctx.Done()
		kills   <-chan time.Time
		stopped bool
		early   bool // stopped before it had begun
	)
	hurry := func(after time.Duration) {
		for _, p := range processes {
			kill(p, syscall.SIGTERM)
		}
		kills = time.After(after)
	}
	for left := len(processes); left > 0; {
		select {
		case <-done:
			done, stopped = nil, true
			hurry(g.Grace)
		case <-kills:
			kills = nil
			for _, p := range processes {
				kill(p, syscall.SIGKILL)
			}
		case e := <-ends:
			left--
			if e.err == nil || exitCode(e.err) == exitStopped {
				continue
			}
			if stopped && signalOf(e.err) == syscall.SIGTERM {
				// It had not begun, so there was nothing to save; the others wait for it in vain.
				early = true
				hurry(g.Lost)
				continue
			}
			if first == nil {
				first = &e
				if left > 0 {
					hurry(g.Lost)
				}
			}
		}
	}
	switch {
	case early:
		return ErrStopped
	case first != nil && stopped && signalOf(first.err) == syscall.SIGKILL:
		return clara.Errorf(clara.Unavailable, "rank %d did not save and leave within %s and was killed; the last checkpoint is whole", first.rank, g.Grace)
	case first != nil:
		return g.fault(*first)
	case stopped:
		return ErrStopped
	}
	return nil
}

// exitStopped is clara-train's exit status after it has saved and left.
const exitStopped = 3

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// signalOf returns the signal that ended a process, 0 if none did.
func signalOf(err error) syscall.Signal {
	var e *exec.ExitError
	if errors.As(err, &e) {
		if s, ok := e.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return s.Signal()
		}
	}
	return 0
}

// fault is the error of the group, from the end of the rank that went first.
func (g *group) fault(e ended) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A rank that was killed says nothing; one that failed says why.
	if f, ok := g.failed[e.rank]; ok && f.Message != "" {
		kind := kindOf(f.Fault)
		if g.Place.Nodes*g.Place.Ranks > 1 && !strings.HasPrefix(f.Message, fmt.Sprintf("rank %d", e.rank)) {
			return clara.Errorf(kind, "rank %d: %s", e.rank, f.Message)
		}
		return clara.Errorf(kind, "%s", f.Message)
	}
	how := e.err.Error()
	switch s := signalOf(e.err); s {
	case 0:
	case syscall.SIGKILL:
		how = "was killed, most often because the machine ran out of memory: lower micro_train_batch_size or set gradient_checkpointing"
	case syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL:
		how = "crashed (" + s.String() + ")"
	default:
		how = "was ended by a signal (" + s.String() + ")"
	}
	if head := g.heads[e.rank]; head != "" {
		how = "crashed: " + head
	}
	tail := strings.Join(g.tails[e.rank], "\n")
	if tail != "" {
		tail = "; its last words:\n" + tail
	}
	return clara.Errorf(clara.Unavailable, "worker of rank %d %s%s", e.rank, how, tail)
}

// kindOf finds a kind by its name.
func kindOf(name string) clara.Kind {
	for k := clara.Internal; k <= clara.Unauthenticated; k++ {
		if k.String() == name {
			return k
		}
	}
	return clara.Internal
}

func (g *group) writePlan() error {
	dir := g.Plan.RunDir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "make the run's folder: %w", err)
	}
	raw, err := json.MarshalIndent(g.Plan, "", "  ")
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	tmp := filepath.Join(dir, "."+PlanFile)
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o644); err != nil {
		return clara.Errorf(clara.Unavailable, "write the plan: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, PlanFile)); err != nil {
		return clara.Errorf(clara.Unavailable, "write the plan: %w", err)
	}
	return nil
}

// freePort returns a port where the ranks can meet.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, clara.Errorf(clara.Unavailable, "find a port for the ranks to meet: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// kill sends a signal to a worker's process group. A process that is gone already needs none.
func kill(p *os.Process, s syscall.Signal) { _ = syscall.Kill(-p.Pid, s) }

// start starts the process of a rank, which tells ends when it is over and all that it wrote was read.
func (g *group) start(local int, ends chan<- ended) (*os.Process, error) {
	at := g.Place
	rank, world := at.Node*at.Ranks+local, at.Nodes*at.Ranks
	log, err := os.OpenFile(filepath.Join(g.Plan.RunDir, fmt.Sprintf("rank-%d.log", rank)), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "open the log of rank %d: %w", rank, err)
	}
	cmd := exec.Command(g.Program, "run", filepath.Join(g.Plan.RunDir, PlanFile))
	cmd.SysProcAttr = attributes()
	cmd.Env = append(os.Environ(),
		"RANK="+strconv.Itoa(rank), "LOCAL_RANK="+strconv.Itoa(local), "WORLD_SIZE="+strconv.Itoa(world), "LOCAL_WORLD_SIZE="+strconv.Itoa(at.Ranks),
		"MASTER_ADDR="+at.Master, "MASTER_PORT="+strconv.Itoa(at.Port))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("start rank %d: %w", rank, err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("start rank %d: %w", rank, err)
	}
	started := make(chan error)
	go func() {
		// The system ends a worker with the thread that started it, so that thread stays until the worker is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		var reading sync.WaitGroup
		reading.Go(func() { lines(stdout, func(b []byte) { g.event(rank, b, log) }) })
		reading.Go(func() { lines(stderr, func(b []byte) { g.log(rank, string(b), log) }) })
		reading.Wait()
		ends <- ended{rank, cmd.Wait()}
	}()
	if err := <-started; err != nil {
		return nil, clara.Errorf(clara.State, "start rank %d: %w; build clara-train with make train-build", rank, err)
	}
	return cmd.Process, nil
}

// maxLine bounds a line of a worker's output; the rest of a longer one is another line.
const maxLine = 1 << 20

// lines calls f with each line until the end.
func lines(r io.Reader, f func([]byte)) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := in.ReadSlice('\n')
		if b = bytes.TrimRight(b, "\r\n"); len(b) > 0 {
			f(b)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// event takes a line of standard output; what is no event is a line of the log.
func (g *group) event(rank int, line []byte, log io.Writer) {
	var e trainplan.Event
	if err := json.Unmarshal(line, &e); err != nil || e.Kind == "" {
		g.log(rank, string(line), log)
		return
	}
	e.Rank = rank
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Kind == trainplan.Failed {
		if _, ok := g.failed[rank]; !ok {
			g.failed[rank] = e
		}
	}
	if g.Event != nil {
		g.Event(e)
	}
}

// tail is how many last lines of a rank's log are kept for its error.
const tail = 10

// crash is how Go's and C++'s runtimes begin their last words, before pages of stacks and registers.
var crash = regexp.MustCompile(`^(SIG[A-Z]+: |fatal error: |panic: |terminate called|\s*what\(\): )`)

func (g *group) log(rank int, line string, log io.Writer) {
	fmt.Fprintln(log, line)
	g.mu.Lock()
	defer g.mu.Unlock()
	t := append(g.tails[rank], line)
	g.tails[rank] = t[max(0, len(t)-tail):]
	if g.heads[rank] == "" && crash.MatchString(line) {
		g.heads[rank] = strings.TrimSpace(line)
	}
	if g.Log != nil {
		g.Log(rank, line)
	}
}
