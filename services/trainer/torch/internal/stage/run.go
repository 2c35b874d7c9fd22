package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/tensorboard"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/schedule"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type (
	scope  = *torchx.Scope
	tensor = *torchx.Tensor
)

// mseWeight is the weight of the MSE term in stages 1 and 2 (spec clara-model §3).
const mseWeight = 0.1

// Env is what a run is given besides its plan.
type Env struct {
	Out    io.Writer // events, one JSON line each; rank 0 only
	Log    *slog.Logger
	Group  *torchx.Group // nil: the only process
	Device torchx.Device
	// FreeMemory is what the preflight may plan with, in bytes; 0: unknown.
	FreeMemory int64
}

// Run is the state of a run: what the loops of the stages share.
type Run struct {
	plan  trainplan.Plan
	env   Env
	ctx   context.Context
	scope scope // of everything that lives as long as the run

	*net.Opened
	prep       *prepared
	data, eval *Data
	memories   *memories
	evalMem    *memories

	names  []string
	params []tensor
	opt    *shards
	rates  schedule.Schedule
	steps  int
	step   int // made so far
	epoch  int64
	order  []int // of the current epoch

	now     stepState
	samples int64
	clock   clock
	began   time.Time // of this process's first step
	first   int       // step at that time
	flops   work
	from    *saved // the checkpoint that the run goes on from; nil: none
	metrics io.WriteCloser
	unheard bool                // nobody reads the progress any more
	board   *tensorboard.Writer // nil: not asked for
	locked  *os.File
}

// work is the FLOP of a forward pass: of the base's layers and of an adapter on them for each token, and of the head for each
// target. Attention, norms and activations are not in it.
type work struct{ base, adapter, head float64 }

// stepState is what the current step gathers.
type stepState struct {
	batch         []int // of all ranks
	mine          []int
	micro         uint64
	targets, docs float64 // of the batch, all ranks
	sums          sums
	fault         error
	tokens        int64
	flops         float64
	start         time.Time
}

// sums are added up over the ranks.
type sums struct {
	ce, mse, loss      float64
	recall1, recall5   float64
	positives          float64
	tokens, stop, flaw float64
}

func (x *sums) list() []*float64 {
	return []*float64{&x.ce, &x.mse, &x.loss, &x.recall1, &x.recall5, &x.positives, &x.tokens, &x.stop, &x.flaw}
}

// Execute runs a plan to its end, or until ctx ends or the reader of its progress has gone: then it saves and returns an error that clara.IsContext knows.
func Execute(ctx context.Context, p trainplan.Plan, env Env) (err error) {
	if err := p.Validate(); err != nil {
		return err
	}
	p = on(p, env.Device)
	signal.Ignore(syscall.SIGPIPE) // who watches may go: the run saves and stops then, instead of being killed by its next line
	return torchx.Do(func(s scope) (err error) {
		r := &Run{plan: p, env: env, ctx: ctx, scope: s}
		defer func() { err = errors.Join(err, r.close()) }()
		if err := r.open(); err != nil {
			return err
		}
		switch p.Stage {
		case trainplan.Stage1:
			return stage1(r)
		case trainplan.Stage12:
			return stage12(r)
		case trainplan.Stage2:
			return stage2(r)
		case trainplan.Retrieval:
			return stage2PretrainRetrieval(r)
		default:
			return stage2Reasoning(r)
		}
	})
}

func (r *Run) rank() int {
	if r.env.Group == nil {
		return 0
	}
	return r.env.Group.Rank
}

func (r *Run) world() int {
	if r.env.Group == nil {
		return 1
	}
	return r.env.Group.World
}

func (r *Run) emit(e trainplan.Event) {
	if r.rank() == 0 && r.env.Out != nil && !r.unheard {
		if err := e.Write(r.env.Out); err != nil {
			r.unheard = errors.Is(err, syscall.EPIPE)
			r.env.Log.Warn("cannot write progress", "err", err)
		}
	}
}

func (r *Run) phase(what string) {
	r.emit(trainplan.Event{Kind: trainplan.PhaseBegun, Message: what})
}

