package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Readiness is a set of named conditions, each ready or with the reason why not.
// The zero value is ready to use and has no conditions. Safe for concurrent use.
type Readiness struct {
	mu       sync.Mutex
	names    []string // in the order of their first Set
	reasons  map[string]error
	stopping error
	changed  chan struct{}
}

// Set records a condition: nil means ready, an error says why not.
func (r *Readiness) Set(name string, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reasons == nil {
		r.reasons = map[string]error{}
	}
	if _, ok := r.reasons[name]; !ok {
		r.names = append(r.names, name)
	}
	r.reasons[name] = reason
	r.wake()
}

// Remove forgets a condition, for example of a model that was unloaded.
func (r *Readiness) Remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.reasons, name)
	r.names = slices.DeleteFunc(r.names, func(n string) bool { return n == name })
	r.wake()
}

// Stop makes everything not ready for good, with the reason.
func (r *Readiness) Stop(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = reason
	r.wake()
}

// Known reports whether a condition of that name was set.
func (r *Readiness) Known(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.reasons[name]
	return ok
}

// Err returns why the named condition is not ready, nil if it is. The name "" asks for all
// conditions together. An unknown name is not ready.
func (r *Readiness) Err(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping != nil {
		return r.stopping
	}
	if name != "" {
		reason, ok := r.reasons[name]
		if !ok {
			return fmt.Errorf("%s: unknown", name)
		}
		return reason
	}
	var faults []error
	for _, n := range r.names {
		if err := r.reasons[n]; err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", n, err))
		}
	}
	return errors.Join(faults...)
}

// Names returns the conditions in the order in which they were first set.
func (r *Readiness) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.names)
}

// Changed returns a channel that is closed at the next change. Take it before reading the state.
func (r *Readiness) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// wake closes the channel of Changed. The caller holds mu.
func (r *Readiness) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}
