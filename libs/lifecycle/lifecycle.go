package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Unit is one part of a process. Every function is optional.
type Unit struct {
	Name string
	// Start returns when the unit can be used by the units after it. ctx ends when the process must stop before that.
	Start func(ctx context.Context) error
	// Run works until ctx ends; it begins after Start. An error stops the process. A nil return before
	// ctx ends means that the unit has nothing more to do; the others go on.
	Run func(ctx context.Context) error
	// Drain ends the work in hand and takes no more; Run still runs, and so does all else.
	Drain func(ctx context.Context) error
	// Stop frees the unit. It is called once if Start succeeded, after Run has returned.
	Stop func(ctx context.Context) error
}

// Options set the times of Run.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Readiness is made not ready as the first step of stopping. May be nil.
	Readiness *Readiness
	// DrainDelay is waited between not-ready and draining, for load balancers to notice. A second signal cuts it short.
	DrainDelay time.Duration
	// DrainTimeout and StopTimeout bound all Drain and all Stop calls together. 0: 30 s and 10 s.
	DrainTimeout time.Duration
	StopTimeout  time.Duration
	// Signals ask to stop. nil: SIGINT and SIGTERM of this process.
	Signals <-chan os.Signal
}

// errSignal is the reason for stopping when a signal asked for it; it is no failure.
var errSignal = errors.New("stopping: signal received")

// Run starts the units in order, waits for the first failure, for a signal or for ctx to end, and stops
// the started ones in reverse. It returns nil if it was asked to stop and all stopped in time; otherwise
// the failure that came first, joined with those of stopping.
func Run(ctx context.Context, opts Options, units ...Unit) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.DrainTimeout == 0 {
		opts.DrainTimeout = 30 * time.Second
	}
	if opts.StopTimeout == 0 {
		opts.StopTimeout = 10 * time.Second
	}
	signals := opts.Signals
	if signals == nil {
		own := make(chan os.Signal, 2)
		signal.Notify(own, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(own)
		signals = own
	}

	// stopping ends at the first reason to stop, with the reason as its cause; hurry at the second signal.
	stopping, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hurry, hurried := context.WithCancelCause(context.WithoutCancel(ctx))
	defer hurried(nil)
	watch := make(chan struct{})
	defer close(watch)
	go func() {
		for n := 0; ; n++ {
			select {
			case s := <-signals:
				if n == 0 && stopping.Err() == nil {
					opts.Log.Info("stopping", "signal", s.String())
					stop(errSignal)
					continue
				}
				opts.Log.Warn("stopping at once", "signal", s.String())
				hurried(errors.New("second signal"))
			case <-watch:
				return
			}
		}
	}()

	r := runner{opts: opts, fail: stop, hurry: hurry}
	err := r.start(stopping, units)
	if err == nil {
		<-stopping.Done()
		if cause := context.Cause(stopping); !errors.Is(cause, errSignal) && ctx.Err() == nil {
			err = cause
		}
	}
	return errors.Join(err, r.stop(err))
}

// runner holds the units that have started.
type runner struct {
	opts    Options
	fail    context.CancelCauseFunc
	hurry   context.Context
	started []running
}

type running struct {
	Unit
	cancel context.CancelFunc // ends Run
	done   chan struct{}      // closed when Run has returned
}

// start starts the units in order and returns the first error; being asked to stop meanwhile is none.
func (r *runner) start(ctx context.Context, units []Unit) error {
	for _, u := range units {
		if ctx.Err() != nil {
			return r.cause(ctx)
		}
		begin := time.Now()
		if u.Start != nil {
			if err := u.Start(ctx); err != nil {
				if cause := r.cause(ctx); ctx.Err() != nil && errors.Is(err, context.Canceled) {
					return cause
				}
				return fmt.Errorf("start %s: %w", u.Name, err)
			}
		}
		r.opts.Log.Debug("started", "unit", u.Name, "took", time.Since(begin))
		// Run outlives the reason to stop: it ends after the drain, in its own turn.
		runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		run := running{Unit: u, cancel: cancel, done: make(chan struct{})}
		go func() {
			defer close(run.done)
			if u.Run == nil {
				return
			}
			if err := u.Run(runCtx); err != nil && runCtx.Err() == nil {
				r.opts.Log.Error("unit ended", "unit", u.Name, "err", err)
				r.fail(fmt.Errorf("%s: %w", u.Name, err))
			}
		}()
		r.started = append(r.started, run)
	}
	return nil
}

// cause returns the failure for which ctx ended, nil if a signal or the caller ended it.
func (r *runner) cause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errSignal) || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return nil
	}
	return cause
}

// stop drains and then stops what has started, in reverse, and returns what went wrong.
func (r *runner) stop(reason error) error {
	if r.opts.Readiness != nil {
		if reason == nil {
			reason = errors.New("stopping")
		}
		r.opts.Readiness.Stop(reason)
	}
	if r.opts.DrainDelay > 0 {
		timer := time.NewTimer(r.opts.DrainDelay)
		select {
		case <-timer.C:
		case <-r.hurry.Done():
			timer.Stop()
		}
	}
	var faults []error
	drain, cancel := context.WithTimeout(r.hurry, r.opts.DrainTimeout)
	for i := len(r.started) - 1; i >= 0; i-- {
		u := r.started[i]
		if u.Drain == nil {
			continue
		}
		if err := bounded(drain, u.Drain); err != nil {
			faults = append(faults, fmt.Errorf("drain %s: %w", u.Name, err))
		}
	}
	cancel()
	// After a second signal the units still get a moment to close files.
	timeout := r.opts.StopTimeout
	if r.hurry.Err() != nil {
		timeout = min(timeout, time.Second)
	}
	deadline := time.Now().Add(timeout)
	for i := len(r.started) - 1; i >= 0; i-- {
		u := r.started[i]
		if err := r.end(u, deadline, min(timeout, time.Second)); err != nil {
			faults = append(faults, fmt.Errorf("stop %s: %w", u.Name, err))
		}
		r.opts.Log.Debug("stopped", "unit", u.Name)
	}
	return errors.Join(faults...)
}

// end ends one unit's Run and stops it. A unit stopped after the deadline, because another took all
// the time, still has the grace.
func (r *runner) end(u running, deadline time.Time, grace time.Duration) error {
	if latest := time.Now().Add(grace); latest.After(deadline) {
		deadline = latest
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	u.cancel()
	err := bounded(ctx, func(ctx context.Context) error {
		select {
		case <-u.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if u.Stop != nil {
		err = errors.Join(err, bounded(ctx, u.Stop))
	}
	return err
}

// bounded calls f and gives up waiting for it when ctx ends: a unit that ignores its ctx must not hold up the others.
func bounded(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select { // f may have ended at the same moment
		case err := <-done:
			return err
		default:
			return ctx.Err()
		}
	}
}