// open checks that the run can work, then loads the model.
func (r *Run) open() (err error) {
	p := r.plan
	if err := r.prepareFolder(); err != nil {
		return err
	}
	torchx.SetAttention(p.FlashAttention, p.FlashAttention, true)
	c := config(p, r.env.Device)
	if p.ZeroStage == 3 { // the base is spread over the ranks
		c.Shards = r.env.Group
	}
	if r.prep, err = prepare(r.ctx, p, c, r.env, r.phase); err != nil {
		return err
	}
	r.data, r.eval = r.prep.data, r.prep.eval
	if r.from, err = newest(p, r.data.Hash); err != nil {
		return err
	}
	for _, w := range r.prep.warnings() {
		r.emit(trainplan.Event{Kind: trainplan.Warning, Message: w})
	}
	r.phase("loading the model")
	if r.Opened, err = r.prep.Load(r.scope, c); err != nil {
		return err
	}
	debug.FreeOSMemory() // what reading left behind would stay beside the activations otherwise
	for _, lin := range r.Arch.Linears() {
		r.flops.base += 2 * float64(lin.In) * float64(lin.Out) * float64(r.Arch.Layers)
		r.flops.adapter += 2 * float64(lin.In+lin.Out) * float64(r.Settings.LoraR) * float64(r.Arch.Layers)
	}
	r.flops.head = 2 * float64(r.Arch.Hidden) * float64(r.Vocab)
	r.steps = p.Steps(len(r.data.Samples))
	r.rates = schedule.Schedule{Name: p.Scheduler, Rate: p.LearningRate, Floor: p.MinRateRatio, Warmup: schedule.WarmupSteps(p.WarmupRatio, r.steps), Steps: r.steps}
	return nil
}

// prepareFolder makes the run's folder and keeps other runs out of it.
func (r *Run) prepareFolder() (err error) {
	if err := os.MkdirAll(r.plan.RunDir, 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "make the run's folder: %w", err)
	}
	if err := fresh(r.plan); err != nil || r.rank() != 0 {
		return err
	}
	r.locked, err = lock(r.plan.RunDir)
	return err
}

// trains names what the stage trains, checks the whole and, where there is a checkpoint to go on from, loads it.
func (r *Run) trains(adapters []*model.Adapter, memory bool) error {
	for _, a := range adapters {
		for i, t := range a.Train() {
			r.names, r.params = append(r.names, a.Name+"/"+a.Names[i]), append(r.params, t)
		}
	}
	if memory {
		r.names, r.params = append(r.names, "memory_rows"), append(r.params, r.TrainMemory(r.scope, r.MemoryIDs()))
	}
	r.opt = newShards(r.scope, r.params, r.env.Group, r.plan.ZeroStage, r.plan.Beta1, r.plan.Beta2, r.plan.Decay)
	if err := r.resume(); err != nil {
		return err
	}
	if g := r.env.Group; g != nil {
		if err := r.agree(); err != nil {
			return err
		}
		if err := g.Broadcast(0, r.params); err != nil {
			return err
		}
		r.SyncMemory()
	}
	trained := int64(0)
	for _, t := range r.params {
		trained += t.Len()
	}
	sum := r.prep.summary(r.plan, r.env)
	sum.Trained, sum.From, sum.World = trained, r.step, r.world()
	r.emit(trainplan.Event{Kind: trainplan.Started, Summary: &sum})
	r.began, r.first = time.Now(), r.step
	return r.openMetrics()
}

