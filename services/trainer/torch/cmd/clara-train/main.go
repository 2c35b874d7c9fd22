// Command clara-train is one worker of a training run: a plan in, progress out. The trainer service starts one process a
// rank; on its own it trains as well.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/internal/worker"
	"github.com/clara-suite/clara/services/trainer/torch/internal/golden"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Train as a plan says. Progress is one JSON object a line on standard output. SIGTERM saves and leaves."`
	Check  checkCmd  `cmd:"" help:"Say what a run needs and whether it can work, and begin nothing."`
	Verify verifyCmd `cmd:"" help:"Compare every figure of golden folders with what this program computes."`
	Info   infoCmd   `cmd:"" help:"Say what libtorch and which devices there are."`
}

// Exit codes.
const (
	exitFailed  = 1
	exitInvalid = 2
	exitStopped = 3 // by a signal, after saving
)

func main() {
	passive()
	var c cli
	k := kong.Parse(&c, kong.Name("clara-train"), kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	err := k.Run()
	switch {
	case err == nil:
	case clara.IsContext(err):
		os.Exit(exitStopped)
	default:
		fmt.Fprintln(os.Stderr, "clara-train:", err)
		if clara.KindOf(err) == clara.Invalid {
			os.Exit(exitInvalid)
		}
		os.Exit(exitFailed)
	}
}

// passive starts the program again with idle OpenMP threads asleep, unless told otherwise: spinning ones take the cores from
// the ranks beside them. The library reads the variable before main runs. libtorch's own log holds pages of C++ frames for what
// the errors say already: it is off unless asked for.
func passive() {
	if os.Getenv("OMP_WAIT_POLICY") != "" {
		return
	}
	exe, err := os.Executable()
	if err == nil {
		env := append(os.Environ(), "OMP_WAIT_POLICY=passive")
		if os.Getenv("TORCH_CPP_LOG_LEVEL") == "" {
			env = append(env, "TORCH_CPP_LOG_LEVEL=FATAL")
		}
		err = syscall.Exec(exe, os.Args, env)
	}
	fmt.Fprintln(os.Stderr, "clara-train: cannot set OMP_WAIT_POLICY:", err)
}

type runCmd struct {
	Plan     string `arg:"" help:"File with the plan as JSON, - for standard input; or run.yaml, as for clara train."`
	LogLevel string `enum:"debug,info,warn,error" default:"info" help:"Least level of the log on standard error."`
	Start    bool   `name:"resume" help:"Go on from the newest checkpoint, as load_checkpoint does."`

	// Names and meanings are those of torchrun; underscores are taken too.
	Nodes    int    `name:"nnodes" default:"1" help:"Machines that train together." group:"Ranks"`
	Node     int    `name:"node-rank" aliases:"node_rank" help:"Which of them this one is, from 0." group:"Ranks"`
	Ranks    int    `name:"nproc-per-node" aliases:"nproc_per_node" help:"Ranks on this machine; default: one for each GPU, else the plan's." group:"Ranks"`
	Master   string `name:"master-addr" aliases:"master_addr" help:"Address of machine 0." group:"Ranks"`
	Port     int    `name:"master-port" aliases:"master_port" default:"29500" help:"Port of rank 0, free on machine 0." group:"Ranks"`
	Restarts int    `name:"max-restarts" aliases:"max_restarts" default:"3" help:"How often lost ranks are started again in a row without a new checkpoint." group:"Ranks"`
}

func (c *runCmd) Run(ctx context.Context) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	p, err := readPlan(c.Plan)
	if err != nil {
		return err
	}
	p.Resume = p.Resume || c.Start
	if launched := os.Getenv("WORLD_SIZE") != ""; !launched && (c.Nodes > 1 || c.Ranks > 1 || p.World > 1) {
		return c.launch(ctx, p)
	}
	rank := envInt("RANK", 0)
	defer func() {
		if err != nil && !clara.IsContext(err) {
			e := trainplan.Event{Kind: trainplan.Failed, Rank: rank, Message: err.Error(), Fault: clara.KindOf(err).String()}
			if werr := e.Write(os.Stdout); werr != nil {
				log.Warn("cannot write progress", "err", werr)
			}
		}
	}()
	world := envInt("WORLD_SIZE", 1)
	env, err := machine(p, max(1, envInt("LOCAL_WORLD_SIZE", world)))
	if err != nil {
		return err
	}
	env.Out, env.Log = os.Stdout, log
	if world == 1 {
		return stage.Execute(ctx, p, env)
	}
	p.World = world
	backend := "gloo"
	if env.Device != torchx.CPU {
		backend = "nccl"
	}
	host, port := os.Getenv("MASTER_ADDR"), envInt("MASTER_PORT", 0)
	if host == "" || port == 0 {
		return clara.Errorf(clara.Invalid, "WORLD_SIZE is %d: MASTER_ADDR and MASTER_PORT must say where the ranks meet", world)
	}
	if rank < 0 || rank >= world {
		return clara.Errorf(clara.Invalid, "RANK is %d of WORLD_SIZE %d", rank, world)
	}
	timeout := time.Duration(p.PeerTimeout * float64(time.Second))
	if rank == 0 {
		e := trainplan.Event{Kind: trainplan.PhaseBegun, Message: fmt.Sprintf("waiting for %d ranks at %s:%d", world, host, port)}
		if err := e.Write(os.Stdout); err != nil {
			log.Warn("cannot write progress", "err", err)
		}
	}
	if env.Group, err = torchx.Join(backend, p.Interface, host, port, rank, world, env.Device, timeout); err != nil {
		return err
	}
	defer env.Group.Close()
	return stage.Execute(ctx, p, env)
}

