package job

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// What a record holds of items: NATS takes messages of 1 MiB.
const (
	maxItems     = 1000
	maxItemBytes = 512 << 10
)

// itemSet is the items of one job.
type itemSet struct {
	byName map[string]*jobv1.Item
	order  []string
}

func (s *itemSet) load(items []*jobv1.Item) {
	for _, i := range items {
		s.set(i)
	}
}

func (s *itemSet) set(item *jobv1.Item) {
	if s.byName == nil {
		s.byName = map[string]*jobv1.Item{}
	}
	if _, ok := s.byName[item.GetName()]; !ok {
		s.order = append(s.order, item.GetName())
	}
	s.byName[item.GetName()] = item
}

func (s *itemSet) remove(name string) {
	delete(s.byName, name)
	s.order = slices.DeleteFunc(s.order, func(n string) bool { return n == name })
}

// rank puts what a user must see first: failures, then what was done in part, what moves, what is done.
func rank(s jobv1.Job_State) int {
	return slices.Index([]jobv1.Job_State{jobv1.Job_STATE_FAILED, jobv1.Job_STATE_PARTIAL, jobv1.Job_STATE_RUNNING, jobv1.Job_STATE_PENDING,
		jobv1.Job_STATE_CANCELLED, jobv1.Job_STATE_SUCCEEDED}, s)
}

// fill writes totals and the first items into the record, and returns how many items have ended and how many of
// these were cancelled.
func (s *itemSet) fill(job *jobv1.Job) (ended, cancelled int64) {
	job.ItemCount, job.DoneCount, job.FailedCount, job.PartialCount = int64(len(s.order)), 0, 0, 0
	list := make([]*jobv1.Item, 0, len(s.order))
	for _, name := range s.order {
		item := s.byName[name]
		list = append(list, item)
		switch item.GetState() {
		case jobv1.Job_STATE_SUCCEEDED:
			job.DoneCount++
		case jobv1.Job_STATE_FAILED:
			job.FailedCount++
		case jobv1.Job_STATE_PARTIAL:
			job.PartialCount++
		case jobv1.Job_STATE_CANCELLED:
			cancelled++
		}
	}
	slices.SortStableFunc(list, func(a, b *jobv1.Item) int { return cmp.Compare(rank(a.GetState()), rank(b.GetState())) })
	size, n := 0, 0
	for n < min(len(list), maxItems) {
		if size += proto.Size(list[n]) + 8; size > maxItemBytes {
			break
		}
		n++
	}
	job.Items = list[:n]
	return job.GetDoneCount() + job.GetFailedCount() + job.GetPartialCount() + cancelled, cancelled
}

// itemKey is the key of an item below its job's id: names may hold anything.
func itemKey(id, name string) string {
	sum := sha256.Sum256([]byte(name))
	return id + "." + hex.EncodeToString(sum[:16])
}

// sealKey is the key that says that nothing more comes.
func sealKey(id string) string { return id + ".sealed" }

// SetItem reports on one part of an open job, by its name, from whichever replica does it. An item that has ended
// stays so unless ResetItem opens it again: late reports of work that was done twice change nothing.
// NotFound if there is no such job.
func (j *Jobs) SetItem(ctx context.Context, name string, item *jobv1.Item) error {
	return j.setItem(ctx, name, item, false)
}

// ResetItem is SetItem that also opens an item that has ended, and its job, if that has ended too: for retries.
func (j *Jobs) ResetItem(ctx context.Context, name string, item *jobv1.Item) error {
	if err := j.setItem(ctx, name, item, true); err != nil {
		return err
	}
	job, err := j.Modify(ctx, name, func(job *jobv1.Job) error {
		if !Ended(job.GetState()) {
			return events.Unchanged
		}
		reopen(job)
		job.Attempt++
		return nil
	})
	if err == nil {
		j.track(job)
	}
	return err
}

func (j *Jobs) setItem(ctx context.Context, name string, item *jobv1.Item, reset bool) error {
	if item.GetName() == "" {
		return clara.Errorf(clara.Invalid, "report on %s: the item has no name", name)
	}
	id, err := idOf(name)
	if err != nil {
		return err
	}
	key := itemKey(id, item.GetName())
	_, err = j.items.Modify(ctx, key, func(old *jobv1.Item) error {
		if proto.Equal(old, item) || Ended(old.GetState()) && !reset {
			return events.Unchanged
		}
		proto.Reset(old)
		proto.Merge(old, item)
		return nil
	})
	if clara.KindOf(err) == clara.NotFound {
		job, gerr := j.Get(ctx, name)
		if gerr != nil {
			return gerr
		}
		j.track(job)
		_, err = j.items.Create(ctx, key, item)
		if clara.KindOf(err) == clara.Exists {
			return j.setItem(ctx, name, item, reset)
		}
	}
	return err
}

// Items calls f with the items of an open job, all of them, until f fails.
func (j *Jobs) Items(ctx context.Context, name string, f func(*jobv1.Item) error) error {
	id, err := idOf(name)
	if err != nil {
		return err
	}
	list, err := j.items.List(ctx, id+".")
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Key == sealKey(id) {
			continue
		}
		if err := f(e.Value); err != nil {
			return err
		}
	}
	return nil
}

