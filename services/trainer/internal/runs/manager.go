package runs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/trainplan"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/services/trainer/internal/worker"
)

// TrainJob is the type of the jobs that hold runs.
const TrainJob = "train"

const (
	runPrefix = "runs/"
	jobPrefix = "jobs/"
	// liveSubject is where what happens to runs is announced.
	liveSubject = "run"
	// storeEvery is the least time between two stored states of a run's progress.
	storeEvery = time.Second
)

// Roots says which paths may be read and written.
type Roots interface {
	Check(path string) error
	CheckWrite(path string) error
}

// Manager keeps runs and does those whose jobs it holds.
type Manager struct {
	log     *slog.Logger
	conn    *events.Conn
	jobs    *job.Jobs
	records *events.Store[*trainerv1.Run]
	roots   Roots
	o       Options
	gauges  gauges

	slots chan struct{} // runs at once
	ctx   context.Context
	stop  context.CancelFunc
	work  sync.WaitGroup
	start sync.Mutex // of StartRun: two runs never get one folder
}

// Options is what a Manager works with.
type Options struct {
	Log   *slog.Logger
	Conn  *events.Conn
	Jobs  *job.Jobs
	Roots Roots
	Meter metric.MeterProvider // may be nil
	// Program is the path of clara-train; empty: looked for.
	Program string
	// AtOnce is how many runs are done at the same time. 0: 1.
	AtOnce     int
	Supervisor Supervisor // Program is filled in
}

// gauges are the figures of the runs for telemetry.
type gauges struct {
	loss, tokens, left, seconds metric.Float64Gauge
	step, memory                metric.Int64Gauge
}

