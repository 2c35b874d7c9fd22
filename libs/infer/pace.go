package infer

import (
	"time"
)

// pace is how fast the engine was of late, and what it is asked for. From this the scheduler tells how long a
// request would take. All rates start at zero, which means not known.
type pace struct {
	prompts float64   // tokens of prompts and texts a second
	steps   []float64 // seconds of a step over so many streams, at [streams]
	prompt  float64   // tokens of a prompt that were run
	answer  float64   // tokens of an answer
}

func newPace(streams int) pace { return pace{steps: make([]float64, streams+1)} }

// follow moves a running mean.
func follow(mean *float64, x float64) {
	if *mean == 0 {
		*mean = x
		return
	}
	*mean += 0.2 * (x - *mean)
}

// stepped notes how long a step over n streams took. When a machine becomes slower or faster, it does so for steps over any number:
// those of one stream are seldom seen under load, and what they took an hour ago, beside what eight take now, would say nothing of the difference.
func (p *pace) stepped(n int, seconds float64) {
	before := p.steps[n]
	follow(&p.steps[n], seconds)
	if before == 0 {
		return
	}
	for i := range p.steps {
		if i != n {
			p.steps[i] *= p.steps[n] / before
		}
	}
}

// A stream more makes a step longer by a share of the step of one, on a machine that reads its weights from
// memory; a token of a prompt takes a share of that step. These hold until it has been measured.
const (
	shareOfStream = 0.1
	shareOfToken  = 0.04
)

// step is how long a step over n streams takes: as measured, or between or beyond what was.
func (p *pace) step(n int) float64 {
	n = min(max(n, 1), len(p.steps)-1)
	low, high := n, n
	for low > 0 && p.steps[low] == 0 {
		low--
	}
	for high < len(p.steps) && p.steps[high] == 0 {
		high++
	}
	relative := func(n int) float64 { return 1 + shareOfStream*float64(n-1) }
	switch {
	case low > 0 && high < len(p.steps) && high > low:
		return p.steps[low] + (p.steps[high]-p.steps[low])*float64(n-low)/float64(high-low)
	case low > 0:
		return p.steps[low] * relative(n) / relative(low)
	case high < len(p.steps):
		return p.steps[high] * relative(n) / relative(high)
	}
	return 0
}

// token is how long a token of a prompt takes.
func (p *pace) token() float64 {
	if p.prompts > 0 {
		return 1 / p.prompts
	}
	return shareOfToken * p.step(1)
}

// expect tells how long a request for so many tokens would take alone, and beside others: running of them, and
// waiting before it for one of rows rows. Zero if nothing is known yet.
func (p *pace) expect(prompt, answer, running, waiting, rows int) (alone, beside time.Duration) {
	length := float64(answer)
	if p.answer > 0 {
		length = min(length, p.answer)
	}
	others := float64(running + waiting)
	n := min(running+waiting+1, rows)
	own := float64(prompt) * p.token()
	one := own + length*p.step(1)
	// While it runs each of the others comes to its end, and another to its place, with its prompt.
	all := own + float64(n-1)*p.prompt*p.token() + length*p.step(n)
	if extra := others + 1 - float64(rows); extra > 0 {
		all += extra * all / float64(rows)
	}
	return seconds(one), seconds(all)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
