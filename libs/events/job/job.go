package job

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// ErrCancelled is the cause of a Run's context when the job was cancelled.
var ErrCancelled = errors.New("the job was cancelled")

// Options say which jobs a service owns. All are optional.
type Options struct {
	Log *slog.Logger
	// Owned are the types of job that this service does; for these Run keeps totals and takes up lost work.
	Owned []string
	// Resume starts a held job (again) whose worker is gone, or that is to be retried; it returns at once. The
	// job is pending. nil: such jobs fail, with a message that says so.
	Resume func(ctx context.Context, j *jobv1.Job) error
	// Lease is how long a silent worker keeps its job. 0: 30 s.
	Lease time.Duration
	// MaxAttempts is how often a lost job is resumed. 0: 3.
	MaxAttempts int
	// IdleSeal is how long an open job waits for more after its last item has ended. 0: 15 min.
	IdleSeal time.Duration
	// StoreEvery is the least time between two stored states of progress. 0: 1 s.
	StoreEvery time.Duration
}

// Jobs is the store of jobs.
type Jobs struct {
	opts  Options
	log   *slog.Logger
	conn  *events.Conn
	jobs  *events.Store[*jobv1.Job]
	items *events.Store[*jobv1.Item]

	mu       sync.Mutex
	tracked  map[string]bool // ids of open jobs whose totals are kept here
	run      context.Context // of Run; nil before
	trackers sync.WaitGroup
	wake     chan struct{} // a job is to be looked at now

	left sync.Map // names of jobs that this process gave back on stopping, and when
}

// kept is how long jobs and their items are kept after their last change.
const kept = 90 * 24 * time.Hour

// Open opens the store of jobs. Unavailable.
func Open(ctx context.Context, conn *events.Conn, opts Options) (*Jobs, error) {
	if opts.Lease == 0 {
		opts.Lease = 30 * time.Second
	}
	if opts.MaxAttempts == 0 {
		opts.MaxAttempts = 3
	}
	if opts.IdleSeal == 0 {
		opts.IdleSeal = 15 * time.Minute
	}
	if opts.StoreEvery == 0 {
		opts.StoreEvery = time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	jobs, err := events.OpenStore[*jobv1.Job](ctx, conn, "clara_jobs", kept)
	if err != nil {
		return nil, err
	}
	items, err := events.OpenStore[*jobv1.Item](ctx, conn, "clara_job_items", kept)
	if err != nil {
		return nil, err
	}
	return &Jobs{opts: opts, log: opts.Log, conn: conn, jobs: jobs, items: items,
		tracked: map[string]bool{}, wake: make(chan struct{}, 1)}, nil
}

// Ended reports whether a job or item in this state is over.
func Ended(s jobv1.Job_State) bool {
	switch s {
	case jobv1.Job_STATE_SUCCEEDED, jobv1.Job_STATE_PARTIAL, jobv1.Job_STATE_FAILED, jobv1.Job_STATE_CANCELLED:
		return true
	}
	return false
}

// Create makes a held job from type, target, detail, spec, progress and request_id of j, and returns it. The same
// type, target and request_id return the job that is there. It must be started within a lease, or the
// reaper takes it up.
func (j *Jobs) Create(ctx context.Context, job *jobv1.Job) (*jobv1.Job, error) {
	return j.create(ctx, job, timestamppb.New(time.Now().Add(j.opts.Lease)))
}

// CreateOpen makes an open job, as Create does: items are added with SetItem until Seal.
func (j *Jobs) CreateOpen(ctx context.Context, job *jobv1.Job) (*jobv1.Job, error) {
	made, err := j.create(ctx, job, nil)
	if err == nil {
		j.track(made)
	}
	return made, err
}

func (j *Jobs) create(ctx context.Context, in *jobv1.Job, lease *timestamppb.Timestamp) (*jobv1.Job, error) {
	if in.GetType() == "" {
		return nil, clara.Errorf(clara.Invalid, "create job: type is empty")
	}
	id, err := newID(in)
	if err != nil {
		return nil, err
	}
	now := timestamppb.Now()
	job := &jobv1.Job{
		Name: "jobs/" + id, Type: in.GetType(), Target: in.GetTarget(), State: jobv1.Job_STATE_PENDING, Progress: in.GetProgress(),
		Detail: in.GetDetail(), CreateTime: now, UpdateTime: now, RequestId: in.GetRequestId(), Spec: in.GetSpec(), LeaseTime: lease,
	}
	_, err = j.jobs.Create(ctx, id, job)
	if clara.KindOf(err) == clara.Exists {
		return j.Get(ctx, job.GetName())
	}
	if err != nil {
		return nil, err
	}
	j.announce(job)
	return job, nil
}

// requests is the name space of ids made from request ids.
var requests = uuid.MustParse("5f1e2c7a-3b0d-4f57-9a53-6c1d8e0b7f21")

func newID(job *jobv1.Job) (string, error) {
	if r := job.GetRequestId(); r != "" {
		return uuid.NewSHA1(requests, []byte(job.GetType()+"\x00"+job.GetTarget()+"\x00"+r)).String(), nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make job id: %w", err)
	}
	return id.String(), nil
}

// idOf returns the id in a resource name.
func idOf(name string) (string, error) {
	id, ok := strings.CutPrefix(name, "jobs/")
	if !ok || id == "" || strings.ContainsAny(id, "/.") {
		return "", clara.Errorf(clara.Invalid, "job name %q: must be jobs/ID", name)
	}
	return id, nil
}

// Get returns a job. NotFound.
func (j *Jobs) Get(ctx context.Context, name string) (*jobv1.Job, error) {
	id, err := idOf(name)
	if err != nil {
		return nil, err
	}
	e, err := j.jobs.Get(ctx, id)
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no job %s", name)
	}
	return e.Value, err
}