// New opens the records.
func New(ctx context.Context, o Options) (*Manager, error) {
	records, err := events.OpenStore[*trainerv1.Run](ctx, o.Conn, "clara_runs", 0)
	if err != nil {
		return nil, err
	}
	m := &Manager{log: o.Log, conn: o.Conn, jobs: o.Jobs, records: records, roots: o.Roots, o: o, slots: make(chan struct{}, max(1, o.AtOnce))}
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	if o.Meter != nil {
		if m.gauges, err = newGauges(o.Meter.Meter("clara/trainer")); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func newGauges(m metric.Meter) (g gauges, err error) {
	var errs [6]error
	g.loss, errs[0] = m.Float64Gauge("clara_trainer_loss", metric.WithDescription("Loss of the last step."))
	g.tokens, errs[1] = m.Float64Gauge("clara_trainer_tokens_per_second", metric.WithDescription("Tokens through the model a second, in the last step."))
	g.left, errs[2] = m.Float64Gauge("clara_trainer_left_seconds", metric.WithDescription("Time left at the present speed."))
	g.step, errs[3] = m.Int64Gauge("clara_trainer_step_count", metric.WithDescription("Steps made."))
	g.memory, errs[4] = m.Int64Gauge("clara_trainer_memory_bytes", metric.WithDescription("Memory in use by the worker of rank 0."))
	g.seconds, errs[5] = m.Float64Gauge("clara_trainer_step_seconds", metric.WithDescription("Time of the last step."))
	return g, errors.Join(errs[:]...)
}

func (g gauges) record(ctx context.Context, run string, s *trainerv1.Stage) {
	m := s.GetMetrics()
	if g.loss == nil || m == nil {
		return
	}
	of := metric.WithAttributes(attribute.String("run", run), attribute.String("stage", s.Stage))
	g.loss.Record(ctx, m.Loss, of)
	g.tokens.Record(ctx, m.TokensPerSecond, of)
	g.left.Record(ctx, m.SecondsLeft, of)
	g.seconds.Record(ctx, m.Seconds, of)
	g.step.Record(ctx, m.Step, of)
	g.memory.Record(ctx, m.Memory, of)
}

// Close lets the workers save and leave, as long as ctx allows. Their runs go on when the service is back.
func (m *Manager) Close(ctx context.Context) error {
	m.stop()
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Start checks a request and starts the run.
func (m *Manager) Start(ctx context.Context, req *trainerv1.StartRunRequest) (*trainerv1.Run, error) {
	program, err := worker.Find(m.o.Program)
	if err != nil {
		return nil, err
	}
	info, err := worker.Ask(ctx, program)
	if err != nil {
		return nil, err
	}
	plans, notes, err := Plans(req, info.Devices)
	if err != nil {
		return nil, err
	}
	if err := m.checkPaths(plans); err != nil {
		return nil, err
	}
	run, err := NewRun(req.DisplayName, plans, notes)
	if err != nil {
		return nil, err
	}
	if !req.ValidateOnly {
		if err := m.free(ctx, run); err != nil {
			return nil, err
		}
	}
	if err := m.check(ctx, program, plans, run); err != nil || req.ValidateOnly {
		return run, err
	}
	run.RequestId = req.RequestId
	return m.create(ctx, run)
}

// checkLimit is how long a run's data may take to be checked before the run exists. What is larger is checked as it begins.
const checkLimit = 3 * time.Minute

// check has the worker find out whether all stages can work, before any of them begins, and fills in their summaries.
func (m *Manager) check(ctx context.Context, program string, plans []trainplan.Plan, run *trainerv1.Run) error {
	limited, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	found, err := worker.Check(limited, program, plans)
	if limited.Err() != nil && ctx.Err() == nil {
		run.Notes = append(run.Notes, fmt.Sprintf("the data took longer than %s to check; each stage checks its own before its first step", checkLimit))
		return nil
	}
	for i := range found {
		for _, s := range run.Stages {
			if s.Stage == found[i].Stage && s.Summary == nil {
				s.Summary = &trainerv1.Summary{}
				convert(&found[i], s.Summary)
			}
		}
	}
	return err
}

// checkPaths refuses what lies outside of the roots or is not there. What a stage writes, the next may read.
func (m *Manager) checkPaths(plans []trainplan.Plan) error {
	var errs []error
	var made []string
	for _, p := range plans {
		reads, writes := paths(p)
		for _, path := range reads {
			if slices.Contains(made, path) {
				continue
			}
			errs = append(errs, m.roots.Check(path))
		}
		for _, path := range writes {
			errs = append(errs, m.roots.CheckWrite(path))
		}
		made = append(made, p.SavePath)
	}
	return errors.Join(errs...)
}

func (m *Manager) create(ctx context.Context, run *trainerv1.Run) (*trainerv1.Run, error) {
	m.start.Lock()
	defer m.start.Unlock()
	spec, err := protojson.Marshal(run)
	if err != nil {
		return nil, fmt.Errorf("encode run: %w", err)
	}
	if err := m.free(ctx, run); err != nil {
		return nil, err
	}
	j, err := m.jobs.Create(ctx, &jobv1.Job{Type: TrainJob, Target: runPrefix + run.DisplayName, Detail: stages(run), RequestId: run.RequestId, Spec: spec})
	if err != nil {
		return nil, err
	}
	if err := m.Resume(ctx, j); err != nil && clara.KindOf(err) != clara.Conflict && clara.KindOf(err) != clara.State {
		return nil, err
	}
	return m.Get(ctx, runPrefix+strings.TrimPrefix(j.Name, jobPrefix))
}

func stages(run *trainerv1.Run) string {
	var names []string
	for _, s := range run.Stages {
		names = append(names, s.Stage)
	}
	return "training of " + strings.Join(names, ", ")
}

// free fails if another run that has not ended writes to one of the run's folders.
func (m *Manager) free(ctx context.Context, run *trainerv1.Run) error {
	others, err := m.records.List(ctx, "")
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Value.Name == run.Name || over(o.Value.State) || run.RequestId != "" && o.Value.RequestId == run.RequestId {
			continue
		}
		for _, a := range run.Stages {
			for _, b := range o.Value.Stages {
				if a.RunDir == b.RunDir || a.SavePath == b.SavePath {
					return clara.Errorf(clara.Conflict, "%s (%s) writes to %s: stop it with clara runs stop %s, or give this run a save_path of its own",
						o.Value.Name, o.Value.DisplayName, b.SavePath, strings.TrimPrefix(o.Value.Name, runPrefix))
				}
			}
		}
	}
	return nil
}

func over(s trainerv1.Run_State) bool {
	return s == trainerv1.Run_STATE_SUCCEEDED || s == trainerv1.Run_STATE_FAILED || s == trainerv1.Run_STATE_STOPPED
}

// Resume takes up a run whose job is pending, and returns at once.
func (m *Manager) Resume(ctx context.Context, j *jobv1.Job) error {
	held, err := m.jobs.Start(m.ctx, j.Name)
	if err != nil {
		return err
	}
	// From here on the job has a worker, and every way out ends it.
	run, resume, err := m.record(ctx, held.Job())
	if err != nil {
		return errors.Join(err, held.Finish(err))
	}
	m.work.Go(func() { m.do(held, run, resume) })
	return nil
}

// record returns the run of a job, making it at the job's first start. resume says that the run has begun before.
func (m *Manager) record(ctx context.Context, j *jobv1.Job) (run *trainerv1.Run, resume bool, err error) {
	id := strings.TrimPrefix(j.Name, jobPrefix)
	e, err := m.records.Get(ctx, id)
	if err == nil {
		return e.Value, true, nil
	}
	if clara.KindOf(err) != clara.NotFound {
		return nil, false, err
	}
	run = &trainerv1.Run{}
	if err := protojson.Unmarshal(j.Spec, run); err != nil {
		return nil, false, clara.Errorf(clara.Corrupt, "%s: %w", j.Name, err)
	}
	run.Name, run.Job, run.CreateTime, run.UpdateTime = runPrefix+id, j.Name, j.CreateTime, timestamppb.Now()
	_, err = m.records.Create(ctx, id, run)
	return run, false, err
}

// do carries a run out under its job.
func (m *Manager) do(held *job.Run, run *trainerv1.Run, resume bool) {
	err := m.train(held, run, resume)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(held.Context()), 10*time.Second)
	defer cancel()
	if errors.Is(err, worker.ErrStopped) {
		err = context.Cause(held.Context()) // cancelled, or the service stops
		if !errors.Is(err, job.ErrCancelled) && m.ctx.Err() != nil {
			run.State, run.EndTime, err = trainerv1.Run_STATE_PENDING, nil, context.Canceled // it goes on when the service is back
			run.Stages[run.Stage].State = run.State
		}
	} else if err != nil {
		m.log.Warn("run failed", "run", run.Name, "err", err)
	}
	if clara.KindOf(context.Cause(held.Context())) == clara.Conflict {
		m.log.Warn("run was taken over", "run", run.Name)
		return // its record is another's now
	}
	// The record first: a job that has not ended with a record that has is done once more, which changes nothing.
	if serr := m.store(ctx, run); serr != nil {
		m.log.Warn("run not stored", "run", run.Name, "err", serr)
	}
	if ferr := held.Finish(err); ferr != nil {
		m.log.Warn("job not ended", "job", held.Name(), "err", ferr)
	}
}

func (m *Manager) train(held *job.Run, run *trainerv1.Run, resume bool) error {
	ctx := held.Context()
	held.Progress(0, 0, "steps", "waiting for another run")
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		run.State, run.EndTime = trainerv1.Run_STATE_STOPPED, timestamppb.Now()
		return worker.ErrStopped
	}
	s := m.o.Supervisor
	var err error
	if s.Program, err = worker.Find(m.o.Program); err != nil {
		run.State, run.Error, run.EndTime = trainerv1.Run_STATE_FAILED, err.Error(), timestamppb.Now()
		return err
	}
	k := keeper{m: m, ctx: ctx, changed: make(chan struct{}, 1), done: make(chan struct{})}
	var keeping sync.WaitGroup
	keeping.Go(k.keep)
	defer func() { close(k.done); keeping.Wait() }() // before do stores the end
	return s.Train(ctx, run, resume, func(e *trainerv1.WatchRunResponse) {
		stage := e.Run.Stages[e.Run.Stage]
		if p := stage.Metrics; p != nil {
			held.Progress(p.Step, p.Steps, "steps", stage.Stage)
		} else {
			held.Progress(0, stage.Summary.GetSteps(), "steps", strings.TrimSpace(stage.Stage+" "+stage.Phase))
		}
		m.gauges.record(ctx, e.Run.Name, stage)
		if err := m.conn.Announce(e, liveSubject, strings.TrimPrefix(e.Run.Name, runPrefix)); err != nil {
			m.log.Debug("run not announced", "run", e.Run.Name, "err", err)
		}
		k.set(e.Run)
	})
}

