// Package schedule is the learning rate of every step (spec clara-model §5).
package schedule

import "math"

// Names of schedules.
const (
	Cosine   = "cosine_with_min_lr"
	Constant = "constant"
)

// Schedule gives the rate of a run's optimizer steps.
type Schedule struct {
	Name   string
	Rate   float64
	Floor  float64 // of cosine, as a part of Rate
	Warmup int     // steps over which cosine climbs from 0
	Steps  int     // of the whole run
}

// At is the rate used at step i, from 0. A constant schedule has no warm-up.
func (s Schedule) At(i int) float64 {
	if s.Name == Constant {
		return s.Rate
	}
	if i < s.Warmup {
		return s.Rate * float64(i) / float64(max(1, s.Warmup))
	}
	part := float64(i-s.Warmup) / float64(max(1, s.Steps-s.Warmup))
	return s.Rate * (s.Floor + (1-s.Floor)*0.5*(1+math.Cos(math.Pi*part)))
}

// WarmupSteps is ceil(ratio * steps).
func WarmupSteps(ratio float64, steps int) int { return int(math.Ceil(ratio*float64(steps) - 1e-9)) }