// agree refuses ranks that found another checkpoint or other data than rank 0: machines that see different files.
func (r *Run) agree() error {
	data, err := strconv.ParseUint(r.data.Hash[:8], 16, 32)
	if err != nil {
		return fmt.Errorf("hash of the data: %w", err)
	}
	mine := []float64{float64(r.step), float64(data)}
	first := []float64{0, 0}
	if r.rank() == 0 {
		copy(first, mine)
	}
	if err := r.env.Group.Sum(first); err != nil {
		return err
	}
	differ := []float64{0}
	what := ""
	switch {
	case mine[1] != first[1]:
		differ[0], what = 1, "reads other training data than rank 0: give all machines the same files"
	case mine[0] != first[0]:
		differ[0], what = 1, fmt.Sprintf("is at step %d and rank 0 at %.0f: ckpt_path must be a folder that all machines share", r.step, first[0])
	}
	if err := r.env.Group.Sum(differ); err != nil {
		return err
	}
	switch {
	case what != "":
		return clara.Errorf(clara.Invalid, "rank %d %s", r.rank(), what)
	case differ[0] > 0:
		return clara.Errorf(clara.Invalid, "%.0f other ranks see another checkpoint or other data than this one", differ[0])
	}
	return nil
}

// keepMemories opens the store of document memories: stage 3 compresses nothing twice.
func (r *Run) keepMemories() (err error) {
	if r.memories, err = openMemories(r.plan.RunDir, r.BasePath+r.plan.Quantization, r.Net, r.data.Docs); err != nil {
		return err
	}
	if r.eval != nil {
		dir := filepath.Join(r.plan.RunDir, "eval")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return clara.Errorf(clara.Unavailable, "make %s: %w", dir, err)
		}
		r.evalMem, err = openMemories(dir, r.BasePath+r.plan.Quantization, r.Net, r.eval.Docs)
	}
	return err
}

func (r *Run) close() error {
	var errs []error
	if r.metrics != nil {
		errs = append(errs, r.metrics.Close())
	}
	for _, m := range []*memories{r.memories, r.evalMem} {
		if m != nil {
			errs = append(errs, m.close())
		}
	}
	if r.locked != nil {
		errs = append(errs, r.locked.Close())
	}
	if r.board != nil {
		errs = append(errs, r.board.Close())
	}
	if r.prep != nil {
		errs = append(errs, r.prep.Close())
	}
	return errors.Join(errs...)
}

// Next begins a step and reports whether there is one.
func (r *Run) Next() bool {
	if r.step >= r.steps {
		return false
	}
	r.clock.reset()
	r.now = stepState{start: time.Now()}
	perEpoch := (len(r.data.Samples) + r.plan.BatchSize - 1) / r.plan.BatchSize
	epoch := int64(r.step / perEpoch)
	if r.order == nil || epoch != r.epoch {
		r.epoch, r.order = epoch, r.data.order(r.plan.Seed, epoch)
	}
	from := min(r.step%perEpoch*r.plan.BatchSize, len(r.order))
	r.now.batch = r.order[from:min(from+r.plan.BatchSize, len(r.order))]
	for _, i := range r.now.batch {
		r.now.targets += float64(r.data.Samples[i].Targets)
		r.now.docs += float64(len(r.data.Samples[i].Docs))
	}
	r.now.mine = r.data.deal(r.now.batch, r.rank(), r.world())
	return true
}

// batch is one micro batch.
type batch struct {
	data    *Data
	mem     *memories
	samples []int
	train   bool
	seed    uint64
}

// Batches cuts this rank's part of the step's batch into micro batches.
func (r *Run) Batches() []batch { return r.cut(r.data, r.memories, r.now.mine, true) }

// cut makes micro batches of about as many tokens as micro_train_batch_size samples of average length have: fewer of the
// long ones, more of the short ones, so that memory is level. Sequences are packed: nothing is padded.
func (r *Run) cut(d *Data, mem *memories, samples []int, train bool) []batch {
	total := 0
	for _, s := range d.Samples {
		total += s.cost
	}
	budget := r.plan.MicroBatchSize * total / max(1, len(d.Samples))
	var out []batch
	for len(samples) > 0 {
		n, tokens := 0, 0
		for n < len(samples) && (n == 0 || tokens+d.Samples[samples[n]].cost <= budget) {
			tokens += d.Samples[samples[n]].cost
			n++
		}
		b := batch{data: d, mem: mem, samples: samples[:n], train: train}
		// Dropout masks follow from the seed, the step, the rank and the place in the step.
		b.seed = uint64(r.plan.Seed)<<40 ^ uint64(r.step)<<16 ^ uint64(r.rank())<<8 ^ uint64(len(out))
		out = append(out, b)
		samples = samples[n:]
	}
	return out
}