// keeper stores the newest state of a run, at most once in storeEvery.
type keeper struct {
	m       *Manager
	ctx     context.Context
	changed chan struct{}
	done    chan struct{}

	mu  sync.Mutex
	run *trainerv1.Run
}

func (k *keeper) set(run *trainerv1.Run) {
	k.mu.Lock()
	k.run = run
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *keeper) keep() {
	for {
		select {
		case <-k.done:
			return
		case <-k.changed:
		}
		k.mu.Lock()
		run := k.run
		k.mu.Unlock()
		if err := k.m.store(k.ctx, run); err != nil && k.ctx.Err() == nil {
			k.m.log.Warn("run not stored", "run", run.Name, "err", err)
		}
		select {
		case <-k.done:
			return
		case <-time.After(storeEvery):
		}
	}
}

func (m *Manager) store(ctx context.Context, run *trainerv1.Run) error {
	_, err := m.records.Put(ctx, strings.TrimPrefix(run.Name, runPrefix), run)
	return err
}

// NameOf returns the name of the run that a job holds.
func NameOf(j *jobv1.Job) string { return runPrefix + strings.TrimPrefix(j.Name, jobPrefix) }

// id returns the id in "runs/{run}".
func id(name string) (string, error) {
	s, ok := strings.CutPrefix(name, runPrefix)
	if !ok || s == "" || strings.ContainsAny(s, "/.*> ") {
		return "", clara.Errorf(clara.Invalid, "run %q: want runs/ID", name)
	}
	return s, nil
}

