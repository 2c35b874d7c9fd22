package results_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/synthesis/internal/results"
)

func open(t testing.TB, path string) *results.Log {
	t.Helper()
	l, err := results.OpenLog(path)
	require.NoError(t, err)
	return l
}

func get(t testing.TB, l *results.Log, key string) string {
	t.Helper()
	v, ok, err := l.Get(context.Background(), key)
	require.NoError(t, err)
	if !ok {
		return ""
	}
	return string(v)
}

func TestLogKeepsWhatWasPut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.jsonl")
	l := open(t, path)
	var puts sync.WaitGroup
	for i := range 64 {
		puts.Go(func() {
			assert.NoError(t, l.Put(t.Context(), fmt.Sprint("k", i), fmt.Appendf(nil, `{"n": %d, "s": "<&>\u2028水"}`, i)))
		})
	}
	puts.Wait()
	_, err := results.OpenLog(path)
	require.Equal(t, clara.Conflict, clara.KindOf(err))
	require.NoError(t, l.Put(t.Context(), "k1", []byte(`"newer"`)))
	require.Error(t, l.Put(t.Context(), "bad", []byte(`{"n":`)))
	require.NoError(t, l.Close())

	l = open(t, path)
	assert.Equal(t, `"newer"`, get(t, l, "k1"))
	assert.Equal(t, `{"n":63,"s":"<&>\u2028水"}`, get(t, l, "k63"))
	require.NoError(t, l.Keep(t.Context(), func(key string) bool { return key == "k2" }))
	assert.Empty(t, get(t, l, "k1"))
	require.NoError(t, l.Put(t.Context(), "after", []byte(`1`)))
	require.NoError(t, l.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(data), "newer", "what is not kept is gone from the disk")
	l = open(t, path)
	assert.NotEmpty(t, get(t, l, "k2"))
	assert.Equal(t, "1", get(t, l, "after"))
	require.NoError(t, l.Close())
}

// Whatever the crash or the disk has done to the file, the whole lines are there and the file can be used.
func TestLogAfterDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.jsonl")
	l := open(t, path)
	for i := range 5 {
		require.NoError(t, l.Put(t.Context(), fmt.Sprint("k", i), fmt.Appendf(nil, `{"n":%d}`, i)))
	}
	require.NoError(t, l.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for cut := range len(whole) + 1 {
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o600))
		l := open(t, path)
		require.NoError(t, l.Put(t.Context(), "new", []byte(`"x"`)))
		require.NoError(t, l.Close())
		l = open(t, path)
		require.Equal(t, `"x"`, get(t, l, "new"), "cut at %d", cut)
		if cut == len(whole) {
			require.Equal(t, `{"n":4}`, get(t, l, "k4"))
		}
		require.NoError(t, l.Close())
	}
	damaged := append([]byte{}, whole...)
	damaged[len(whole)/2] ^= 1
	require.NoError(t, os.WriteFile(path, damaged, 0o600))
	l = open(t, path)
	found := 0
	for i := range 5 {
		if v := get(t, l, fmt.Sprint("k", i)); v != "" {
			require.Equal(t, fmt.Sprintf(`{"n":%d}`, i), v)
			found++
		}
	}
	assert.Equal(t, 4, found, "one line is damaged, and only that one is lost")
	require.NoError(t, l.Close())
}

func FuzzLog(f *testing.F) {
	f.Add([]byte(`{"key":"a","sum":1,"value":{"x":1}}` + "\n" + `{"key":`))
	f.Add([]byte("\n\n\xff\x00\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "r")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		l := open(t, path)
		require.NoError(t, l.Put(t.Context(), "mine", []byte(`7`)))
		require.NoError(t, l.Close())
		l = open(t, path)
		require.Equal(t, "7", get(t, l, "mine"))
		require.NoError(t, l.Close())
	})
}
