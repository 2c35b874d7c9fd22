package infer

import (
	"context"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
)

// Swap holds the engine in use and lets another take its place while requests run: those under way
// finish on the old one, which is closed after the last of them. The zero value holds none. It is
// safe for concurrent use.
type Swap struct {
	mu  sync.Mutex
	now *counted
}

type counted struct {
	engine *Engine
	users  sync.WaitGroup
}

// Use returns the engine in use and a function to call when done with it. It is a State error if there is none.
func (s *Swap) Use() (*Engine, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return nil, nil, clara.Errorf(clara.State, "no model is loaded yet: import and activate one with `clara models`")
	}
	c := s.now
	c.users.Add(1)
	return c.engine, sync.OnceFunc(c.users.Done), nil
}

// Replace puts next in use, or none if it is nil, and closes the engine before it when nobody uses it
// any more. It returns when that is done, or with an error of Close if ctx ends before.
func (s *Swap) Replace(ctx context.Context, next *Engine) error {
	s.mu.Lock()
	old := s.now
	s.now = nil
	if next != nil {
		s.now = &counted{engine: next}
	}
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	idle := make(chan struct{})
	go func() {
		old.users.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done(): // Close fails what still runs
	}
	return old.engine.Close(ctx)
}