// Modify changes a job's record, again from the start if somebody else was faster, and announces it. change
// may return events.Unchanged. NotFound.
func (j *Jobs) Modify(ctx context.Context, name string, change func(*jobv1.Job) error) (*jobv1.Job, error) {
	id, err := idOf(name)
	if err != nil {
		return nil, err
	}
	stored := false
	e, err := j.jobs.Modify(ctx, id, func(job *jobv1.Job) error {
		stored = false
		if err := change(job); err != nil {
			return err
		}
		job.UpdateTime = timestamppb.Now()
		stored = true
		return nil
	})
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no job %s", name)
	}
	if err != nil {
		return nil, err
	}
	if stored {
		j.announce(e.Value)
	}
	return e.Value, nil
}

// announce tells watchers. Nobody may be listening; the stored record is what counts.
func (j *Jobs) announce(job *jobv1.Job) {
	id := strings.TrimPrefix(job.GetName(), "jobs/")
	if err := j.conn.Announce(job, "job", id); err != nil {
		j.log.Debug("job not announced", "job", id, "err", err)
	}
}

// Query selects jobs.
type Query struct {
	Type, Target string // "": all
	PageSize     int    // 0: 50, at most 500
	PageToken    string
	// Visible leaves out jobs that the caller may not see; nil: shows all.
	Visible func(*jobv1.Job) bool
}

// List returns jobs, newest first, and the token of the next page, "" after the last. Items are left out; Get has
// them. Invalid for a bad token.
func (j *Jobs) List(ctx context.Context, q Query) ([]*jobv1.Job, string, error) {
	size := q.PageSize
	if size <= 0 {
		size = 50
	}
	size = min(size, 500)
	var after position
	if q.PageToken != "" {
		var err error
		if after, err = parsePosition(q.PageToken); err != nil {
			return nil, "", err
		}
	}
	byName := map[string]*jobv1.Job{}
	for e, err := range j.jobs.Scan(ctx, "") {
		if err != nil {
			return nil, "", err
		}
		job := e.Value
		if q.Type != "" && job.GetType() != q.Type || q.Target != "" && job.GetTarget() != q.Target || q.Visible != nil && !q.Visible(job) {
			continue
		}
		job.Items = nil
		byName[job.GetName()] = job
	}
	found := make([]*jobv1.Job, 0, len(byName))
	for _, job := range byName {
		if q.PageToken == "" || positionOf(job).compare(after) > 0 {
			found = append(found, job)
		}
	}
	slices.SortFunc(found, func(a, b *jobv1.Job) int { return positionOf(a).compare(positionOf(b)) })
	if len(found) <= size {
		return found, "", nil
	}
	return found[:size], positionOf(found[size-1]).token(), nil
}

// position orders jobs: newest first, then by name.
type position struct {
	created int64
	name    string
}