func (b batch) each(f func(s *Sample)) {
	for _, i := range b.samples {
		f(&b.data.Samples[i])
	}
}

func (b batch) inputs() (out []prompt.Encoded) {
	b.each(func(s *Sample) { out = append(out, s.Input) })
	return out
}

func (b batch) docs() (out [][]int32) {
	b.each(func(s *Sample) {
		for _, d := range s.Docs {
			out = append(out, b.data.Docs[d])
		}
	})
	return out
}

func (b batch) queries() (out [][]int32) {
	b.each(func(s *Sample) { out = append(out, s.Query) })
	return out
}

func (b batch) targets() (n float64) {
	b.each(func(s *Sample) { n += float64(s.Targets) })
	return n
}

func (b batch) names() string {
	var out []string
	b.each(func(s *Sample) { out = append(out, s.Name) })
	return strings.Join(out, ", ")
}

// pass is the forward pass of an adapter over a micro batch; n tells the passes of one micro batch apart.
func (r *Run) pass(s scope, b batch, a *model.Adapter, n uint64, tape *torchx.Tape) model.Pass {
	return model.Pass{Adapter: a, Train: b.train, Seed: b.seed*4 + n, Tape: tape}
}

// result is what a stage's forward pass gives. Sums are over the micro batch, nil where the stage has none.
type result struct {
	ce     *net.Loss
	mse    tensor
	loss   tensor  // a sum that is neither: the retrieval loss
	memory tensor  // what is in the slots, [slots * m, H]
	picked [][]int // documents chosen for each sample, best first
}

// forward is a stage's forward pass.
type forward func(s scope, b batch, tape *torchx.Tape) (result, error)

// Backward runs a micro batch forward and back. The gradient adds to that of the step's other micro batches, weighted such
// that the step's loss is the one of the whole batch. A loss that is not a number is kept as a fault of the step.
func (r *Run) Backward(b batch, f forward) error {
	return torchx.Do(func(s scope) error {
		var tape *torchx.Tape
		if r.recomputes() {
			tape = torchx.NewTape(s)
		}
		r.clock.to("forward")
		out, err := f(s, b, tape)
		if err != nil {
			return fmt.Errorf("%s: %w", b.names(), err)
		}
		total := r.total(s, out)
		if out.ce != nil {
			r.now.flops += 2 * r.flops.head * float64(out.ce.Targets()) // its gradient is formed with it
		}
		r.gather(b, out)
		if r.now.fault != nil {
			return nil
		}
		r.clock.to("backward")
		if tape != nil {
			tape.Backward(total)
		} else {
			torchx.Backward([]tensor{total}, nil)
		}
		r.clock.to("other")
		return nil
	})
}

// total is the part of the step's loss that comes from this micro batch.
func (r *Run) total(s scope, out result) (total tensor) {
	add := func(x tensor, weight float64) {
		if x = s.Times(x, weight); total == nil {
			total = x
		} else {
			total = s.Add(total, x)
		}
	}
	if out.ce != nil && r.plan.QA {
		add(out.ce.Sum, 1/r.now.targets)
	}
	if out.mse != nil {
		add(out.mse, mseWeight/r.now.docs)
	}
	if out.loss != nil {
		add(out.loss, 1/float64(len(r.now.batch)))
	}
	return total
}

// gather adds a micro batch to the figures of the step and looks for numbers that are none.
func (r *Run) gather(b batch, out result) {
	x := &r.now.sums
	if out.ce != nil {
		for i, ce := range out.ce.Each() {
			x.ce += ce
			if math.IsNaN(ce) || math.IsInf(ce, 0) {
				r.fault("the loss of sample %s is %g", b.data.Samples[b.samples[i]].Name, ce)
			}
		}
	}
	for _, y := range []struct {
		t    tensor
		into *float64
	}{{out.mse, &x.mse}, {out.loss, &x.loss}} {
		if y.t == nil {
			continue
		}
		v := y.t.Float()
		*y.into += v
		if math.IsNaN(v) || math.IsInf(v, 0) {
			r.fault("the loss of one of the samples %s is %g", b.names(), v)
		}
	}
	for i, docs := range out.picked {
		r.recall(&b.data.Samples[b.samples[i]], docs)
	}
}