// launch starts this machine's ranks, each as a process of this program, and starts them again where they are lost.
func (c *runCmd) launch(ctx context.Context, p trainplan.Plan) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if c.Ranks == 0 {
		c.Ranks = max(1, p.World/c.Nodes)
		if n, err := torchx.Devices(); err == nil && n > 0 && p.Device != "cpu" && p.World == 1 {
			c.Ranks = n
		}
	}
	at := worker.Place{Nodes: c.Nodes, Node: c.Node, Ranks: c.Ranks, Master: c.Master, Port: c.Port}
	if p.World = c.Nodes * c.Ranks; at.Nodes == 1 {
		at.Port = 0 // any free one
	}
	if err := errors.Join(at.Validate(), p.Validate()); err != nil {
		return clara.Errorf(clara.Invalid, "%w", err)
	}
	out := func(e trainplan.Event) {
		if err := e.Write(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "clara-train: cannot write progress:", err)
		}
	}
	tries := c.Restarts
	if tries == 0 {
		tries = -1
	}
	err = worker.Supervise(ctx, worker.Options{
		Program: program, Plan: p, Place: at, Event: out,
		Log: func(rank int, line string) { fmt.Fprintf(os.Stderr, "rank %d: %s\n", rank, line) },
	}, worker.Retry{Tries: tries, Start: func(_ int, why error, wait time.Duration) {
		if why != nil {
			out(trainplan.Event{Kind: trainplan.Warning, Message: fmt.Sprintf("%v; starting again in %s, from the newest checkpoint", why, wait)})
		}
	}})
	if errors.Is(err, worker.ErrStopped) {
		return context.Canceled
	}
	return err
}

// machine is the device of this process, and what it may use of the machine that ranks processes share.
func machine(p trainplan.Plan, ranks int) (env stage.Env, err error) {
	if env.Device, err = device(p.Device); err != nil {
		return env, err
	}
	if env.Device != torchx.CPU {
		env.FreeMemory, err = torchx.CUDAFree(env.Device)
		return env, err
	}
	env.FreeMemory = freeMemory() / int64(ranks)
	threads := p.Threads
	if threads == 0 && ranks > 1 {
		threads = max(1, runtime.NumCPU()/ranks)
	}
	torchx.SetThreads(threads)
	return env, nil
}

type checkCmd struct {
	Plan string `arg:"" default:"-" help:"File with a plan, or with several as a JSON array, - for standard input; or run.yaml, as for clara train."`
}

// Run says what plans need and whether they can work: an event of kind planned for each, and one of kind failed.
func (c *checkCmd) Run(ctx context.Context) error {
	tell := func(e trainplan.Event) error {
		return e.Write(os.Stdout)
	}
	err := c.check(ctx, tell)
	if err == nil || clara.IsContext(err) {
		return err
	}
	return errors.Join(err, tell(trainplan.Event{Kind: trainplan.Failed, Message: err.Error(), Fault: clara.KindOf(err).String()}))
}