func positionOf(j *jobv1.Job) position {
	return position{j.GetCreateTime().AsTime().UnixNano(), j.GetName()}
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(q.created, p.created), cmp.Compare(p.name, q.name))
}

func (p position) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.created, 10) + " " + p.name))
}

func parsePosition(token string) (position, error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	created, name, ok := strings.Cut(string(data), " ")
	n, err2 := strconv.ParseInt(created, 10, 64)
	if err != nil || err2 != nil || !ok {
		return position{}, clara.Errorf(clara.Invalid, "page token %q is none of ours", token)
	}
	return position{n, name}, nil
}

// Watch calls f with the job as it is and after every change, and returns when the job has ended, f fails or ctx
// ends. Announced progress that is not stored yet is shown too. NotFound.
func (j *Jobs) Watch(ctx context.Context, name string, f func(*jobv1.Job) error) error {
	id, err := idOf(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan *jobv1.Job, 64)
	offer := func(job *jobv1.Job) {
		select {
		case seen <- job:
		case <-ctx.Done():
		}
	}
	stop, err := events.Listen(j.conn, offer, "job", id)
	if err != nil {
		return err
	}
	defer stop()
	failed := make(chan error, 1)
	go func() {
		found := false
		for e, err := range j.jobs.WatchKey(ctx, id) {
			switch {
			case err != nil:
				failed <- err
				return
			case e.Key == "" && !found, e.Deleted:
				failed <- clara.Errorf(clara.NotFound, "no job %s", name)
				return
			case e.Key != "":
				found = true
				offer(e.Value)
			}
		}
	}()
	var last time.Time
	for {
		select {
		case job := <-seen:
			at := job.GetUpdateTime().AsTime()
			if !at.After(last) {
				continue
			}
			last = at
			if err := f(job); err != nil {
				return err
			}
			if Ended(job.GetState()) {
				return nil
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Cancel asks a moving job to stop and returns it; a job that has ended is returned as it is. Its worker ends it;
// a job that nobody has started ends at once. NotFound.
func (j *Jobs) Cancel(ctx context.Context, name string) (*jobv1.Job, error) {
	return j.Modify(ctx, name, func(job *jobv1.Job) error {
		if Ended(job.GetState()) || job.GetCancelRequested() {
			return events.Unchanged
		}
		job.CancelRequested = true
		if job.GetState() == jobv1.Job_STATE_PENDING && job.GetLeaseTime() != nil {
			end(job, jobv1.Job_STATE_CANCELLED, "")
		}
		return nil
	})
}

// Cancelled reports whether cancelling was asked for: workers on the items of an open job look before each.
func (j *Jobs) Cancelled(ctx context.Context, name string) (bool, error) {
	job, err := j.Get(ctx, name)
	return job.GetCancelRequested(), err
}

// Retry makes an ended held job pending again, for its owner to resume. State if it has not ended or is not held.
func (j *Jobs) Retry(ctx context.Context, name string) (*jobv1.Job, error) {
	return j.Modify(ctx, name, func(job *jobv1.Job) error {
		if !Ended(job.GetState()) {
			return clara.Errorf(clara.State, "%s has not ended yet", name)
		}
		if job.GetLeaseTime() == nil {
			return clara.Errorf(clara.Unsupported, "jobs of type %s are retried by the service that does them", job.GetType())
		}
		reopen(job)
		job.LeaseTime = timestamppb.Now() // over: the owner's reaper takes it up
		job.Items, job.ItemCount, job.DoneCount, job.FailedCount, job.PartialCount = nil, 0, 0, 0, 0
		return nil
	})
}

// reopen takes back the end of a job.
func reopen(job *jobv1.Job) {
	job.State, job.Error, job.EndTime, job.CancelRequested = jobv1.Job_STATE_PENDING, "", nil, false
}

// end ends a job's record.
func end(job *jobv1.Job, state jobv1.Job_State, reason string) {
	job.State, job.Error, job.EndTime = state, reason, timestamppb.Now()
	if p := job.GetProgress(); p != nil {
		p.RemainingSeconds = 0
	}
}

// sameJob reports whether two records differ in nothing but the time of the update.
func sameJob(a, b *jobv1.Job) bool {
	a, b = proto.Clone(a).(*jobv1.Job), proto.Clone(b).(*jobv1.Job)
	a.UpdateTime, b.UpdateTime = nil, nil
	return proto.Equal(a, b)
}