// Get returns a run. NotFound.
func (m *Manager) Get(ctx context.Context, name string) (*trainerv1.Run, error) {
	id, err := id(name)
	if err != nil {
		return nil, err
	}
	e, err := m.records.Get(ctx, id)
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no run %q; clara runs list shows what there is", id)
	}
	if err != nil {
		return nil, err
	}
	return m.settle(ctx, e)
}

// settle ends a run's record whose job has ended without it: cancelled while nobody worked on it, or given up.
func (m *Manager) settle(ctx context.Context, e events.Entry[*trainerv1.Run]) (*trainerv1.Run, error) {
	run := e.Value
	if over(run.State) {
		return run, nil
	}
	j, err := m.jobs.Get(ctx, run.Job)
	gone := clara.KindOf(err) == clara.NotFound // forgotten, long after its end
	if err != nil && !gone {
		return nil, err
	}
	if !gone && !job.Ended(j.State) {
		return run, nil
	}
	settled := proto.Clone(run).(*trainerv1.Run)
	settled.EndTime = timestamppb.Now()
	switch {
	case gone:
		settled.State, settled.Error = trainerv1.Run_STATE_FAILED, "its job is gone; resume the run"
	case j.State == jobv1.Job_STATE_CANCELLED:
		settled.State, settled.EndTime = trainerv1.Run_STATE_STOPPED, j.EndTime
	case j.State == jobv1.Job_STATE_SUCCEEDED:
		settled.State, settled.EndTime = trainerv1.Run_STATE_SUCCEEDED, j.EndTime
	default:
		settled.State, settled.Error, settled.EndTime = trainerv1.Run_STATE_FAILED, j.Error, j.EndTime
	}
	if at := int(settled.Stage); at < len(settled.Stages) {
		settled.Stages[at].State = settled.State
	}
	if _, err := m.records.Update(ctx, e.Key, settled, e.Revision); clara.KindOf(err) == clara.Conflict {
		// Its worker was just storing the end itself.
		now, err := m.records.Get(ctx, e.Key)
		return now.Value, err
	} else if err != nil {
		return nil, err
	}
	return settled, nil
}

// List returns all runs, newest first.
func (m *Manager) List(ctx context.Context) ([]*trainerv1.Run, error) {
	entries, err := m.records.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []*trainerv1.Run
	for _, e := range entries {
		run, err := m.settle(ctx, e)
		if err != nil {
			return nil, err
		}
		out = append(out, run)
	}
	slices.SortStableFunc(out, func(a, b *trainerv1.Run) int { return b.CreateTime.AsTime().Compare(a.CreateTime.AsTime()) })
	return out, nil
}

