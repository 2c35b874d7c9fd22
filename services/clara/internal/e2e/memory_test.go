//go:build !race

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMemory takes in 10,000 passages with a tiny model and reports how the memory of clara up grows with
// them. It runs if CLARA_SLOW is set.
func TestMemory(t *testing.T) {
	if os.Getenv("CLARA_SLOW") == "" {
		t.Log("10,000 passages are taken in if CLARA_SLOW is set")
		return
	}
	s := startSuite(t, "--ingest-ocr", "never")
	base := tinyBase(t)
	s.ok("models", "import", base, "--checkpoint", tinyCheckpoint(t, base), "--name", "tiny-clara", "--activate")
	var x, y []float64 // thousands of passages, MiB
	for batch := 0; len(x) == 0 || x[len(x)-1] < 10; batch++ {
		dir := t.TempDir()
		for n := range 4 {
			write(t, dir, fmt.Sprintf("%d-%d.md", batch, n), text(batch*4+n, 1, 700))
		}
		s.ok("ingest", dir, "-c", "many")
		x, y = append(x, float64(s.collection("many").PassageCount)/1000), append(y, float64(rss(t, s.cmd.Process.Pid))/(1<<20))
		t.Logf("%6.0f passages: %.0f MiB", 1000*x[len(x)-1], y[len(y)-1])
	}
	// The first batch loads the model and grows pools; what counts is what comes after.
	slope := slope(x[1:], y[1:])
	t.Logf("%.2f MiB for each 1,000 passages more", slope)
	assert.Less(t, slope, 4.0)
}

var resident = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// rss is the resident memory of a process in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	require.NoError(t, err)
	m := resident.FindSubmatch(b)
	require.NotNil(t, m)
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	require.NoError(t, err)
	return kb << 10
}

// slope is that of the line with the least squares.
func slope(x, y []float64) float64 {
	var mx, my, xy, xx float64
	for i := range x {
		mx, my = mx+x[i]/float64(len(x)), my+y[i]/float64(len(y))
	}
	for i := range x {
		xy, xx = xy+(x[i]-mx)*(y[i]-my), xx+(x[i]-mx)*(x[i]-mx)
	}
	return xy / xx
}
