package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

func quick() job.Options {
	return job.Options{Owned: []string{"import", "ingest"}, Lease: 600 * time.Millisecond, StoreEvery: 20 * time.Millisecond, IdleSeal: time.Hour}
}

func open(t *testing.T, conn *events.Conn, opts job.Options) *job.Jobs {
	t.Helper()
	j, err := job.Open(t.Context(), conn, opts)
	require.NoError(t, err)
	return j
}

// running is open with the background work of a service.
func running(t *testing.T, conn *events.Conn, opts job.Options) *job.Jobs {
	t.Helper()
	j := open(t, conn, opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, j.Run(ctx)) }()
	t.Cleanup(func() { cancel(); <-done })
	return j
}

func connect(t *testing.T) *events.Conn { return natstest.Start(t).Connect(events.Options{}) }

func eventually(t *testing.T, f func() bool, what string) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, 5*time.Millisecond, what)
}

func state(t *testing.T, j *job.Jobs, name string) jobv1.Job_State {
	t.Helper()
	got, err := j.Get(t.Context(), name)
	require.NoError(t, err)
	return got.GetState()
}

func TestCreateIsIdempotent(t *testing.T) {
	j := open(t, connect(t), quick())
	in := &jobv1.Job{Type: "import", Target: "models/x", RequestId: "r1", Spec: []byte("{}")}
	a, err := j.Create(t.Context(), in)
	require.NoError(t, err)
	b, err := j.Create(t.Context(), in)
	require.NoError(t, err)
	assert.Equal(t, a.GetName(), b.GetName())
	c, err := j.Create(t.Context(), &jobv1.Job{Type: "import", Target: "models/y", RequestId: "r1"})
	require.NoError(t, err)
	assert.NotEqual(t, a.GetName(), c.GetName())
	_, err = j.Create(t.Context(), &jobv1.Job{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = j.Get(t.Context(), "jobs/none")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = j.Get(t.Context(), "none")
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestHeldJob(t *testing.T) {
	conn := connect(t)
	j, other := open(t, conn, quick()), open(t, conn, quick())
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	run, err := j.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	_, err = other.Start(t.Context(), made.GetName())
	assert.Equal(t, clara.Conflict, clara.KindOf(err), "%v", err)

	run.Progress(3, 10, "tensors", "write")
	run.Detail("writing")
	eventually(t, func() bool {
		got, err := other.Get(t.Context(), made.GetName())
		return err == nil && got.GetProgress().GetDone() == 3 && got.GetDetail() == "writing"
	}, "progress must be stored")
	assert.Never(t, func() bool { return errors.Is(other.Reap(t.Context()), nil) && run.Context().Err() != nil }, time.Second, 50*time.Millisecond, "the lease is renewed")
	require.NoError(t, run.Finish(nil))
	got, err := other.Get(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, got.GetState())
	assert.NotNil(t, got.GetEndTime())
	_, err = j.Start(t.Context(), made.GetName())
	assert.Equal(t, clara.State, clara.KindOf(err))
}

func TestEndsOfHeldJobs(t *testing.T) {
	tests := []struct {
		name string
		work func(t *testing.T, j *job.Jobs, run *job.Run) error
		want jobv1.Job_State
	}{
		{"failed", func(*testing.T, *job.Jobs, *job.Run) error { return errors.New("no weights") }, jobv1.Job_STATE_FAILED},
		{"partial", func(_ *testing.T, _ *job.Jobs, run *job.Run) error {
			run.SetItem(&jobv1.Item{Name: "a", State: jobv1.Job_STATE_SUCCEEDED})
			run.SetItem(&jobv1.Item{Name: "b", State: jobv1.Job_STATE_FAILED, Error: "broken"})
			return nil
		}, jobv1.Job_STATE_PARTIAL},
		{"cancelled", func(t *testing.T, j *job.Jobs, run *job.Run) error {
			_, err := j.Cancel(t.Context(), run.Name())
			require.NoError(t, err)
			<-run.Context().Done()
			assert.ErrorIs(t, context.Cause(run.Context()), job.ErrCancelled)
			return run.Context().Err()
		}, jobv1.Job_STATE_CANCELLED},
	}
	conn := connect(t)
	j := open(t, conn, quick())
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
			require.NoError(t, err)
			run, err := j.Start(t.Context(), made.GetName())
			require.NoError(t, err)
			require.NoError(t, run.Finish(tc.work(t, j, run)))
			got, err := j.Get(t.Context(), made.GetName())
			require.NoError(t, err)
			assert.Equal(t, tc.want, got.GetState())
			if tc.want == jobv1.Job_STATE_PARTIAL {
				assert.Equal(t, "b", got.GetItems()[0].GetName(), "failures first")
				assert.EqualValues(t, 1, got.GetDoneCount())
			}
		})
	}
}

