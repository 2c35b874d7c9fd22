package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// Run is the hold of one worker on a held job. Report to it from any goroutine; call Finish once.
type Run struct {
	jobs    *Jobs
	name    string
	attempt int32
	parent  context.Context
	ctx     context.Context
	cancel  context.CancelCauseFunc
	kept    sync.WaitGroup

	mu       sync.Mutex
	job      *jobv1.Job // what we last knew or reported
	items    itemSet
	pace     pace
	dirty    bool
	stored   time.Time
	finished bool
}

// Start takes hold of a pending job, or of a running one whose worker was not heard of for a lease. State if
// it has ended, Conflict if another holds it. The Run's context ends with ctx, when the job is cancelled, and when
// the hold is lost.
func (j *Jobs) Start(ctx context.Context, name string) (*Run, error) {
	job, err := j.Modify(ctx, name, func(job *jobv1.Job) error {
		switch {
		case Ended(job.GetState()):
			return clara.Errorf(clara.State, "%s has ended", name)
		case job.GetLeaseTime() == nil:
			return clara.Errorf(clara.State, "%s is an open job and has no one worker", name)
		case job.GetState() == jobv1.Job_STATE_RUNNING && time.Now().Before(job.GetLeaseTime().AsTime()):
			return clara.Errorf(clara.Conflict, "%s is being done by another worker", name)
		}
		job.State = jobv1.Job_STATE_RUNNING
		job.Attempt++
		job.LeaseTime = timestamppb.New(time.Now().Add(j.opts.Lease))
		if job.GetStartTime() == nil {
			job.StartTime = timestamppb.Now()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &Run{jobs: j, name: name, attempt: job.GetAttempt(), parent: ctx, job: job, stored: time.Now()}
	r.items.load(job.GetItems())
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	if job.GetCancelRequested() {
		r.cancel(ErrCancelled)
	}
	r.kept.Go(r.keep)
	r.kept.Go(r.watch)
	return r, nil
}

// Context ends when the work must stop; its cause says why.
func (r *Run) Context() context.Context { return r.ctx }

// Name returns the job's resource name.
func (r *Run) Name() string { return r.name }

// Job returns a copy of the job as it is now.
func (r *Run) Job() *jobv1.Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.Clone(r.job).(*jobv1.Job)
}

// Progress reports how far the work is. total 0 is unknown. Rate and time left are computed.
func (r *Run) Progress(done, total int64, unit, stage string) {
	r.report(func(job *jobv1.Job) {
		p := &jobv1.Progress{Done: done, Total: total, Unit: unit, Stage: stage}
		r.pace.fill(p, time.Now())
		job.Progress = p
	})
}

// Detail sets the line of text for people.
func (r *Run) Detail(text string) { r.report(func(job *jobv1.Job) { job.Detail = text }) }

// SetSpec keeps what the owner needs to go on where it was.
func (r *Run) SetSpec(spec []byte) { r.report(func(job *jobv1.Job) { job.Spec = spec }) }

// SetItem reports on one part of the job, by its name.
func (r *Run) SetItem(item *jobv1.Item) {
	r.report(func(job *jobv1.Job) {
		r.items.set(item)
		r.items.fill(job)
	})
}

// report changes the known state and announces it; keep stores it.
func (r *Run) report(change func(*jobv1.Job)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished {
		return
	}
	change(r.job)
	r.job.UpdateTime = timestamppb.Now()
	r.dirty = true
	r.jobs.announce(r.job)
}

// keep renews the lease and stores what was reported, until the run ends.
func (r *Run) keep() {
	tick := time.NewTicker(min(r.jobs.opts.StoreEvery, r.jobs.opts.Lease/3))
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		due := r.dirty || time.Since(r.stored) > r.jobs.opts.Lease/3
		r.mu.Unlock()
		if !due {
			continue
		}
		err := r.store(r.ctx, func(*jobv1.Job) {})
		if clara.KindOf(err) == clara.Conflict {
			r.cancel(err)
			return
		}
		if err != nil && r.ctx.Err() == nil {
			r.jobs.log.Warn("job not stored", "job", r.name, "err", err)
		}
	}
}

// store writes what is known, with a last change, if the hold is still ours.
func (r *Run) store(ctx context.Context, change func(*jobv1.Job)) error {
	r.mu.Lock()
	known := proto.Clone(r.job).(*jobv1.Job)
	r.dirty = false
	r.mu.Unlock()
	_, err := r.jobs.Modify(ctx, r.name, func(job *jobv1.Job) error {
		if job.GetAttempt() != r.attempt || job.GetState() != jobv1.Job_STATE_RUNNING {
			return clara.Errorf(clara.Conflict, "%s is no longer held by this worker", r.name)
		}
		job.Progress, job.Detail, job.Spec, job.Items = known.GetProgress(), known.GetDetail(), known.GetSpec(), known.GetItems()
		job.ItemCount, job.DoneCount, job.FailedCount, job.PartialCount = known.GetItemCount(), known.GetDoneCount(), known.GetFailedCount(), known.GetPartialCount()
		job.LeaseTime = timestamppb.New(time.Now().Add(r.jobs.opts.Lease))
		change(job)
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.dirty = true
		return err
	}
	r.stored = time.Now()
	return nil
}

// watch ends the run's context when the job is cancelled or taken over.
func (r *Run) watch() {
	id, err := idOf(r.name)
	for err == nil && r.ctx.Err() == nil {
		for e, werr := range r.jobs.jobs.WatchKey(r.ctx, id) {
			if werr != nil {
				break
			}
			if e.Key == "" {
				continue
			}
			if e.Deleted || e.Value.GetAttempt() > r.attempt {
				r.cancel(clara.Errorf(clara.Conflict, "%s was taken over by another worker", r.name))
				return
			}
			if e.Value.GetCancelRequested() {
				r.cancel(ErrCancelled)
				return
			}
		}
		select { // the connection was lost: look again when it is back
		case <-r.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// Finish ends the job: succeeded, or partial if items have failed; failed with err; cancelled if that was asked
// for. If the process is stopping, the job goes back to pending, for another worker at once. Conflict if the
// hold was lost.
func (r *Run) Finish(err error) error {
	cause := context.Cause(r.ctx)
	r.cancel(nil)
	r.kept.Wait()
	r.mu.Lock()
	r.finished = true
	r.mu.Unlock()
	// The end must be stored even if the caller's time is up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.parent), 10*time.Second)
	defer cancel()
	if clara.IsContext(err) && r.parent.Err() != nil {
		r.jobs.left.Store(r.name, time.Now()) // before the reaper of this process, which still runs, sees it
	}
	ferr := r.store(ctx, func(job *jobv1.Job) {
		switch {
		case err == nil && job.GetFailedCount()+job.GetPartialCount() > 0:
			end(job, jobv1.Job_STATE_PARTIAL, "")
		case err == nil:
			end(job, jobv1.Job_STATE_SUCCEEDED, "")
		case errors.Is(cause, ErrCancelled) || errors.Is(err, ErrCancelled):
			end(job, jobv1.Job_STATE_CANCELLED, "")
		case clara.IsContext(err) && r.parent.Err() != nil:
			job.State, job.LeaseTime = jobv1.Job_STATE_PENDING, timestamppb.Now()
			job.Attempt-- // stopping is no failed attempt
		default:
			end(job, jobv1.Job_STATE_FAILED, err.Error())
		}
	})
	if ferr != nil {
		return fmt.Errorf("end %s: %w", r.name, ferr)
	}
	return nil
}

// pace computes rate and time left from successive reports.
type pace struct {
	unit, stage string
	at          time.Time
	done        int64
	rate        float64
}

// paceOver is the time over which the rate is smoothed.
const paceOver = 10 * time.Second

func (p *pace) fill(to *jobv1.Progress, now time.Time) {
	if p.at.IsZero() || p.unit != to.GetUnit() || p.stage != to.GetStage() || to.GetDone() < p.done {
		*p = pace{unit: to.GetUnit(), stage: to.GetStage(), at: now, done: to.GetDone()}
	}
	if elapsed := now.Sub(p.at); elapsed >= 100*time.Millisecond {
		current := float64(to.GetDone()-p.done) / elapsed.Seconds()
		weight := min(1, elapsed.Seconds()/paceOver.Seconds())
		if p.rate == 0 {
			weight = 1
		}
		p.rate += weight * (current - p.rate)
		p.at, p.done = now, to.GetDone()
	}
	to.Rate, to.RemainingSeconds = p.rate, -1
	if left := to.GetTotal() - to.GetDone(); to.GetTotal() > 0 && p.rate > 0 {
		to.RemainingSeconds = float64(left) / p.rate
	}
}