func (c *checkCmd) check(ctx context.Context, tell func(trainplan.Event) error) error {
	plans, err := readPlans(c.Plan)
	if err != nil {
		return err
	}
	if len(plans) == 0 {
		return clara.Errorf(clara.Invalid, "read the plan: there is none")
	}
	env, err := machine(plans[0], max(1, plans[0].World))
	if err != nil {
		return err
	}
	return stage.Check(ctx, plans, env, func(s trainplan.Summary) error {
		return tell(trainplan.Event{Kind: trainplan.Planned, Summary: &s})
	})
}

func readPlan(path string) (p trainplan.Plan, err error) {
	plans, err := readPlans(path)
	if err == nil && len(plans) != 1 {
		err = clara.Errorf(clara.Invalid, "%s holds %d plans: give one stage", path, len(plans))
	}
	if err != nil {
		return p, err
	}
	return plans[0], nil
}

// readPlans reads a plan or an array of them from a JSON file, or makes the plan of a file of settings.
func readPlans(path string) (plans []trainplan.Plan, err error) {
	if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
		file, err := trainplan.ReadFile(path)
		if err != nil {
			return nil, err
		}
		r, err := trainplan.Gather(trainplan.Request{}, file, os.Getenv)
		if err != nil {
			return nil, err
		}
		plans, notes, err := trainplan.Resolve(r, 1)
		for _, n := range notes {
			fmt.Fprintln(os.Stderr, "note:", n)
		}
		return plans, err
	}
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, clara.Errorf(clara.NotFound, "read the plan: %w", err)
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "read the plan: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		err = d.Decode(&plans)
	} else {
		plans = make([]trainplan.Plan, 1)
		err = d.Decode(&plans[0])
	}
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read the plan: %w", err)
	}
	return plans, nil
}

// device resolves auto: the rank's own GPU if there is one.
func device(want string) (torchx.Device, error) {
	if want == "cpu" {
		return torchx.CPU, nil
	}
	n, err := torchx.Devices()
	local := envInt("LOCAL_RANK", 0)
	switch {
	case n > local:
		return torchx.Device(local), nil
	case want != "cuda":
		return torchx.CPU, nil
	case err != nil:
		return torchx.CPU, err
	}
	return torchx.CPU, clara.Errorf(clara.Unavailable, "device is cuda and rank %d of this machine has none of its %d", local, n)
}

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

type verifyCmd struct {
	Dirs []string `arg:"" help:"Golden folders, or folders of them."`
	JSON bool     `help:"Write the whole report as JSON, one object a folder."`
	All  bool     `help:"List figures that passed too."`
}

func (c *verifyCmd) Run(ctx context.Context) error {
	var bad []string
	total := 0
	for _, given := range c.Dirs {
		for _, dir := range golden.Folders(given) {
			total++
			r, err := golden.Verify(ctx, dir)
			switch {
			case clara.IsContext(err):
				return err
			case err != nil: // the other folders may hold
				bad = append(bad, dir)
				r = golden.Unreadable(dir, err)
			case !r.OK():
				bad = append(bad, dir)
			}
			if c.JSON {
				out := json.NewEncoder(os.Stdout)
				out.SetIndent("", " ")
				if err := out.Encode(r); err != nil {
					return err
				}
				continue
			}
			r.Print(os.Stdout, c.All)
		}
	}
	if len(bad) > 0 {
		return clara.Errorf(clara.Corrupt, "%d of %d golden folders do not hold: %s", len(bad), total, strings.Join(bad, ", "))
	}
	return nil
}

type infoCmd struct{}

func (*infoCmd) Run() error {
	info := struct {
		Libtorch string `json:"libtorch"`
		Threads  int    `json:"threads"`
		Devices  int    `json:"cuda_devices"`
		CUDA     string `json:"cuda,omitempty"`
		Memory   int64  `json:"free_memory"`
	}{Libtorch: torchx.Version(), Threads: torchx.Threads(), Memory: freeMemory()}
	n, err := torchx.Devices()
	if info.Devices = n; err != nil {
		info.CUDA = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(info)
}
