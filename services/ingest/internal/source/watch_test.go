package source_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/services/ingest/internal/source"
)

// What cannot be taken in is tried less and less often, at once when it has changed, and told once for each change.
func TestWatchBacksOff(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.txt")
	require.NoError(t, os.WriteFile(file, []byte("one"), 0o600))
	folder, err := source.ParseFolder("docs=" + dir)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var log bytes.Buffer
		var mu sync.Mutex // the bubble's clock orders what the two sides do, which the race detector can't know
		fault, attempts := errors.New("permission denied"), 0
		done := make(chan error)
		go func() {
			done <- folder.Watch(ctx, 2*time.Second, slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, path string) error {
				assert.Equal(t, file, path)
				mu.Lock()
				defer mu.Unlock()
				attempts++
				return fault
			})
		}()
		for _, c := range []struct {
			name     string
			change   func()
			during   time.Duration
			min, max int
			warnings int
		}{
			{"it fails", func() {}, time.Hour, 10, 30, 1},
			{"it fails as before", func() {}, time.Hour, 10, 15, 1},
			{"another reason", func() { fault = errors.New("is a directory") }, time.Hour, 10, 15, 2},
			{"another content", func() { require.NoError(t, os.WriteFile(file, []byte("two two"), 0o600)) }, 10 * time.Second, 2, 4, 3},
			{"other rights", func() { require.NoError(t, os.Chmod(file, 0o640)) }, 10 * time.Second, 2, 4, 4},
			{"it works", func() { fault = nil }, time.Hour, 1, 1, 4},
			{"nothing is new", func() {}, time.Hour, 0, 0, 4},
		} {
			mu.Lock()
			attempts = 0
			c.change()
			mu.Unlock()
			<-time.After(c.during) // of the bubble's clock, which does not wait
			synctest.Wait()
			assert.GreaterOrEqual(t, attempts, c.min, c.name)
			assert.LessOrEqual(t, attempts, c.max, c.name)
			assert.Equal(t, c.warnings, strings.Count(log.String(), "WARN"), "%s: %s", c.name, log.String())
		}
		stop()
		require.NoError(t, <-done)
	})
}