func (r *Run) recall(s *Sample, picked []int) {
	if len(s.Positives) == 0 {
		return
	}
	r.now.sums.positives++
	for i, p := range picked {
		for _, want := range s.Positives {
			if p != s.Docs[want] {
				continue
			}
			if i < 1 {
				r.now.sums.recall1 += 1 / float64(len(s.Positives))
			}
			if i < 5 {
				r.now.sums.recall5 += 1 / float64(len(s.Positives))
			}
		}
	}
}

func (r *Run) fault(format string, args ...any) {
	r.now.fault = clara.Errorf(clara.Invalid, "step %d: "+format+": the run stops, its last checkpoint is good; look at the sample, or lower learning_rate",
		append([]any{r.step + 1}, args...)...)
	r.now.sums.flaw = 1
}

// spent counts tokens that went forward through the model and an adapter, and back again where the adapter is trained. Weights
// are frozen, so the base's gradient costs as much as its forward pass; an adapter's own costs as much once more.
func (r *Run) spent(tokens int, trained bool) {
	base, adapter := 1.0, 1.0
	if trained {
		base, adapter = 2, 3
		if r.recomputes() {
			base, adapter = 3, 4
		}
	}
	r.now.tokens += int64(tokens)
	r.now.flops += float64(tokens) * (r.flops.base*base + r.flops.adapter*adapter)
}

// recomputes reports whether layers are computed again for their gradient: where it is asked for, and where the weights of a
// layer are there only while it runs.
func (r *Run) recomputes() bool { return r.plan.Checkpointing || r.plan.ZeroStage == 3 }

// Step ends a step: gradients are summed over the ranks and clipped, the optimizer moves, progress is told, and where it is
// time the run is evaluated and saved. It returns the step's fault, and the context's error after saving once it ended.
func (r *Run) Step(f forward) error {
	r.clock.to("reduce")
	if err := r.Settle(); err != nil {
		return err
	}
	x := &r.now.sums
	x.tokens = float64(r.now.tokens)
	if r.ctx.Err() != nil || r.unheard {
		x.stop = 1
	}
	if err := r.reduce(); err != nil {
		return err
	}
	if x.flaw > 0 {
		if r.now.fault == nil {
			r.now.fault = clara.Errorf(clara.Invalid, "step %d: another rank found a loss that is not a number; its message names the sample", r.step+1)
		}
		return r.now.fault
	}
	r.clock.to("optimizer")
	norm := torchx.ClipGradNorm(r.params, r.plan.MaxNorm)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		b := batch{data: r.data, samples: r.now.batch}
		r.fault("the gradient of the batch %s is %g", b.names(), norm)
		return r.now.fault
	}
	rate := r.rates.At(r.step)
	if err := r.opt.step(rate); err != nil {
		return err
	}
	r.SyncMemory()
	r.step++
	r.samples += int64(len(r.now.batch))
	r.clock.to("other")
	if err := r.tell(norm, rate); err != nil {
		return err
	}
	if r.eval != nil && r.plan.EvalSteps > 0 && r.step%r.plan.EvalSteps == 0 && r.step < r.steps {
		if err := r.evaluate(f); err != nil {
			return err
		}
	}
	stop := x.stop > 0 && r.step < r.steps
	if stop || r.plan.SaveSteps > 0 && r.step%r.plan.SaveSteps == 0 && r.step < r.steps {
		path, err := r.save()
		if err != nil {
			return err
		}
		if stop {
			r.emit(trainplan.Event{Kind: trainplan.Stopped, Path: path, Message: fmt.Sprintf("stopped at step %d of %d", r.step, r.steps)})
			if err := r.ctx.Err(); err != nil {
				return err
			}
			return context.Canceled
		}
	}
	return nil
}

