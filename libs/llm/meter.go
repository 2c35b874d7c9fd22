package llm

import (
	"context"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
)

// Usage counts what was used.
type Usage struct {
	Requests         int64   `json:"requests"`
	Retries          int64   `json:"retries"`
	PromptTokens     int64   `json:"prompt_tokens"`
	CompletionTokens int64   `json:"completion_tokens"`
	Cost             float64 `json:"cost"`
}

// Meter counts the use of one piece of work, over all its endpoints, and holds its budget. Safe for concurrent use;
// nil counts nothing.
type Meter struct {
	mu       sync.Mutex
	budget   float64
	used     Usage
	reserved float64
	waiting  int           // reservations
	settled  chan struct{} // closed when a reservation has ended
}

// NewMeter makes a meter; budget 0 is no limit. used is what earlier runs of the same work have used.
func NewMeter(budget float64, used Usage) *Meter { return &Meter{budget: budget, used: used} }

// Usage returns what was used.
func (m *Meter) Usage() Usage {
	if m == nil {
		return Usage{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// reserve sets cost aside for a request. While requests under way might still take what is left, it waits for them.
// State if the budget does not allow it.
func (m *Meter) reserve(ctx context.Context, cost float64) error {
	if m == nil {
		return nil
	}
	for {
		m.mu.Lock()
		if m.budget == 0 || m.used.Cost+m.reserved+cost <= m.budget {
			m.reserved += cost
			m.waiting++
			m.mu.Unlock()
			return nil
		}
		if m.waiting == 0 || m.used.Cost+cost > m.budget {
			err := &OverBudget{Budget: m.budget, Used: m.used.Cost}
			m.mu.Unlock()
			return err
		}
		if m.settled == nil {
			m.settled = make(chan struct{})
		}
		settled := m.settled
		m.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle ends a reservation: u is what was used of it.
func (m *Meter) settle(reserved float64, u Usage) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reserved -= reserved
	if m.waiting--; m.waiting == 0 {
		m.reserved = 0 // no rest of rounding
	}
	m.add(u)
	if m.settled != nil {
		close(m.settled)
		m.settled = nil
	}
}

func (m *Meter) add(u Usage) {
	m.used.Requests += u.Requests
	m.used.Retries += u.Retries
	m.used.PromptTokens += u.PromptTokens
	m.used.CompletionTokens += u.CompletionTokens
	m.used.Cost += u.Cost
}

// OverBudget says that a request might exceed the budget. Its kind is State.
type OverBudget struct{ Budget, Used float64 }

// Error names both sums.
func (o *OverBudget) Error() string { return o.Unwrap().Error() }

// Unwrap gives the error its kind.
func (o *OverBudget) Unwrap() error {
	return clara.Errorf(clara.State, "budget %.4g would be exceeded: %.4g is used; raise the budget to go on where this stopped", o.Budget, o.Used)
}

// Add counts what a Model that is no Client has used.
func (m *Meter) Add(u Usage) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(u)
}