// Stop asks a run to save and leave.
func (m *Manager) Stop(ctx context.Context, name string) (*trainerv1.Run, error) {
	run, err := m.Get(ctx, name)
	if err != nil || over(run.State) {
		return run, err
	}
	if _, err := m.jobs.Cancel(ctx, run.Job); err != nil {
		return nil, err
	}
	return m.Get(ctx, name)
}

// Again goes on with a run that was stopped or has failed. State for any other.
func (m *Manager) Again(ctx context.Context, name string) (*trainerv1.Run, error) {
	run, err := m.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	switch {
	case run.State == trainerv1.Run_STATE_SUCCEEDED:
		return nil, clara.Errorf(clara.State, "%s has finished: start a new run from its checkpoint to train on", name)
	case !over(run.State):
		return nil, clara.Errorf(clara.State, "%s has not ended", name)
	}
	// The record ends a moment before the job does.
	if err := m.jobs.Watch(ctx, run.Job, func(*jobv1.Job) error { return nil }); err != nil {
		return nil, err
	}
	m.start.Lock()
	defer m.start.Unlock()
	if err := m.free(ctx, run); err != nil {
		return nil, err
	}
	if _, err := m.records.Modify(ctx, strings.TrimPrefix(name, runPrefix), func(r *trainerv1.Run) error {
		r.State, r.Error, r.EndTime, r.Restarts = trainerv1.Run_STATE_PENDING, "", nil, 0
		r.Stages[r.Stage].State = r.State
		return nil
	}); err != nil {
		return nil, err
	}
	j, err := m.jobs.Retry(ctx, run.Job)
	if err != nil {
		return nil, err
	}
	// The reaper would take it up as well; whoever is first.
	if err := m.Resume(ctx, j); err != nil && clara.KindOf(err) != clara.Conflict && clara.KindOf(err) != clara.State {
		return nil, err
	}
	return m.Get(ctx, name)
}

// settleEvery is how often Watch looks whether a run's worker has gone without a word.
const settleEvery = 5 * time.Second

// Watch calls f with the run as it is and with everything that happens to it, until it has ended, f fails or ctx ends.
func (m *Manager) Watch(ctx context.Context, name string, f func(*trainerv1.WatchRunResponse) error) error {
	id, err := id(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A watcher that is slow misses steps, never the end: that is stored.
	live := make(chan *trainerv1.WatchRunResponse, 256)
	offer := func(e *trainerv1.WatchRunResponse) {
		select {
		case live <- e:
		default:
		}
	}
	stop, err := events.Listen(m.conn, offer, liveSubject, id)
	if err != nil {
		return err
	}
	defer stop()
	stored := make(chan struct{}, 1)
	go func() {
		for e, err := range m.records.WatchKey(ctx, id) {
			if err == nil && e.Key != "" {
				select {
				case stored <- struct{}{}:
				default:
				}
			}
		}
	}()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	var sent time.Time // of the newest state that f has seen
	send := func(e *trainerv1.WatchRunResponse) error {
		if at := e.Run.GetUpdateTime().AsTime(); at.After(sent) {
			sent = at
		}
		return f(e)
	}
	for {
		// What was announced comes before what is stored of it.
		select {
		case e := <-live:
			if err := send(e); err != nil {
				return err
			}
			continue
		default:
		}
		run, err := m.Get(ctx, name)
		if err != nil {
			return err
		}
		switch {
		case over(run.State):
			return f(&trainerv1.WatchRunResponse{Run: run, Event: last(run.State), Message: run.Error})
		case run.UpdateTime.AsTime().After(sent):
			if err := send(&trainerv1.WatchRunResponse{Run: run}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-live:
			if err := send(e); err != nil {
				return err
			}
		case <-stored:
		case <-tick.C:
		}
	}
}

// last is the event that a run ends with.
func last(s trainerv1.Run_State) string {
	switch s {
	case trainerv1.Run_STATE_SUCCEEDED:
		return trainplan.Finished
	case trainerv1.Run_STATE_STOPPED:
		return trainplan.Stopped
	}
	return trainplan.Failed
}
