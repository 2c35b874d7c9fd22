package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

// Retry says how lost workers are started again.
type Retry struct {
	// Tries is how often in a row without a new checkpoint. 0: 3; negative: never.
	Tries int
	// Backoff is the wait before the first new start; it doubles. 0: 2 s.
	Backoff time.Duration
	// Start is told of every start, with how many there were since the last checkpoint; after the first also why and when.
	Start func(restarts int, why error, wait time.Duration)
}

// Supervise runs a stage to its end, starting its workers again from the newest checkpoint where that may help. Errors are
// those of Run.
func Supervise(ctx context.Context, o Options, r Retry) error {
	if r.Tries == 0 {
		r.Tries = 3
	}
	if r.Backoff == 0 {
		r.Backoff = 2 * time.Second
	}
	if r.Start == nil {
		r.Start = func(int, error, time.Duration) {}
	}
	told, saved := o.Event, false
	o.Event = func(e trainplan.Event) {
		saved = saved || e.Kind == trainplan.Saved
		if told != nil {
			told(e)
		}
	}
	r.Start(0, nil, 0)
	for restarts := 0; ; {
		saved = false
		err := Run(ctx, o)
		if err == nil || !again(err) {
			return err
		}
		if saved {
			restarts = 0
		}
		if restarts >= r.Tries {
			if r.Tries > 0 {
				return fmt.Errorf("%w (given up after %d starts without a new checkpoint)", err, restarts+1)
			}
			return err
		}
		restarts++
		wait := r.Backoff << (restarts - 1)
		r.Start(restarts, err, wait)
		select {
		case <-ctx.Done():
			return ErrStopped
		case <-time.After(wait):
		}
		o.Plan.Resume = true
	}
}

// again reports whether starting the workers once more may help: they were lost, or something they need was away.
func again(err error) bool {
	if errors.Is(err, ErrStopped) {
		return false
	}
	switch clara.KindOf(err) {
	case clara.Unavailable, clara.Conflict, clara.Busy:
		// Conflict: a worker of an earlier life of this service is still saving.
		return true
	}
	return false
}