func TestCancelBeforeTheStart(t *testing.T) {
	j := open(t, connect(t), quick())
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	got, err := j.Cancel(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.Equal(t, jobv1.Job_STATE_CANCELLED, got.GetState())
	again, err := j.Cancel(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.Equal(t, got.GetEndTime().AsTime(), again.GetEndTime().AsTime())
}

func TestALostWorkerIsReplacedAndFenced(t *testing.T) {
	server := natstest.Start(t)
	victimConn := server.Connect(events.Options{})
	victim := open(t, victimConn, quick())
	made, err := victim.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	lost, err := victim.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = victimConn.Close(gone) // "killed": no renewals from here on

	opts := quick()
	resumed := make(chan *job.Run, 1)
	var j *job.Jobs
	var ready sync.WaitGroup
	ready.Add(1)
	opts.Resume = func(ctx context.Context, found *jobv1.Job) error {
		ready.Wait()
		run, err := j.Start(ctx, found.GetName())
		if err == nil {
			resumed <- run
		}
		return err
	}
	j = running(t, server.Connect(events.Options{}), opts)
	ready.Done()
	run := <-resumed
	assert.EqualValues(t, 2, run.Job().GetAttempt())
	require.Error(t, lost.Finish(nil), "the lost worker has no say any more")
	require.NoError(t, run.Finish(nil))
	assert.Equal(t, jobv1.Job_STATE_SUCCEEDED, state(t, j, made.GetName()))
}

func TestALostJobWithoutResumeFails(t *testing.T) {
	server := natstest.Start(t)
	opts := quick()
	opts.Lease = 50 * time.Millisecond
	j := running(t, server.Connect(events.Options{}), opts)
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"}) // never started
	require.NoError(t, err)
	eventually(t, func() bool { return state(t, j, made.GetName()) == jobv1.Job_STATE_FAILED }, "must end")
}

func TestALostJobThatCannotBeResumedFails(t *testing.T) {
	server := natstest.Start(t)
	opts := quick()
	opts.Lease = 50 * time.Millisecond
	var waited atomic.Int32
	opts.Resume = func(_ context.Context, found *jobv1.Job) error {
		if found.GetType() == "import" && waited.Add(1) < 3 {
			return clara.Errorf(clara.Busy, "another import is under way") // passes by itself
		}
		return clara.Errorf(clara.Corrupt, "its plan can't be read")
	}
	j := running(t, server.Connect(events.Options{}), opts)
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	eventually(t, func() bool { return state(t, j, made.GetName()) == jobv1.Job_STATE_FAILED }, "must end")
	got, err := j.Get(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.Contains(t, got.GetError(), "its plan can't be read")
	assert.EqualValues(t, 3, waited.Load())
}

func TestStoppingHandsTheJobOver(t *testing.T) {
	conn := connect(t)
	j := open(t, conn, quick())
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	run, err := j.Start(ctx, made.GetName())
	require.NoError(t, err)
	stop()
	<-run.Context().Done()
	require.NoError(t, run.Finish(run.Context().Err()))
	next, err := j.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.EqualValues(t, 1, next.Job().GetAttempt(), "stopping is no failed attempt")
	require.NoError(t, next.Finish(nil))
}

func TestRetry(t *testing.T) {
	conn := connect(t)
	opts := quick()
	opts.Lease = 30 * time.Second // the wake-up does it, not the timer
	var j *job.Jobs
	var ready sync.WaitGroup
	ready.Add(1)
	opts.Resume = func(ctx context.Context, found *jobv1.Job) error {
		ready.Wait()
		run, err := j.Start(ctx, found.GetName())
		if err != nil {
			return err
		}
		return run.Finish(nil)
	}
	j = running(t, conn, opts)
	ready.Done()
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	run, err := j.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	_, err = j.Retry(t.Context(), made.GetName())
	assert.Equal(t, clara.State, clara.KindOf(err))
	require.NoError(t, run.Finish(errors.New("disk full")))
	elsewhere := open(t, conn, job.Options{})
	_, err = elsewhere.Retry(t.Context(), made.GetName())
	require.NoError(t, err)
	eventually(t, func() bool { return state(t, j, made.GetName()) == jobv1.Job_STATE_SUCCEEDED }, "the owner does it again")
}

func item(name string, s jobv1.Job_State) *jobv1.Item {
	return &jobv1.Item{Name: name, State: s, Error: map[bool]string{true: name + " is broken"}[s == jobv1.Job_STATE_FAILED]}
}

func TestOpenJob(t *testing.T) {
	server := natstest.Start(t)
	a := running(t, server.Connect(events.Options{}), quick())
	b := running(t, server.Connect(events.Options{}), quick())
	made, err := a.CreateOpen(t.Context(), &jobv1.Job{Type: "ingest", Target: "collections/handbook"})
	require.NoError(t, err)
	name := made.GetName()
	var all sync.WaitGroup
	for w, j := range []*job.Jobs{a, b} {
		all.Go(func() {
			for i := range 10 {
				doc := fmt.Sprintf("collections/handbook/documents/%d.%d", w, i)
				assert.NoError(t, j.SetItem(t.Context(), name, item(doc, jobv1.Job_STATE_RUNNING)))
				assert.NoError(t, j.SetItem(t.Context(), name, item(doc, jobv1.Job_STATE_SUCCEEDED)))
				assert.NoError(t, j.SetItem(t.Context(), name, item(doc, jobv1.Job_STATE_SUCCEEDED)), "twice is once")
				assert.NoError(t, j.SetItem(t.Context(), name, item(doc, jobv1.Job_STATE_RUNNING)), "late reports change nothing")
			}
		})
	}
	all.Wait()
	require.NoError(t, b.SetItem(t.Context(), name, item("x", jobv1.Job_STATE_FAILED)))
	eventually(t, func() bool {
		got, err := a.Get(t.Context(), name)
		return err == nil && got.GetDoneCount() == 20 && got.GetFailedCount() == 1 && got.GetProgress().GetTotal() == 21
	}, "totals must come")
	assert.Equal(t, jobv1.Job_STATE_RUNNING, state(t, a, name), "not sealed yet")
	require.NoError(t, a.Seal(t.Context(), name))
	eventually(t, func() bool { return state(t, a, name) == jobv1.Job_STATE_PARTIAL }, "must end")
	got, err := a.Get(t.Context(), name)
	require.NoError(t, err)
	assert.Equal(t, "x", got.GetItems()[0].GetName())

	// Retry what failed.
	require.NoError(t, a.ResetItem(t.Context(), name, item("x", jobv1.Job_STATE_PENDING)))
	require.NoError(t, b.SetItem(t.Context(), name, item("x", jobv1.Job_STATE_SUCCEEDED)))
	eventually(t, func() bool { return state(t, a, name) == jobv1.Job_STATE_SUCCEEDED }, "must end well")
	n := 0
	require.NoError(t, a.Items(t.Context(), name, func(*jobv1.Item) error { n++; return nil }))
	assert.Equal(t, 21, n)
	assert.Equal(t, clara.NotFound, clara.KindOf(a.SetItem(t.Context(), "jobs/none", item("x", jobv1.Job_STATE_RUNNING))))
}

func TestOpenJobEndsAfterARestart(t *testing.T) {
	server := natstest.Start(t)
	first := open(t, server.Connect(events.Options{}), quick()) // never runs its background work: it "was killed"
	made, err := first.CreateOpen(t.Context(), &jobv1.Job{Type: "ingest"})
	require.NoError(t, err)
	require.NoError(t, first.SetItem(t.Context(), made.GetName(), item("a", jobv1.Job_STATE_SUCCEEDED)))
	require.NoError(t, first.Seal(t.Context(), made.GetName()))
	server.Restart()
	j := running(t, server.Connect(events.Options{}), quick())
	eventually(t, func() bool { return state(t, j, made.GetName()) == jobv1.Job_STATE_SUCCEEDED }, "must end")
}

func TestOpenJobsThatEndOtherwise(t *testing.T) {
	conn := connect(t)
	opts := quick()
	opts.IdleSeal = 100 * time.Millisecond
	j := running(t, conn, opts)
	idle, err := j.CreateOpen(t.Context(), &jobv1.Job{Type: "ingest"})
	require.NoError(t, err)
	require.NoError(t, j.SetItem(t.Context(), idle.GetName(), item("a", jobv1.Job_STATE_FAILED)))
	eventually(t, func() bool { return state(t, j, idle.GetName()) == jobv1.Job_STATE_FAILED }, "nobody seals it: it seals itself")
	got, err := j.Get(t.Context(), idle.GetName())
	require.NoError(t, err)
	assert.Equal(t, "a is broken", got.GetError())

	empty, err := j.CreateOpen(t.Context(), &jobv1.Job{Type: "ingest", RequestId: "1"})
	require.NoError(t, err)
	require.NoError(t, j.Seal(t.Context(), empty.GetName()))
	eventually(t, func() bool { return state(t, j, empty.GetName()) == jobv1.Job_STATE_SUCCEEDED }, "nothing to do is done")

	cancelled, err := j.CreateOpen(t.Context(), &jobv1.Job{Type: "ingest", RequestId: "2"})
	require.NoError(t, err)
	require.NoError(t, j.SetItem(t.Context(), cancelled.GetName(), item("a", jobv1.Job_STATE_RUNNING)))
	_, err = j.Cancel(t.Context(), cancelled.GetName())
	require.NoError(t, err)
	is, err := j.Cancelled(t.Context(), cancelled.GetName())
	require.NoError(t, err)
	assert.True(t, is)
	require.NoError(t, j.SetItem(t.Context(), cancelled.GetName(), item("a", jobv1.Job_STATE_CANCELLED)))
	eventually(t, func() bool { return state(t, j, cancelled.GetName()) == jobv1.Job_STATE_CANCELLED }, "must end")
}

func TestManyItemsFitTheRecord(t *testing.T) {
	conn := connect(t)
	j := open(t, conn, quick())
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	run, err := j.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	for i := range 1500 {
		run.SetItem(&jobv1.Item{Name: fmt.Sprint(i), State: jobv1.Job_STATE_SUCCEEDED, Label: strings.Repeat("x", 1000)})
	}
	run.SetItem(item("bad", jobv1.Job_STATE_FAILED))
	require.NoError(t, run.Finish(nil))
	got, err := j.Get(t.Context(), made.GetName())
	require.NoError(t, err)
	assert.EqualValues(t, 1501, got.GetItemCount())
	assert.Less(t, len(got.GetItems()), 1000)
	assert.Equal(t, "bad", got.GetItems()[0].GetName())
}

func TestList(t *testing.T) {
	j := open(t, connect(t), quick())
	for i := range 7 {
		_, err := j.Create(t.Context(), &jobv1.Job{Type: []string{"import", "ingest"}[i%2], Target: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
	}
	var targets []string
	token := ""
	for {
		page, next, err := j.List(t.Context(), job.Query{PageSize: 3, PageToken: token})
		require.NoError(t, err)
		for _, p := range page {
			targets = append(targets, p.GetTarget())
		}
		if token = next; token == "" {
			break
		}
	}
	assert.Equal(t, []string{"t6", "t5", "t4", "t3", "t2", "t1", "t0"}, targets)
	imports, _, err := j.List(t.Context(), job.Query{Type: "import", Visible: func(j *jobv1.Job) bool { return j.GetTarget() != "t0" }})
	require.NoError(t, err)
	assert.Len(t, imports, 3)
	_, _, err = j.List(t.Context(), job.Query{PageToken: "?"})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestWatch(t *testing.T) {
	conn := connect(t)
	j, watcher := open(t, conn, quick()), open(t, conn, quick())
	made, err := j.Create(t.Context(), &jobv1.Job{Type: "import"})
	require.NoError(t, err)
	var seen atomic.Int64
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		var once sync.Once
		ended <- watcher.Watch(t.Context(), made.GetName(), func(job *jobv1.Job) error {
			once.Do(func() { close(started) })
			seen.Store(job.GetProgress().GetDone())
			return nil
		})
	}()
	<-started
	run, err := j.Start(t.Context(), made.GetName())
	require.NoError(t, err)
	for i := int64(1); i <= 5; i++ {
		run.Progress(i, 5, "x", "")
		eventually(t, func() bool { return seen.Load() == i }, "each step must be seen")
	}
	require.NoError(t, run.Finish(nil))
	require.NoError(t, <-ended)
	err = watcher.Watch(t.Context(), "jobs/none", func(*jobv1.Job) error { return nil })
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
