// Package faketrain is a clara-train for tests: the test's own program, started again,
// that speaks the protocol of libs/trainplan, makes its steps at once and crashes or
// hangs as it is told. For tests only.
package faketrain

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/trainplan"
)

const variable = "CLARA_FAKE_TRAIN"

// Behaviours.
const (
	Trains     = "trains"
	Waits      = "waits"        // for SIGTERM, after its second step; then saves and leaves
	Hangs      = "hangs"        // the same, but SIGTERM does nothing
	Refuses    = "refuses"      // the data, once the run has begun
	CrashOnce  = "crash once"   // after a checkpoint, the first time
	CrashEver  = "crash always" // before any checkpoint
	LostRank   = "lost rank"    // rank 1 is killed, the others wait for it
	NoProtocol = "no protocol"  // writes no event and fails
	// RefusesFirst refuses the data when it is asked to check it.
	RefusesFirst = "refuses first"
)

// Use makes the test's program a clara-train of that behaviour and returns its path. TestMain must call Main first.
func Use(t testing.TB, behaviour string) string {
	t.Helper()
	if tt, ok := t.(*testing.T); ok {
		tt.Setenv(variable, behaviour)
	}
	path, err := os.Executable()
	require.NoError(t, err)
	return path
}

// Main is clara-train if this process was started as one: it then exits.
func Main() {
	behaviour := os.Getenv(variable)
	if behaviour == "" || len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case "info":
		fmt.Println(`{"libtorch":"fake","threads":2,"cuda_devices":0,"free_memory":1000}`)
	case "check":
		os.Exit(check(behaviour))
	case "run":
		os.Exit(train(behaviour, os.Args[2]))
	default:
		return // the tests themselves
	}
	os.Exit(0)
}

// check finds that every plan can work, or that the data can't be used.
func check(behaviour string) int {
	var plans []trainplan.Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plans); err != nil {
		return fail(0, err.Error(), "internal")
	}
	for _, p := range plans {
		emit(trainplan.Event{Kind: trainplan.Planned, Summary: &trainplan.Summary{Stage: p.Stage, Model: p.Model, Samples: 8, Steps: steps, Estimate: trainplan.Estimate{Memory: 1 << 30, Seconds: 12}}})
	}
	if behaviour == RefusesFirst {
		return fail(0, "data.jsonl line 3: no question", "invalid")
	}
	return 0
}

const steps = 4

func train(behaviour, path string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	rank, err := strconv.Atoi(os.Getenv("RANK"))
	if err != nil {
		return fail(0, "RANK is not set", "internal")
	}
	if os.Getenv("WORLD_SIZE") == "" || os.Getenv("LOCAL_RANK") != os.Getenv("RANK") || os.Getenv("MASTER_ADDR") == "" || os.Getenv("MASTER_PORT") == "" {
		return fail(rank, "the variables of torchrun are not set", "internal")
	}
	raw, err := os.ReadFile(path)
	var plan trainplan.Plan
	if err == nil {
		err = json.Unmarshal(raw, &plan)
	}
	if err != nil {
		return fail(rank, err.Error(), "internal")
	}
	fmt.Fprintln(os.Stderr, "log of rank", rank)
	switch {
	case behaviour == NoProtocol:
		fmt.Println("Traceback: no such thing")
		return 1
	case behaviour == Refuses:
		return fail(rank, "data.jsonl line 3: no question", "invalid")
	case behaviour == LostRank && rank == 1:
		return kill(syscall.SIGKILL)
	case rank != 0 && behaviour != LostRank:
		if behaviour == Waits {
			<-term
			return 3
		}
		return 0
	case behaviour == LostRank:
		<-term
		return fail(rank, "a peer is gone", "unavailable")
	}
	return lead(behaviour, plan, term)
}

// lead is rank 0.
func lead(behaviour string, plan trainplan.Plan, term <-chan os.Signal) int {
	step := newest(plan.RunDir)
	if step > 0 && !plan.Resume {
		return fail(0, plan.RunDir+" holds checkpoints of a run: set load_checkpoint", "exists")
	}
	emit(trainplan.Event{Kind: trainplan.PhaseBegun, Message: "loading the model"})
	emit(trainplan.Event{Kind: trainplan.Started, Summary: &trainplan.Summary{Model: plan.Model, Family: "llama", Samples: 8, Steps: steps, From: step, Device: "cpu",
		Estimate: trainplan.Estimate{Memory: 1 << 30, Seconds: 12}}})
	metrics, err := os.OpenFile(filepath.Join(plan.RunDir, "metrics.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail(0, err.Error(), "unavailable")
	}
	defer metrics.Close()
	for step < steps {
		step++
		m := trainplan.Metrics{Step: step, Steps: steps, Loss: 4 / float64(step), Rate: 1e-4, PerSecond: 100, Share: map[string]float64{"forward": 1}}
		line, _ := json.Marshal(m)
		fmt.Fprintf(metrics, "%s\n", line)
		emit(trainplan.Event{Kind: trainplan.Step, Metrics: &m})
		if step != 2 {
			continue
		}
		switch behaviour {
		case CrashEver:
			return kill(syscall.SIGABRT)
		case CrashOnce:
			save(plan.RunDir, step)
			return kill(syscall.SIGABRT)
		case Hangs:
			for range term {
				fmt.Fprintln(os.Stderr, "SIGTERM: no")
			}
		case Waits:
			<-term
			emit(trainplan.Event{Kind: trainplan.Stopped, Path: save(plan.RunDir, step)})
			return 3
		}
	}
	if err = os.MkdirAll(plan.SavePath, 0o755); err == nil {
		err = os.WriteFile(filepath.Join(plan.SavePath, "config.json"), []byte("{}"), 0o644)
	}
	if err != nil {
		return fail(0, err.Error(), "unavailable")
	}
	emit(trainplan.Event{Kind: trainplan.Finished, Path: plan.SavePath})
	return 0
}

func kill(s syscall.Signal) int {
	signal.Reset(s)
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		return 1
	}
	select {}
}

func newest(runDir string) int {
	entries, _ := os.ReadDir(filepath.Join(runDir, "checkpoints"))
	step := 0
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()[len("step-"):]); err == nil {
			step = max(step, n)
		}
	}
	return step
}

func save(runDir string, step int) string {
	dir := filepath.Join(runDir, "checkpoints", fmt.Sprintf("step-%08d", step))
	_ = os.MkdirAll(dir, 0o755)
	_ = os.WriteFile(filepath.Join(dir, "state.json"), []byte("{}"), 0o644)
	emit(trainplan.Event{Kind: trainplan.Saved, Path: dir})
	return dir
}

func emit(e trainplan.Event) {
	if err := e.Write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func fail(rank int, message, fault string) int {
	emit(trainplan.Event{Kind: trainplan.Failed, Rank: rank, Message: message, Fault: fault})
	return 1
}