// reduce sums gradients and figures over the ranks.
func (r *Run) reduce() error {
	g := r.env.Group
	if g == nil {
		return nil
	}
	return torchx.Do(func(s scope) error {
		grads := make([]tensor, len(r.params))
		for i, p := range r.params {
			if grads[i] = s.Grad(p); grads[i] == nil { // this rank had no sample of the last, smaller batch
				in := p.Info()
				grads[i] = s.Zeros(torchx.Float32, in.Device, in.Shape...)
				torchx.SetGrad(p, grads[i])
			}
		}
		if err := g.AllReduce(grads); err != nil {
			return err
		}
		list := r.now.sums.list()
		values := make([]float64, len(list))
		for i, v := range list {
			values[i] = *v
		}
		if err := g.Sum(values); err != nil {
			return err
		}
		for i, v := range list {
			*v = values[i]
		}
		return nil
	})
}

// tell writes the step's metrics.
func (r *Run) tell(norm, rate float64) error {
	if r.step%r.plan.LoggingSteps != 0 && r.step != r.steps {
		return nil
	}
	x, seconds := r.now.sums, time.Since(r.now.start).Seconds()
	m := trainplan.Metrics{
		Step: r.step, Steps: r.steps, Epoch: float64(r.step) * float64(r.plan.Epochs) / float64(max(1, r.plan.Steps(len(r.data.Samples)))),
		GradNorm: norm, Rate: rate, Samples: r.samples, Targets: int64(r.now.targets), Tokens: int64(x.tokens), Seconds: seconds,
		PerSecond: x.tokens / seconds, FLOPS: r.now.flops / seconds, Share: r.clock.shares(),
		Left: time.Since(r.began).Seconds() / float64(r.step-r.first) * float64(r.steps-r.step),
	}
	if r.now.targets > 0 {
		m.CE = x.ce / r.now.targets
	}
	if r.now.docs > 0 {
		m.MSE = x.mse / r.now.docs
	}
	m.Loss = x.loss / float64(len(r.now.batch))
	if r.plan.Stage != trainplan.Retrieval {
		m.Loss = m.CE
	}
	if r.plan.MSE && (r.plan.Stage == trainplan.Stage1 || r.plan.Stage == trainplan.Stage12) {
		m.Loss += mseWeight * m.MSE
	}
	if x.positives > 0 {
		m.Recall1, m.Recall5 = x.recall1/x.positives, x.recall5/x.positives
	}
	m.Memory, m.MemoryPeak = memory(r.env.Device)
	r.emit(trainplan.Event{Kind: trainplan.Step, Metrics: &m})
	return r.record(m)
}

// Finish saves the run's result, after its last step.
func (r *Run) Finish(f forward) error {
	if r.eval != nil {
		if err := r.evaluate(f); err != nil {
			return err
		}
	}
	if _, err := r.save(); err != nil {
		return err
	}
	if err := r.export(); err != nil {
		return err
	}
	r.emit(trainplan.Event{Kind: trainplan.Finished, Path: r.plan.SavePath, Message: fmt.Sprintf("%d steps", r.step)})
	return nil
}

// clock measures the phases of a step.
type clock struct {
	phase string
	since time.Time
	spent map[string]time.Duration
	begun time.Time
}

func (c *clock) reset() {
	c.spent, c.phase = map[string]time.Duration{}, "other"
	c.since = time.Now()
	c.begun = c.since
}

func (c *clock) to(phase string) {
	now := time.Now()
	if c.spent != nil {
		c.spent[c.phase] += now.Sub(c.since)
	}
	c.phase, c.since = phase, now
}

func (c *clock) shares() map[string]float64 {
	c.to(c.phase)
	total := time.Since(c.begun).Seconds()
	out := map[string]float64{}
	for k, v := range c.spent {
		out[k] = math.Round(v.Seconds()/total*1e4) / 1e4
	}
	return out
}
