// Command clara-train is one worker of a training run: a plan in, progress out. The trainer service starts one process a
// rank; on its own it trains as well.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/golden"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Train as a plan says. Progress is one JSON object a line on standard output. SIGTERM saves and leaves."`
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
// the ranks beside them. The library reads the variable before main runs.
func passive() {
	if os.Getenv("OMP_WAIT_POLICY") != "" {
		return
	}
	exe, err := os.Executable()
	if err == nil {
		err = syscall.Exec(exe, os.Args, append(os.Environ(), "OMP_WAIT_POLICY=passive"))
	}
	fmt.Fprintln(os.Stderr, "clara-train: cannot set OMP_WAIT_POLICY:", err)
}

type runCmd struct {
	Plan     string `arg:"" help:"File with the plan as JSON; - for standard input."`
	LogLevel string `enum:"debug,info,warn,error" default:"info" help:"Least level of the log on standard error."`
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
	rank := envInt("RANK", 0)
	defer func() {
		if err != nil && !clara.IsContext(err) {
			e := trainplan.Event{Kind: trainplan.Failed, Rank: rank, Message: err.Error(), Fault: clara.KindOf(err).String()}
			if werr := e.Write(os.Stdout); werr != nil {
				log.Warn("cannot write progress", "err", werr)
			}
		}
	}()
	env := stage.Env{Out: os.Stdout, Log: log, Device: torchx.CPU}
	if env.Device, err = device(p.Device); err != nil {
		return err
	}
	if env.Device == torchx.CPU {
		env.FreeMemory = freeMemory()
		threads := p.Threads
		if threads == 0 && envInt("WORLD_SIZE", 1) > 1 {
			threads = max(1, runtime.NumCPU()/envInt("LOCAL_WORLD_SIZE", envInt("WORLD_SIZE", 1)))
		}
		torchx.SetThreads(threads)
	}
	if world := envInt("WORLD_SIZE", 1); world > 1 {
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
		if env.Group, err = torchx.Join(backend, p.Interface, host, port, rank, world, env.Device, timeout); err != nil {
			return err
		}
		defer env.Group.Close()
	} else if p.World > 1 {
		return clara.Errorf(clara.Invalid, "the plan is for %d ranks: start one process a rank with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as clara train does", p.World)
	}
	return stage.Execute(ctx, p, env)
}

func readPlan(path string) (p trainplan.Plan, err error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return p, clara.Errorf(clara.NotFound, "read the plan: %w", err)
		}
		defer f.Close()
		in = f
	}
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, clara.Errorf(clara.Invalid, "read the plan: %w", err)
	}
	return p, nil
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
	Dirs []string `arg:"" help:"Golden folders."`
	JSON bool     `help:"Write the whole report as JSON, one object a folder."`
	All  bool     `help:"List figures that passed too."`
}

func (c *verifyCmd) Run(ctx context.Context) error {
	bad := 0
	for _, dir := range c.Dirs {
		r, err := golden.Verify(ctx, dir)
		if err != nil {
			return err
		}
		if !r.OK() {
			bad++
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
	if bad > 0 {
		return clara.Errorf(clara.Corrupt, "%d of %d golden folders do not hold", bad, len(c.Dirs))
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
