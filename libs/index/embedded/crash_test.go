package embedded_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/index/indextest"
)

// with opens the server on a folder, runs f with a client of it, and closes both.
func with(t *testing.T, dir string, log *slog.Logger, f func(c *index.Client)) {
	t.Helper()
	s, err := embedded.Open(embedded.Options{Dir: dir, Log: log})
	require.NoError(t, err)
	c, err := index.Open(t.Context(), index.Options{Dial: s.Dial})
	require.NoError(t, err)
	f(c)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		// Rows files are sparse and large: links do, as nothing in them is changed.
		if strings.HasPrefix(d.Name(), "v") {
			return os.Link(path, filepath.Join(to, rel))
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	}))
	return to
}

func point(rng *rand.Rand, document string, i int) index.Point {
	return index.Point{Passage: indextest.Passage(document, i, fmt.Sprintf("text %s %d", document, i)), Memory: indextest.Memory(rng, 1, 8)}
}

func count(t *testing.T, c *index.Client, f index.Filter) int {
	t.Helper()
	x, err := c.Index(t.Context(), "a")
	require.NoError(t, err)
	n, err := x.Count(t.Context(), f)
	require.NoError(t, err)
	return n
}

// makeData makes a folder with an index a.1 of 3 points of document "kept" and an alias a, runs last, and closes it.
func makeData(t *testing.T, last func(x *index.Index)) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	with(t, dir, nil, func(c *index.Client) {
		x, err := c.Ensure(t.Context(), "a.1", index.Schema{M: 1, H: 8})
		require.NoError(t, err)
		require.NoError(t, c.Alias(t.Context(), "a", "a.1"))
		require.NoError(t, x.Upsert(t.Context(), []index.Point{point(rng, "kept", 0), point(rng, "kept", 1), point(rng, "kept", 2)}))
		last(x)
	})
	return dir
}

func logOf(dir string) string { return filepath.Join(dir, "c000001", "log.000001") }

// A kill at any byte of the last write leaves that write out, and everything before it in.
func TestTornWrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, c := range []struct {
		name string
		last func(x *index.Index) error
		kept int // points of "kept" after the last write
	}{
		{"upsert", func(x *index.Index) error {
			return x.Upsert(t.Context(), []index.Point{point(rng, "last", 0), point(rng, "last", 1)})
		}, 3},
		{"delete", func(x *index.Index) error {
			return x.Delete(t.Context(), index.Filter{Documents: []string{"kept"}})
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeData(t, func(*index.Index) {})
			info, err := os.Stat(logOf(dir))
			require.NoError(t, err)
			before := info.Size()
			with(t, dir, nil, func(client *index.Client) {
				x, err := client.Index(t.Context(), "a")
				require.NoError(t, err)
				require.NoError(t, c.last(x))
			})
			whole, err := os.ReadFile(logOf(dir))
			require.NoError(t, err)
			work := copyTree(t, dir)
			for size := before; size <= int64(len(whole)); size++ {
				if size > before+64 && size < int64(len(whole))-64 && size%17 != 0 {
					continue // the middle of the body is the same everywhere
				}
				require.NoError(t, os.WriteFile(logOf(work), whole[:size], 0o600))
				var said strings.Builder
				with(t, work, slog.New(slog.NewTextHandler(&said, nil)), func(client *index.Client) {
					kept, last := 3, 0
					if size == int64(len(whole)) {
						kept = c.kept
						if c.name == "upsert" {
							last = 2
						}
					}
					require.Equal(t, kept, count(t, client, index.Filter{Documents: []string{"kept"}}), "cut at byte %d", size)
					require.Equal(t, last, count(t, client, index.Filter{Documents: []string{"last"}}), "cut at byte %d", size)
				})
				torn := size > before && size < int64(len(whole))
				require.Equal(t, torn, strings.Contains(said.String(), "not finished"), "cut at byte %d", size)
			}
			// Pages of the last write that never reached the disk read as zeros.
			for from := before; from < int64(len(whole)); from += 13 {
				holed := append([]byte{}, whole...)
				clear(holed[from:])
				require.NoError(t, os.WriteFile(logOf(work), holed, 0o600))
				with(t, work, nil, func(client *index.Client) {
					require.Equal(t, 3, count(t, client, index.Filter{Documents: []string{"kept"}}))
				})
			}
		})
	}
}

// Damage before the last record is no torn write: nothing is cut off in silence.
func TestDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	dir := makeData(t, func(x *index.Index) {
		require.NoError(t, x.Upsert(t.Context(), []index.Point{point(rng, "more", 0)}))
	})
	whole, err := os.ReadFile(logOf(dir))
	require.NoError(t, err)
	for _, at := range []int{0, 5, 9, 17, 21, 30, 200} {
		damaged := append([]byte{}, whole...)
		damaged[at] ^= 0x10
		work := copyTree(t, dir)
		require.NoError(t, os.WriteFile(logOf(work), damaged, 0o600))
		_, err := embedded.Open(embedded.Options{Dir: work})
		require.Error(t, err, "bit flipped in byte %d", at)
		assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
		assert.ErrorContains(t, err, "log.000001")
		after, err := os.ReadFile(logOf(work))
		require.NoError(t, err)
		assert.Equal(t, damaged, after, "nothing was changed")
	}
}

