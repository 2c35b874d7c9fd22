// Command bench measures training on SmolLM2-135M: clara-train's steps beside a straightforward PyTorch + peft loop of the
// same steps (peer.py), in ratios of one run, with the losses of both. Figures that need no peer are measured without.
//
//	go run ./bench [-only PARTS] [-base GGUF or folder] [-threads 2] [-steps 2]
//
// Each part takes a minute or two on two cores: stage1 (memory rows trained), stage1-frozen, memory (gradient checkpointing),
// stage2, stage3 (candidates shared by questions), stage3-distinct (none shared), quantized (int8 and int4 base).
//
// CLARA_PEER_PYTHON names a Python with torch, transformers and peft; without it the peer's figures are missing.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/safetensors"
	views "github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tokenizer"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/libs/weights"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

//go:embed peer.py
var peer []byte

func main() {
	var b bench
	only := flag.String("only", "stage1,stage1-frozen,memory,stage2,stage3,stage3-distinct,quantized", "parts to run")
	flag.StringVar(&b.base, "base", "", "base model; empty: the example base in the project's cache")
	flag.IntVar(&b.threads, "threads", 2, "threads of an operator")
	flag.IntVar(&b.steps, "steps", 2, "optimizer steps of a figure; the first is not timed")
	plan := flag.String("worker", "", "be the process that runs this plan")
	profile := flag.String("profile", "", "file for the worker's CPU profile")
	flag.Parse()
	var err error
	if *plan != "" {
		err = worker(*plan, *profile)
	} else {
		err = b.run(strings.Split(*only, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// worker trains as a plan says, as clara-train does, and leaves a profile.
func worker(path, profile string) (err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p trainplan.Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	torchx.SetThreads(p.Threads)
	out := &stamped{last: p.Epochs}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		out.profile = f
	}
	return stage.Execute(context.Background(), p, stage.Env{Out: out, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Device: torchx.CPU})
}

// stamped is standard output with the processor time of the process so far after every line. It profiles the steps from the
// second to the last, so that neither reading the base nor writing the checkpoint counts.
type stamped struct {
	profile    *os.File // nil: none
	last, step int
}

func (s *stamped) Write(line []byte) (int, error) {
	n, err := os.Stdout.Write(line)
	if err != nil {
		return n, err
	}
	if s.profile != nil && bytes.Contains(line, []byte(`"metrics":`)) {
		if s.step++; s.step == 1 {
			err = pprof.StartCPUProfile(s.profile)
		} else if s.step == s.last {
			pprof.StopCPUProfile()
		}
		if err != nil {
			return n, err
		}
	}
	_, err = fmt.Printf("{\"cpu\": %.3f}\n", processorTime().Seconds())
	return n, err
}

// processorTime is what all threads of this process used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Sizes of the model that is trained.
const docMax, memoryTokens = 256, 16

type bench struct {
	base    string
	threads int
	steps   int

	dir    string
	python string
	src    weights.Source
	gemm   float64 // FLOP/s
	// gemmWork is FLOP a second of processor time, which holds where others use the machine too.
	gemmWork float64
}

func (b *bench) run(parts []string) (err error) {
	if b.base == "" {
		cache := os.Getenv("CLARA_CACHE")
		if cache == "" {
			home, err := os.UserCacheDir()
			if err != nil {
				return err
			}
			cache = filepath.Join(home, "clara")
		}
		b.base = filepath.Join(cache, "models", "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	if b.src, err = weights.Open(b.base); err != nil {
		return fmt.Errorf("%w (make deps fetches the example base; -base names another)", err)
	}
	defer b.src.Close()
	if b.dir, err = os.MkdirTemp("", "clara-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.python = os.Getenv("CLARA_PEER_PYTHON"); b.python == "" {
		fmt.Println("NOT RUN: the PyTorch + peft side; CLARA_PEER_PYTHON names a Python with torch, transformers and peft")
	}
	fmt.Printf("base %s, %d threads, libtorch %s\n", filepath.Base(b.base), b.threads, torchx.Version())
	for _, part := range append([]string{"gemm"}, parts...) {
		switch part {
		case "gemm":
			if b.gemm == 0 {
				err = b.measureGEMM()
			}
		case "stage1":
			err = b.stage1(true)
		case "stage1-frozen":
			err = b.stage1(false)
		case "memory":
			err = b.memory()
		case "stage2":
			err = b.stage2()
		case "stage3":
			err = b.stage3(4, 24)
		case "stage3-distinct":
			err = b.stage3(2, 40)
		case "quantized":
			err = b.quantized()
		default:
			err = clara.Errorf(clara.Invalid, "no part %q", part)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return nil
}

// measureGEMM finds the rate of a large float32 matrix product, the best of several.
func (b *bench) measureGEMM() error {
	torchx.SetThreads(b.threads)
	return torchx.Do(func(s *torchx.Scope) error {
		const n = 2048
		x, y := s.Normal(torchx.CPU, n, n), s.Normal(torchx.CPU, n, n)
		s.Free(s.MatMul(x, y)) // warms up
		for range 8 {
			begun, worked := time.Now(), processorTime()
			s.Free(s.MatMul(x, y))
			b.gemm = math.Max(b.gemm, 2*n*n*n/time.Since(begun).Seconds())
			b.gemmWork = math.Max(b.gemmWork, 2*n*n*n/(processorTime()-worked).Seconds())
		}
		fmt.Printf("GEMM of %d^3 in float32: %.0f GFLOP/s, %.0f a second of processor time\n", n, b.gemm/1e9, b.gemmWork/1e9)
		return nil
	})
}

// figure is what one side of a comparison took.
type figure struct {
	losses, norms, seconds []float64
	cpu                    []float64 // processor seconds of each step
	memory                 int64
	flops                  float64 // FLOP/s of the fastest
	flopsWork              float64 // FLOP a second of processor time, of the best
}

// best is the fastest step from the second on, where there is one: the first one also warms up, and others may use the machine
// in between.
func (f figure) best() float64 { return slices.Min(f.seconds[min(1, len(f.seconds)-1):]) }

// work is the least processor time of a step from the second on: it says more than the time where others use the machine.
func (f figure) work() float64 { return slices.Min(f.cpu[min(1, len(f.cpu)-1):]) }

// ours runs a plan in a process of its own; the profile, where asked for, tells Go's share.
func (b *bench) ours(p trainplan.Plan, profile bool) (f figure, err error) {
	path := filepath.Join(b.dir, p.Name+".plan.json")
	raw, err := json.Marshal(p)
	if err != nil {
		return f, err
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return f, err
	}
	exe, err := os.Executable()
	if err != nil {
		return f, err
	}
	args := []string{"-worker", path}
	cpu := filepath.Join(b.dir, p.Name+".pprof")
	if profile {
		args = append(args, "-profile", cpu)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), "OMP_WAIT_POLICY=passive") // as clara-train sets it
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	if err := c.Run(); err != nil {
		return f, fmt.Errorf("%w\n%s", err, tail(out.String()))
	}
	before, step, flops := 0.0, false, 0.0 // processor time at the event before; whether the last event was a step, and its FLOP
	for _, line := range bytes.Split(out.Bytes(), []byte("\n")) {
		var e struct {
			trainplan.Event
			CPU float64 `json:"cpu"`
		}
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if e.CPU > 0 {
			if step {
				f.cpu, step = append(f.cpu, e.CPU-before), false
				if len(f.cpu) > 1 {
					f.flopsWork = math.Max(f.flopsWork, flops/(e.CPU-before))
				}
			}
			before = e.CPU
		}
		if e.Metrics == nil {
			continue
		}
		m := e.Metrics
		step, flops = true, m.FLOPS*m.Seconds
		f.losses, f.norms, f.seconds = append(f.losses, m.Loss), append(f.norms, m.GradNorm), append(f.seconds, m.Seconds)
		if f.memory = m.MemoryPeak; len(f.seconds) > 1 {
			f.flops = math.Max(f.flops, m.FLOPS)
		}
	}
	if len(f.seconds) > 1 {
		fmt.Printf("  clara-train: %s s a step, %s s of processor time, %.0f MiB at most, %.0f GFLOP/s = %.0f %% of GEMM (%.0f %% by processor time)\n",
			strings.Join(each(f.seconds, 1), " "), strings.Join(each(f.cpu, 1), " "), mib(f.memory), f.flops/1e9, 100*f.flops/b.gemm, 100*f.flopsWork/b.gemmWork)
	}
	if profile {
		err = goShare(exe, cpu)
	}
	return f, err
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// goShare prints how much of the processor time was spent in Go's own code, whose names the profile holds. What has none is libtorch
// and the threads it made.
func goShare(exe, profile string) error {
	raw, err := exec.Command("go", "tool", "pprof", "-top", "-symbolize=none", "-nodecount=100000", "-nodefraction=0", "-unit=ms", exe, profile).Output()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	total, own := 0.0, 0.0
	for _, line := range strings.Split(string(raw), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasSuffix(f[0], "ms") && f[0] != "0" {
			continue
		}
		ms, err := strconv.ParseFloat(strings.TrimSuffix(f[0], "ms"), 64)
		if err != nil {
			continue
		}
		total += ms
		name := f[5]
		foreign := name == "runtime.cgocall" || name == "runtime._ExternalCode" || name == "runtime._VDSO" || strings.HasPrefix(name, "[")
		if foreign || !strings.Contains(name, ".") || strings.Contains(name, "::") {
			continue
		}
		own += ms
	}
	fmt.Printf("  Go's own share of the processor time: %.2f %%\n", 100*own/math.Max(total, 1))
	return nil
}

// sample is a training sample as it goes to the peer.
type sample struct {
	Docs   [][]int32 `json:"docs"`
	Query  []int32   `json:"query"`
	IDs    []int32   `json:"ids"`
	Labels []int32   `json:"labels"`
	Slots  []int     `json:"slots"`
}

// other runs the peer on the same samples; ok is false if there is none.
func (b *bench) other(p job, steps int) (f figure, ok bool, err error) {
	if b.python == "" {
		return f, false, nil
	}
	script := filepath.Join(b.dir, "peer.py")
	if err := os.WriteFile(script, peer, 0o644); err != nil {
		return f, false, err
	}
	file, err := b.export()
	if err != nil {
		return f, false, err
	}
	a := b.src.Arch()
	if a.Family != "llama" || a.Rope.Kind != arch.RopeDefault {
		return f, false, clara.Errorf(clara.Unsupported, "the peer knows the llama family without scaled positions only")
	}
	config := map[string]any{
		"vocab_size": a.Vocab, "hidden_size": a.Hidden, "intermediate_size": a.Intermediate, "num_hidden_layers": a.Layers, "num_attention_heads": a.Heads,
		"num_key_value_heads": a.KVHeads, "head_dim": a.HeadDim, "max_position_embeddings": a.MaxPositions, "rms_norm_eps": a.NormEps,
		"rope_theta": a.Rope.Theta, "rope_parameters": map[string]any{"rope_type": "default", "rope_theta": a.Rope.Theta}, "tie_word_embeddings": a.TieEmbeddings,
	}
	out := filepath.Join(b.dir, p.Name+".peer.json")
	spec, err := json.Marshal(map[string]any{
		"config": config, "weights": file, "checkpoint": p.start, "out": out, "stage": p.Stage, "threads": b.threads, "m": memoryTokens, "k": p.TopK, "rank": p.LoraRank,
		"learning_rate": p.LearningRate, "dropout": p.Dropout, "checkpointing": p.Checkpointing, "train_memory": p.memory != nil, "mem_ids": p.memory, "pad_id": 0,
		"micro": p.MicroBatchSize, "steps": steps, "samples": p.samples,
	})
	if err != nil {
		return f, false, err
	}
	path := filepath.Join(b.dir, p.Name+".job.json")
	if err := os.WriteFile(path, spec, 0o644); err != nil {
		return f, false, err
	}
	c := exec.Command(b.python, script, path)
	c.Env = append(os.Environ(), "OMP_WAIT_POLICY=passive") // as here: waiting threads would count as work
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return f, false, fmt.Errorf("the peer: %w", err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		return f, false, err
	}
	var r struct {
		Losses, Norms, Seconds, CPU []float64
		Memory                      int64
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return f, false, err
	}
	return figure{losses: r.Losses, norms: r.Norms, seconds: r.Seconds, cpu: r.CPU, memory: r.Memory}, true, nil
}

// export writes the base's weights as safetensors in float32, once.
func (b *bench) export() (string, error) {
	path := filepath.Join(b.dir, "base.safetensors")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	var all []views.View
	for _, w := range b.src.Arch().Weights() {
		v, err := b.src.Tensor(w.Name)
		if err != nil {
			return "", err
		}
		f, err := v.Float32()
		if err != nil {
			return "", err
		}
		all = append(all, views.FromFloat32(w.Name, v.Shape, f))
	}
	return path, safetensors.WriteFile(path, map[string]string{"format": "pt"}, all)
}

// plan is one of the bench: a constant rate and no dropout, so that both sides can make the same steps, and every step is an
// epoch over the same samples.
func (b *bench) plan(name, stageName string, samples int) trainplan.Plan {
	p := trainplan.Default(stageName)
	p.Name, p.Model, p.Device, p.Threads, p.BF16 = name, b.base, "cpu", b.threads, false
	p.SavePath, p.RunDir = filepath.Join(b.dir, name), filepath.Join(b.dir, name+".run")
	p.BatchSize, p.MicroBatchSize, p.Epochs, p.SaveSteps, p.Dropout, p.Scheduler, p.LearningRate = samples, 4, b.steps, 0, 0, "constant", 1e-4
	if stageName == trainplan.Stage1 {
		p.DocMaxLength, p.CompressRate, p.LoraRank = docMax, docMax/memoryTokens, 16
	}
	return p
}

// start makes the checkpoint that both sides begin with: a fresh model, trained for one step at rate 0.
func (b *bench) start() (string, error) {
	p := b.plan("start", trainplan.Stage1, 1)
	if _, err := os.Stat(p.SavePath); err == nil {
		return p.SavePath, nil
	}
	p.LearningRate, p.Epochs = 0, 1
	data, _, err := b.data(p, 1, 1)
	if err != nil {
		return "", err
	}
	p.Data = data
	_, err = b.ours(p, false)
	return p.SavePath, err
}

// data writes a file of n samples whose documents come from a pool, and returns it with the same samples as token ids. Texts
// are random words; their lengths vary as passages' do.
func (b *bench) data(p trainplan.Plan, n, pool int) ([]trainplan.Dataset, []sample, error) {
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	text := func(from, to int) string {
		var w []string
		for range from + rng.IntN(to-from+1) {
			w = append(w, words[rng.IntN(len(words))])
		}
		return strings.Join(w, " ") + "."
	}
	docs := make([]string, pool)
	for i := range docs {
		docs[i] = text(70, 230)
	}
	tok, err := modelpkg.Tokenizer(b.src, b.base)
	if err != nil {
		return nil, nil, err
	}
	ct, err := tokenizer.NewClara(tok, memoryTokens, true)
	if err != nil {
		return nil, nil, err
	}
	tmpl, err := prompt.NewTemplate(tok.ChatTemplate(), nil)
	if err != nil {
		return nil, nil, err
	}
	w := prompt.New(ct, tmpl)
	per := map[string]int{trainplan.Stage1: 1, trainplan.Stage12: 5, trainplan.Stage2: 20}[p.Stage]
	var out bytes.Buffer
	var samples []sample
	for range n {
		var s sample
		var line map[string]any
		var e prompt.Encoded
		var mine []string
		for _, i := range rng.Perm(pool)[:per] {
			mine = append(mine, docs[i])
			s.Docs = append(s.Docs, w.Encoder(docs[i], docMax))
		}
		if p.Stage == trainplan.Stage1 {
			var qs, as []string
			for range 3 + rng.IntN(3) {
				qs, as = append(qs, text(7, 14)), append(as, text(3, 20))
			}
			line = map[string]any{"data_type": "qa", "question": qs, "answers": as, "docs": mine}
			e, err = w.TrainQA("bench", qs, as, 1, p.MaxLen)
		} else {
			q, a := text(7, 14), text(2, 8)
			line = map[string]any{"question": q, "docs": mine, "gold_answer": a, "pos_index": []int{0}}
			s.Query = w.Encoder(q, p.MaxLen)
			e, err = w.TrainAnswer("bench", q, a, p.TopK, p.MaxLen)
		}
		if err != nil {
			return nil, nil, err
		}
		s.IDs, s.Labels = e.IDs, e.Labels
		for _, slot := range e.Slots {
			s.Slots = append(s.Slots, slot.Start)
		}
		samples = append(samples, s)
		raw, err := json.Marshal(line)
		if err != nil {
			return nil, nil, err
		}
		out.Write(append(raw, '\n'))
	}
	path := filepath.Join(b.dir, p.Name+".jsonl")
	return []trainplan.Dataset{{Path: path}}, samples, os.WriteFile(path, out.Bytes(), 0o644)
}

func (b *bench) memIDs() ([]int32, error) {
	tok, err := modelpkg.Tokenizer(b.src, b.base)
	if err != nil {
		return nil, err
	}
	ct, err := tokenizer.NewClara(tok, memoryTokens, true)
	if err != nil {
		return nil, err
	}
	return ct.Mem, nil
}

// job is a plan of the bench, its samples as token ids, and the checkpoint that both sides begin with.
type job struct {
	trainplan.Plan
	samples []sample
	start   string
	memory  []int32 // ids of the memory tokens where their rows are trained
}

// job makes one of n samples whose documents come from a pool. A fresh one is of a model without a checkpoint.
func (b *bench) job(name, stageName string, n, pool int, fresh bool) (j job, err error) {
	j.Plan = b.plan(name, stageName, n)
	if j.Data, j.samples, err = b.data(j.Plan, n, pool); err != nil {
		return j, err
	}
	if j.start, err = b.start(); err != nil {
		return j, err
	}
	if fresh {
		j.memory, err = b.memIDs()
	} else {
		j.Checkpoint, j.DocMaxLength, j.CompressRate, j.LoraRank = j.start, 0, 0, 16
	}
	return j, err
}

// compare runs a job on both sides, the peer for so many steps, and prints both.
func (b *bench) compare(j job, steps int, profile bool) error {
	f, err := b.ours(j.Plan, profile)
	if err != nil {
		return err
	}
	o, ok, err := b.other(j, steps)
	if err == nil && ok {
		b.report(f, o, len(j.samples))
	}
	return err
}

// stage1 measures a fresh model, whose memory rows are trained, or one from a checkpoint, where they are frozen and the peer
// needs no gradient of its embedding.
func (b *bench) stage1(fresh bool) error {
	j, err := b.job("stage1", trainplan.Stage1, 4, 4, fresh)
	if err != nil {
		return err
	}
	what := map[bool]string{true: "trained", false: "frozen"}[fresh]
	fmt.Printf("stage 1, memory rows %s, %d samples of %d + %d tokens, micro batch 4\n", what, len(j.samples), average(j.samples, docTokens), average(j.samples, inputTokens))
	return b.compare(j, b.steps, fresh)
}

// memory is stage 1 with gradient checkpointing on this side, and the peer without.
func (b *bench) memory() error {
	j, err := b.job("checkpointed", trainplan.Stage1, 4, 4, true)
	if err != nil {
		return err
	}
	fmt.Println("stage 1, one micro batch of 4, gradient checkpointing on this side; the peer without")
	j.Checkpointing = true
	f, err := b.ours(j.Plan, false)
	if err != nil {
		return err
	}
	j.Checkpointing = false
	o, ok, err := b.other(j, b.steps)
	if err == nil && ok {
		b.report(f, o, len(j.samples))
	}
	return err
}

// quantized is stage 1 on an int8 and an int4 base beside float32: losses, memory and speed.
func (b *bench) quantized() error {
	var first figure
	for _, bits := range []string{"no", "int8", "int4"} {
		j, err := b.job("quantized-"+bits, trainplan.Stage1, 4, 4, true)
		if err != nil {
			return err
		}
		j.Quantization = bits
		fmt.Printf("stage 1, quantization %s\n", bits)
		f, err := b.ours(j.Plan, false)
		if err != nil {
			return err
		}
		if bits == "no" {
			first = f
		}
		fmt.Printf("  losses %s; beside float32: processor time %.2f x, memory %.2f x\n", strings.Join(each(f.losses, 4), " "), f.work()/first.work(), float64(f.memory)/float64(first.memory))
	}
	return nil
}

func (b *bench) stage2() error {
	j, err := b.job("stage2", trainplan.Stage12, 2, 6, false)
	if err != nil {
		return err
	}
	j.MicroBatchSize = 2
	fmt.Printf("stage 2, %d samples of 5 documents, %d + %d tokens, micro batch 2\n", len(j.samples), average(j.samples, docTokens), average(j.samples, inputTokens))
	return b.compare(j, 1, false)
}

// stage3 measures n questions of 20 candidates each, out of a pool of documents.
func (b *bench) stage3(n, pool int) error {
	j, err := b.job(fmt.Sprintf("stage3-%d", pool), trainplan.Stage2, n, pool, false)
	if err != nil {
		return err
	}
	j.MicroBatchSize = 2
	fmt.Printf("stage 3, %d questions of 20 candidates out of %d documents, micro batch 2\n", n, pool)
	f, err := b.ours(j.Plan, false)
	if err != nil {
		return err
	}
	fmt.Printf("  first epoch  %6.2f samples/s (%.1f s, every document compressed once)\n", float64(n)/f.seconds[0], f.seconds[0])
	fmt.Printf("  later epochs %6.2f samples/s (%.1f s)\n", float64(n)/f.best(), f.best())
	o, ok, err := b.other(j, 1) // its epochs are all alike
	if err != nil || !ok {
		return err
	}
	fmt.Printf("  peer         %6.2f samples/s (%.1f s): first epoch %.2f x, later %.2f x; by processor time %.2f x, %.2f x\n", float64(n)/o.best(), o.best(),
		o.best()/f.seconds[0], o.best()/f.best(), o.work()/f.cpu[0], o.work()/f.work())
	b.equal(f, o)
	return nil
}

func docTokens(s sample) (n int) {
	for _, d := range s.Docs {
		n += len(d)
	}
	return n
}

func inputTokens(s sample) int { return len(s.IDs) }

func average(samples []sample, f func(sample) int) int {
	n := 0
	for _, s := range samples {
		n += f(s)
	}
	return n / len(samples)
}

// report prints both sides of a comparison of steps of n samples.
func (b *bench) report(f, o figure, n int) {
	fmt.Printf("  peer: %s s a step, %s s of processor time, %.0f MiB at most\n", strings.Join(each(o.seconds, 1), " "), strings.Join(each(o.cpu, 1), " "), mib(o.memory))
	fmt.Printf("  samples/s %.3f to %.3f: speed %.2f x (by processor time %.2f x), memory %.2f x\n", float64(n)/f.best(), float64(n)/o.best(), o.best()/f.best(), o.work()/f.work(), float64(f.memory)/float64(o.memory))
	b.equal(f, o)
}

// equal prints how far the losses and gradient norms of both sides are apart.
func (b *bench) equal(f, o figure) {
	far := func(x, y []float64) (d float64) {
		for i := range min(len(x), len(y)) {
			d = math.Max(d, math.Abs(x[i]-y[i])/math.Abs(y[i]))
		}
		return d
	}
	n := min(len(f.losses), len(o.losses))
	fmt.Printf("  losses %s, apart by %.1e; gradient norms apart by %.1e\n", strings.Join(each(f.losses[:n], 5), " "), far(f.losses, o.losses), far(f.norms, o.norms))
}

func each(v []float64, digits int) (out []string) {
	for _, x := range v {
		out = append(out, strconv.FormatFloat(x, 'f', digits, 64))
	}
	return out
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

var words = strings.Fields(`a the of in on at to for with by from under over after before between buoy sensor station tide harbour signal battery
		report office record value level pressure current season winter summer storm night morning crew captain engineer manual repair schedule
		measure deliver inspect replace confirm approve request contract budget invoice holiday travel safety device network antenna frequency
		north south east west coast island river bridge road city market price number seven twelve ninety hundred thousand first second third
		large small heavy light early late green yellow broken spare annual weekly remote local public private certain usual and or but because
		when while if that which who should must may can has had is was were will`)
