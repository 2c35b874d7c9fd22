package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events/job"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// jobs tells the store of jobs what becomes of documents. An empty job name is a document that nobody waits for.
type jobs struct {
	store *job.Jobs

	mu   sync.Mutex
	last map[string]time.Time // of stored progress, by item
}

func newJobs(store *job.Jobs) *jobs { return &jobs{store: store, last: map[string]time.Time{}} }

// Start makes a job that items are added to until Seal, or returns the one that its request id has made.
func (j *jobs) Start(ctx context.Context, in *jobv1.Job) (*jobv1.Job, error) {
	if in.Progress == nil {
		in.Progress = &jobv1.Progress{Unit: "documents"}
	}
	return j.store.CreateOpen(ctx, in)
}

// Item stores the state of a part of a job. A job that is gone is no error: the work counts without it.
func (j *jobs) Item(ctx context.Context, name string, item *jobv1.Item) error {
	if name == "" {
		return nil
	}
	j.forget(name, item)
	if err := j.store.SetItem(ctx, name, item); clara.KindOf(err) != clara.NotFound {
		return err
	}
	return nil
}

// Reset is Item that also opens what has ended.
func (j *jobs) Reset(ctx context.Context, name string, item *jobv1.Item) error {
	if name == "" {
		return nil
	}
	if err := j.store.ResetItem(ctx, name, item); clara.KindOf(err) != clara.NotFound {
		return err
	}
	return nil
}

// Progress stores a state that will soon be replaced, at most once a second for each item.
func (j *jobs) Progress(name string, item *jobv1.Item) {
	if name == "" {
		return
	}
	key := name + "\x00" + item.Name
	j.mu.Lock()
	now := time.Now()
	fresh := now.Sub(j.last[key]) < time.Second
	if !fresh {
		j.last[key] = now
	}
	j.mu.Unlock()
	if fresh {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = j.store.SetItem(ctx, name, item) // the next report, or the end, makes up for a lost one
}

func (j *jobs) forget(name string, item *jobv1.Item) {
	if job.Ended(item.State) {
		j.mu.Lock()
		delete(j.last, name+"\x00"+item.Name)
		j.mu.Unlock()
	}
}

// Cancelled reports whether somebody asked the job to stop.
func (j *jobs) Cancelled(ctx context.Context, name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	stop, err := j.store.Cancelled(ctx, name)
	if clara.KindOf(err) == clara.NotFound {
		return false, nil
	}
	return stop, err
}

// Get returns a job.
func (j *jobs) Get(ctx context.Context, name string) (*jobv1.Job, error) {
	return j.store.Get(ctx, name)
}

// Seal says that no more items come.
func (j *jobs) Seal(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if err := j.store.Seal(ctx, name); clara.KindOf(err) != clara.NotFound {
		return err
	}
	return nil
}

// Open calls f with every item that has not ended, of all of this service's jobs that have not ended.
func (j *jobs) Open(ctx context.Context, f func(job string, item *jobv1.Item) error) error {
	for _, kind := range []string{JobType, ModelJobType} {
		for token := ""; ; {
			list, next, err := j.store.List(ctx, job.Query{Type: kind, PageSize: 1000, PageToken: token})
			if err != nil {
				return err
			}
			for _, x := range list {
				if job.Ended(x.State) {
					continue
				}
				if err := j.store.Items(ctx, x.Name, func(i *jobv1.Item) error {
					if job.Ended(i.State) {
						return nil
					}
					return f(x.Name, i)
				}); err != nil {
					return err
				}
			}
			if token = next; token == "" {
				break
			}
		}
	}
	return nil
}
