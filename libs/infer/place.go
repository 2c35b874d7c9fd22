package infer

import "time"

// Place is a request's admission, given before its prompt is known. A nil one is none.
type Place struct {
	of   *scheduler
	held bool // guarded by of.mu
}

// Reserve admits a request before the work that its prompt takes, such as a search: who would be refused by Generate as Busy
// (Options.Slowdown) is refused now. prompt is about how many tokens the prompt will have, limit is MaxTokens. The place is
// taken by the request that names it (Request.Place); it counts as a waiting request until then, or until Release.
func (e *Engine) Reserve(prompt, limit int) (*Place, error) { return e.sched.reserve(prompt, limit) }

// Release gives back a place that was not taken. It may always be called.
func (p *Place) Release() {
	if p != nil {
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		p.give()
	}
}

// give takes the place away, and reports whether it was there. The caller holds the lock.
func (p *Place) give() bool {
	held := p.held
	if held {
		p.held = false
		p.of.reserved--
	}
	return held
}

func (s *scheduler) reserve(prompt, limit int) (*Place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.noteQuiet(now)
	if err := s.queueable(prompt + limit); err != nil {
		return nil, err
	}
	if err := s.room(prompt, limit, now); err != nil {
		return nil, err
	}
	s.reserved++
	return &Place{s, true}, nil
}

// admitted reports whether a request has a place of this engine, and takes it. The caller holds the lock.
func (s *scheduler) admitted(p *Place) bool { return p != nil && p.of == s && p.give() }

// noteQuiet notes a moment at which nobody is served or waits. The caller holds the lock.
func (s *scheduler) noteQuiet(now time.Time) {
	if s.running+len(s.waiting)+len(s.patient)+s.reserved == 0 {
		s.quiet = now
	}
}
