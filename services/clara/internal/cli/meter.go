package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// meter shows how far local work is: on a terminal one line that is redrawn, elsewhere a line every few seconds.
// Safe for concurrent use.
type meter struct {
	w        io.Writer
	width    int
	terminal bool
	silent   bool

	mu    sync.Mutex
	stage string
	begin time.Time
	first int // what was done when the stage began
	last  time.Time
	drawn bool
}

func newMeter(e *Env) *meter {
	width, terminal := isTerminal(e.Err)
	return &meter{w: e.Err, width: width, terminal: terminal, silent: e.JSON}
}

// between is the least time between two lines.
func (m *meter) between() time.Duration {
	if m.terminal {
		return 100 * time.Millisecond
	}
	return 5 * time.Second
}

func (m *meter) show(stage string, done, total int, unit, more string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.stage != stage {
		m.stage, m.begin, m.first, m.last = stage, now, done, time.Time{}
	}
	if m.silent || now.Sub(m.last) < m.between() && done < total {
		return
	}
	m.last = now
	line := fmt.Sprintf("%s: %d of %d %s", stage, done, total, unit)
	if elapsed := now.Sub(m.begin).Seconds(); done > m.first && elapsed > 0.5 {
		rate := float64(done-m.first) / elapsed
		line += fmt.Sprintf(", %.1f/s", rate)
		if total > done {
			line += ", " + (time.Duration(float64(total-done)/rate) * time.Second).String() + " left"
		}
	}
	line += more
	if !m.terminal {
		fmt.Fprintln(m.w, line)
		return
	}
	r := []rune(line)
	fmt.Fprintf(m.w, "\r\x1b[2K%s", string(r[:min(len(r), m.width-1)]))
	m.drawn = true
}

// end leaves the line.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drawn {
		fmt.Fprintln(m.w)
		m.drawn = false
	}
}
