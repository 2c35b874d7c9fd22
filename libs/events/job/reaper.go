package job

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// Run keeps the totals of open jobs and takes up held jobs whose worker is gone, for the types that this service
// owns. It is a unit of lifecycle and ends with ctx.
func (j *Jobs) Run(ctx context.Context) error {
	j.mu.Lock()
	j.run = ctx
	j.mu.Unlock()
	defer j.trackers.Wait()
	// A job announced as pending with its lease over is one to retry: look at once.
	stop, err := events.Listen(j.conn, func(job *jobv1.Job) {
		if job.GetState() == jobv1.Job_STATE_PENDING && slices.Contains(j.opts.Owned, job.GetType()) {
			select {
			case j.wake <- struct{}{}:
			default:
			}
		}
	}, "job", "*")
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(max(j.opts.Lease/3, 100*time.Millisecond))
	defer tick.Stop()
	for {
		if err := j.Reap(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("look for lost jobs", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		case <-tick.C:
		}
	}
}

// Reap looks once at all moving jobs that this service owns.
func (j *Jobs) Reap(ctx context.Context) error {
	for e, err := range j.jobs.Scan(ctx, "") {
		if err != nil {
			return err
		}
		job := e.Value
		if Ended(job.GetState()) || !slices.Contains(j.opts.Owned, job.GetType()) {
			continue
		}
		if job.GetLeaseTime() == nil {
			j.track(job)
			continue
		}
		if at, ok := j.left.Load(job.GetName()); ok && time.Since(at.(time.Time)) < j.opts.Lease {
			continue // this process stops: another takes it up
		}
		if time.Now().After(job.GetLeaseTime().AsTime()) {
			j.reclaim(ctx, job.GetName())
		}
	}
	return nil
}

// reclaim ends or resumes a job whose lease is over. Of several replicas one is first; the others see a new lease.
func (j *Jobs) reclaim(ctx context.Context, name string) {
	job, err := j.Modify(ctx, name, func(job *jobv1.Job) error {
		if Ended(job.GetState()) || time.Now().Before(job.GetLeaseTime().AsTime()) {
			return clara.Errorf(clara.Conflict, "%s is taken", name)
		}
		switch {
		case job.GetCancelRequested():
			end(job, jobv1.Job_STATE_CANCELLED, "")
		case j.opts.Resume == nil:
			end(job, jobv1.Job_STATE_FAILED, "the process that did this job went away; retry the job")
		case job.GetState() == jobv1.Job_STATE_RUNNING && int(job.GetAttempt()) >= j.opts.MaxAttempts:
			end(job, jobv1.Job_STATE_FAILED, "the process that did this job went away at every attempt; look at its log, then retry the job")
		default:
			// The new lease is the time that Resume has to start it.
			job.State, job.LeaseTime = jobv1.Job_STATE_PENDING, timestamppb.New(time.Now().Add(j.opts.Lease))
		}
		return nil
	})
	if clara.KindOf(err) == clara.Conflict {
		return
	}
	if err != nil {
		j.log.Warn("take up lost job", "job", name, "err", err)
		return
	}
	if Ended(job.GetState()) {
		j.log.Warn("lost job ended", "job", name, "state", job.GetState().String())
		return
	}
	j.log.Info("job resumed", "job", name, "attempt", job.GetAttempt()+1)
	err = j.opts.Resume(ctx, job)
	if err == nil || ctx.Err() != nil {
		return
	}
	j.log.Warn("job not resumed yet", "job", name, "err", err)
	if clara.Waits(err) && time.Since(job.GetCreateTime().AsTime()) < maxWait {
		return
	}
	// What does not pass by itself, or has not for long, is no state to leave a job in.
	if _, err := j.Modify(ctx, name, func(now *jobv1.Job) error {
		if now.GetState() != jobv1.Job_STATE_PENDING {
			return events.Unchanged // somebody has started it after all
		}
		end(now, jobv1.Job_STATE_FAILED, fmt.Sprintf("could not be resumed: %v; retry the job", err))
		return nil
	}); err != nil {
		j.log.Warn("end lost job", "job", name, "err", err)
	}
}

// maxWait is how old a job may grow whose Resume keeps saying that it has to wait.
const maxWait = 24 * time.Hour
