package llm

import (
	"context"
	"sync"
	"time"
)

// limiter admits requests: at most so many at once as the endpoint has shown to take, and within its limits per
// minute. The number at once grows by one for each full round of successes and halves when the endpoint pushes back.
type limiter struct {
	mu       sync.Mutex
	max      int
	now      float64 // requests allowed at once
	busy     int
	until    time.Time // nothing is sent before
	cut      time.Time // of the last halving
	requests bucket
	tokens   bucket
	wake     chan struct{} // closed when something has changed
}

// startConcurrency is how many requests at once are tried at first.
const startConcurrency = 4

func newLimiter(max, perMinute, tokensPerMinute int) *limiter {
	return &limiter{max: max, now: float64(min(max, startConcurrency)), wake: make(chan struct{}),
		requests: newBucket(perMinute), tokens: newBucket(tokensPerMinute)}
}

// acquire waits until a request of about so many tokens may be sent.
func (l *limiter) acquire(ctx context.Context, tokens int) error {
	for {
		l.mu.Lock()
		wait := time.Until(l.until)
		wait = max(wait, l.requests.wait(1), l.tokens.wait(float64(tokens)))
		free := l.busy < int(l.now)
		if wait <= 0 && free {
			l.busy++
			l.requests.take(1)
			l.tokens.take(float64(tokens))
			l.mu.Unlock()
			return nil
		}
		wake := l.wake
		l.mu.Unlock()
		var due <-chan time.Time
		var timer *time.Timer
		if wait > 0 {
			timer = time.NewTimer(wait)
			due = timer.C
		}
		select {
		case <-wake:
		case <-due:
		case <-ctx.Done():
			if timer != nil {
				timer.Stop()
			}
			return ctx.Err()
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// release ends a request: estimated and used are its tokens.
func (l *limiter) release(estimated, used int, pushedBack bool, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if used > 0 {
		l.tokens.take(float64(used - estimated))
	}
	now := time.Now()
	switch {
	case pushedBack:
		// One halving for all requests that were refused together.
		if now.Sub(l.cut) > time.Second {
			l.now, l.cut = max(1, l.now/2), now
		}
	default:
		l.now = min(float64(l.max), l.now+1/l.now)
	}
	if t := now.Add(pause); pause > 0 && t.After(l.until) {
		l.until = t
	}
	close(l.wake)
	l.wake = make(chan struct{})
}

func (l *limiter) concurrency() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.now)
}

// bucket fills at a rate and holds a minute's worth; a zero bucket has no limit.
type bucket struct {
	perSecond, size, level float64
	at                     time.Time
}

func newBucket(perMinute int) bucket {
	size := float64(perMinute)
	return bucket{perSecond: size / 60, size: size, level: size, at: time.Now()}
}

func (b *bucket) fill() {
	now := time.Now()
	b.level = min(b.size, b.level+now.Sub(b.at).Seconds()*b.perSecond)
	b.at = now
}

// wait returns how long until n may be taken. What is more than the bucket holds waits for a full one.
func (b *bucket) wait(n float64) time.Duration {
	if b.size == 0 {
		return 0
	}
	b.fill()
	if n = min(n, b.size); b.level >= n {
		return 0
	}
	return time.Duration((n - b.level) / b.perSecond * float64(time.Second))
}

func (b *bucket) take(n float64) {
	if b.size > 0 {
		b.level -= n
	}
}