// Seal says that no more items come: the job ends when those it has have ended.
func (j *Jobs) Seal(ctx context.Context, name string) error {
	job, err := j.Get(ctx, name)
	if err != nil {
		return err
	}
	j.track(job)
	id, err := idOf(name)
	if err != nil {
		return err
	}
	_, err = j.items.Put(ctx, sealKey(id), &jobv1.Item{})
	return err
}

// track keeps the totals of an open job here, if this service owns it and Run is running.
func (j *Jobs) track(job *jobv1.Job) {
	if job.GetLeaseTime() != nil || Ended(job.GetState()) || !slices.Contains(j.opts.Owned, job.GetType()) {
		return
	}
	id := strings.TrimPrefix(job.GetName(), "jobs/")
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.run == nil || j.run.Err() != nil || j.tracked[id] {
		return
	}
	j.tracked[id] = true
	ctx := j.run
	j.trackers.Go(func() {
		defer func() {
			j.mu.Lock()
			delete(j.tracked, id)
			j.mu.Unlock()
		}()
		t := tracker{jobs: j, id: id, name: job.GetName(), changed: time.Now()}
		t.run(ctx)
	})
}

// tracker computes one open job's record from its items, as every replica that owns such jobs does: they come
// to the same, and who is first stores it.
type tracker struct {
	jobs     *Jobs
	id, name string
	items    itemSet
	keys     map[string]string // key -> item name
	sealed   bool
	seen     bool // all items of the start are in
	changed  time.Time
	pace     pace
}

func (t *tracker) run(ctx context.Context) {
	t.keys = map[string]string{}
	changes := make(chan events.Entry[*jobv1.Item])
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(changes)
		for e, err := range t.jobs.items.Watch(watch, t.id+".") {
			if err != nil {
				t.jobs.log.Warn("items of a job", "job", t.id, "err", err)
				return
			}
			select {
			case changes <- e:
			case <-watch.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(t.jobs.opts.StoreEvery)
	defer tick.Stop()
	dirty := true
	for {
		select {
		case e, ok := <-changes:
			if !ok {
				return // the reaper begins again
			}
			t.apply(e)
			dirty = true
		case <-tick.C:
			idle := time.Since(t.changed) > t.jobs.opts.IdleSeal
			if !t.seen || !dirty && !idle {
				continue
			}
			ended, err := t.store(ctx, idle)
			if err != nil && ctx.Err() == nil {
				t.jobs.log.Warn("job not stored", "job", t.id, "err", err)
				continue
			}
			dirty = false
			if ended {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (t *tracker) apply(e events.Entry[*jobv1.Item]) {
	switch {
	case e.Key == "":
		t.seen = true
		return
	case e.Key == sealKey(t.id):
		t.sealed = !e.Deleted
	case e.Deleted:
		t.items.remove(t.keys[e.Key])
	default:
		t.keys[e.Key] = e.Value.GetName()
		t.items.set(e.Value)
	}
	t.changed = time.Now()
}

// store writes the totals into the job's record and ends it if all is done. idle seals it.
func (t *tracker) store(ctx context.Context, idle bool) (ended bool, err error) {
	job, err := t.jobs.Modify(ctx, t.name, func(job *jobv1.Job) error {
		if Ended(job.GetState()) {
			return events.Unchanged
		}
		before := proto.Clone(job).(*jobv1.Job)
		over, cancelled := t.items.fill(job)
		unit := job.GetProgress().GetUnit()
		if unit == "" {
			unit = "documents"
		}
		p := &jobv1.Progress{Done: over, Total: job.GetItemCount(), Unit: unit, Stage: job.GetProgress().GetStage()}
		t.pace.fill(p, time.Now())
		job.Progress = p
		if job.GetState() == jobv1.Job_STATE_PENDING && len(t.items.order) > 0 {
			job.State = jobv1.Job_STATE_RUNNING
			if job.GetStartTime() == nil {
				job.StartTime, job.Attempt = timestamppb.Now(), max(job.GetAttempt(), 1)
			}
		}
		if over == job.GetItemCount() && (t.sealed || idle || job.GetCancelRequested()) {
			state, reason := verdict(job, cancelled)
			end(job, state, reason)
		}
		if sameJob(before, job) {
			return events.Unchanged
		}
		return nil
	})
	if clara.KindOf(err) == clara.NotFound {
		return true, nil
	}
	return Ended(job.GetState()), err
}

// verdict is the end of a job whose items have all ended.
func verdict(job *jobv1.Job, cancelled int64) (jobv1.Job_State, string) {
	switch {
	case cancelled > 0 || job.GetCancelRequested() && job.GetItemCount() == 0:
		return jobv1.Job_STATE_CANCELLED, ""
	case job.GetFailedCount() == 0 && job.GetPartialCount() == 0:
		return jobv1.Job_STATE_SUCCEEDED, ""
	case job.GetFailedCount() == job.GetItemCount():
		reason := "all items failed"
		if len(job.GetItems()) == 1 {
			reason = job.GetItems()[0].GetError()
		}
		return jobv1.Job_STATE_FAILED, reason
	}
	return jobv1.Job_STATE_PARTIAL, ""
}
