package pdf

import (
	"context"
	"sync/atomic"
)

// gate bounds how many instances live at once. The library's own pool could, but
// whoever waits there waits for good if the last instance is dropped between its
// look for a free one and its wait: dropping an instance wakes only who waits already.
type gate struct {
	places  chan struct{}
	waiting atomic.Int32
}

func newGate(n int) *gate { return &gate{places: make(chan struct{}, n)} }

// enter takes a place, and waits for one until ctx ends.
func (g *gate) enter(ctx context.Context) error {
	if g.tryEnter() {
		return nil
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tryEnter takes a place if one is free.
func (g *gate) tryEnter() bool {
	select {
	case g.places <- struct{}{}:
		return true
	default:
		return false
	}
}

// leave gives a place back.
func (g *gate) leave() { <-g.places }

// crowded reports whether somebody waits for a place.
func (g *gate) crowded() bool { return g.waiting.Load() > 0 }

// seal waits until all places are free, and takes them for good.
func (g *gate) seal() {
	for range cap(g.places) {
		g.places <- struct{}{}
	}
}
