package job

import (
	"context"

	"connectrpc.com/connect"

	"github.com/clara-suite/clara/libs/clara"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// Hooks are what a type of job needs besides its record. Both are optional.
type Hooks struct {
	// Retry starts again what failed in an ended job; open jobs need it. It may use ResetItem.
	Retry func(ctx context.Context, j *jobv1.Job) error
	// Cancel is called after cancelling was asked for, to make it quick.
	Cancel func(ctx context.Context, j *jobv1.Job) error
}

// Handler serves clara.job.v1.JobService.
type Handler struct {
	jobs  *Jobs
	hooks map[string]Hooks
	may   func(ctx context.Context, j *jobv1.Job) bool
}

// NewHandler makes the service. hooks are by type of job. may reports whether a caller may see and steer a job;
// nil allows all. What a caller may not see does not exist for it.
func NewHandler(jobs *Jobs, hooks map[string]Hooks, may func(ctx context.Context, j *jobv1.Job) bool) *Handler {
	if may == nil {
		may = func(context.Context, *jobv1.Job) bool { return true }
	}
	return &Handler{jobs, hooks, may}
}

func (h *Handler) get(ctx context.Context, name string) (*jobv1.Job, error) {
	job, err := h.jobs.Get(ctx, name)
	if err == nil && !h.may(ctx, job) {
		return nil, clara.Errorf(clara.NotFound, "no job %s", name)
	}
	return job, err
}

// GetJob returns one job.
func (h *Handler) GetJob(ctx context.Context, req *jobv1.GetJobRequest) (*jobv1.Job, error) {
	return h.get(ctx, req.GetName())
}

// ListJobs returns the jobs that the caller may see, newest first.
func (h *Handler) ListJobs(ctx context.Context, req *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	jobs, next, err := h.jobs.List(ctx, Query{Type: req.GetType(), Target: req.GetTarget(), PageSize: int(req.GetPageSize()),
		PageToken: req.GetPageToken(), Visible: func(j *jobv1.Job) bool { return h.may(ctx, j) }})
	if err != nil {
		return nil, err
	}
	return &jobv1.ListJobsResponse{Jobs: jobs, NextPageToken: next}, nil
}

// WatchJob sends the job after every change until it has ended.
func (h *Handler) WatchJob(ctx context.Context, req *jobv1.WatchJobRequest, stream *connect.ServerStream[jobv1.Job]) error {
	if _, err := h.get(ctx, req.GetName()); err != nil {
		return err
	}
	return h.jobs.Watch(ctx, req.GetName(), stream.Send)
}

// CancelJob asks a moving job to stop.
func (h *Handler) CancelJob(ctx context.Context, req *jobv1.CancelJobRequest) (*jobv1.Job, error) {
	if _, err := h.get(ctx, req.GetName()); err != nil {
		return nil, err
	}
	job, err := h.jobs.Cancel(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if hook := h.hooks[job.GetType()].Cancel; hook != nil && !Ended(job.GetState()) {
		if err := hook(ctx, job); err != nil {
			return nil, err
		}
	}
	return job, nil
}

// RetryJob starts what failed in an ended job again.
func (h *Handler) RetryJob(ctx context.Context, req *jobv1.RetryJobRequest) (*jobv1.Job, error) {
	job, err := h.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if !Ended(job.GetState()) {
		return nil, clara.Errorf(clara.State, "%s has not ended yet", job.GetName())
	}
	hook := h.hooks[job.GetType()].Retry
	if hook == nil {
		return h.jobs.Retry(ctx, job.GetName())
	}
	if err := hook(ctx, job); err != nil {
		return nil, err
	}
	return h.jobs.Get(ctx, job.GetName())
}