func TestDamagedRows(t *testing.T) {
	dir := makeData(t, func(*index.Index) {})
	f, err := os.OpenFile(filepath.Join(dir, "c000001", "v0.000001"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, 64+3) // the second row
	require.NoError(t, err)
	require.NoError(t, f.Close())
	with(t, dir, nil, func(c *index.Client) {
		x, err := c.Index(t.Context(), "a")
		require.NoError(t, err)
		stored, err := x.Passages(t.Context(), "handbook", "kept")
		require.NoError(t, err)
		_, err = x.Memories(t.Context(), []string{stored[0].PointID})
		require.NoError(t, err)
		_, err = x.Memories(t.Context(), []string{stored[1].PointID})
		assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
	})
	require.NoError(t, os.Truncate(filepath.Join(dir, "c000001", "v0.000001"), 10))
	_, err = embedded.Open(embedded.Options{Dir: dir})
	assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
}

// A file that is cut short, or a disk that fails, under a running server ends calls, not the process.
func TestLostPages(t *testing.T) {
	dir := makeData(t, func(*index.Index) {})
	with(t, dir, nil, func(c *index.Client) {
		x, err := c.Index(t.Context(), "a")
		require.NoError(t, err)
		stored, err := x.Passages(t.Context(), "handbook", "kept")
		require.NoError(t, err)
		require.NoError(t, os.Truncate(filepath.Join(dir, "c000001", "v0.000001"), 0))
		_, err = x.SearchMemory(t.Context(), point(rand.New(rand.NewPCG(1, 1)), "", 0).Memory, 1, index.Filter{})
		assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
		_, err = x.Memories(t.Context(), []string{stored[0].PointID})
		assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
		assert.Equal(t, 3, count(t, c, index.Filter{}))
	})
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Open(embedded.Options{Dir: dir})
	require.NoError(t, err)
	_, err = embedded.Open(embedded.Options{Dir: dir})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, dir)
	require.NoError(t, s.Close())
	s, err = embedded.Open(embedded.Options{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// What a create, drop or rewrite that was cut short leaves behind is removed; what is in use is not.
func TestLeftovers(t *testing.T) {
	dir := makeData(t, func(*index.Index) {})
	folder := filepath.Join(dir, "c000001")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "c000077"), 0o700))
	for _, name := range []string{"log.000002", "v0.000002", "collection.json.tmp1"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte("half a generation"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "manifest.json.tmp9"), nil, 0o600))
	with(t, dir, nil, func(c *index.Client) { assert.Equal(t, 3, count(t, c, index.Filter{})) })
	assert.NoDirExists(t, filepath.Join(dir, "c000077"))
	assert.NoFileExists(t, filepath.Join(dir, "manifest.json.tmp9"))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, []string{"collection.json", "log.000001", "v0.000001"}, names)
}

// A collection of which most is dead is rewritten, while it is searched, and reads the same afterwards.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 5))
	var points []index.Point
	for i := range 3000 {
		points = append(points, point(rng, fmt.Sprintf("d%d", i%10), i))
	}
	check := func(x *index.Index) {
		for i := 8; i < len(points); i += 500 {
			found, err := x.SearchMemory(t.Context(), points[i].Memory, 1, index.Filter{})
			require.NoError(t, err)
			require.Equal(t, points[i].Passage, found[0].Passage)
			byText, err := x.SearchText(t.Context(), fmt.Sprintf("text %d", i), 1, index.Filter{Documents: []string{"d8"}})
			require.NoError(t, err)
			require.Equal(t, points[i].Passage, byText[0].Passage)
			m, err := x.Memories(t.Context(), []string{found[0].PointID})
			require.NoError(t, err)
			require.InDeltaSlice(t, points[i].Memory.Data, m[0].Data, 0.02)
		}
		n, err := x.Count(t.Context(), index.Filter{})
		require.NoError(t, err)
		require.Equal(t, 600, n)
	}
	var said safeBuilder
	log := slog.New(slog.NewTextHandler(&said, nil))
	with(t, dir, log, func(c *index.Client) {
		x, err := c.Ensure(t.Context(), "a.1", index.Schema{M: 1, H: 8})
		require.NoError(t, err)
		require.NoError(t, c.Alias(t.Context(), "a", "a.1"))
		require.NoError(t, x.Upsert(t.Context(), points))
		for d := range 8 {
			require.NoError(t, x.Delete(t.Context(), index.Filter{Documents: []string{fmt.Sprintf("d%d", d)}}))
			_, err := x.SearchMemory(t.Context(), points[8].Memory, 5, index.Filter{})
			require.NoError(t, err)
		}
		check(x)
	})
	assert.Contains(t, said.String(), "rewrote a collection")
	with(t, dir, nil, func(c *index.Client) {
		x, err := c.Index(t.Context(), "a")
		require.NoError(t, err)
		check(x)
	})
	assert.NoFileExists(t, logOf(dir))
}

func TestUnimplemented(t *testing.T) {
	s, err := embedded.Open(embedded.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	unimplementedCalls(t, s)
}

func TestOpenFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	newer := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(newer, "manifest.json"), []byte(`{"format": 9}`), 0o600))
	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "manifest.json"), []byte(`{"form`), 0o600))
	for _, c := range []struct {
		name, dir string
		kind      clara.Kind
	}{
		{"none", "", clara.Invalid},
		{"a file", file, clara.Unavailable},
		{"newer", newer, clara.Unsupported},
		{"broken", broken, clara.Corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := embedded.Open(embedded.Options{Dir: c.dir})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
		})
	}
}

// Serve on a closed server says so and closes the listener.
func TestServeAfterClose(t *testing.T) {
	s, err := embedded.Open(embedded.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	l := newListener(t)
	require.Error(t, s.Serve(context.Background(), l, embedded.ServeOptions{}))
	assert.Error(t, l.Close(), "was closed already")
}
