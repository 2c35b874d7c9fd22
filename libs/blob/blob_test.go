package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
)

func open(t *testing.T, url string) *blob.Bucket {
	t.Helper()
	b, err := blob.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// buckets runs a test on every kind of bucket.
func buckets(t *testing.T, f func(t *testing.T, b *blob.Bucket)) {
	t.Run("folder", func(t *testing.T) { f(t, open(t, t.TempDir())) })
	t.Run("file URL", func(t *testing.T) { f(t, open(t, "file://"+filepath.ToSlash(t.TempDir()))) })
	t.Run("memory", func(t *testing.T) { f(t, open(t, "mem://")) })
}

func TestPutGetDelete(t *testing.T) {
	buckets(t, func(t *testing.T, b *blob.Bucket) {
		ctx := t.Context()
		n, err := b.Put(ctx, "a/b/c.json", strings.NewReader("hello"))
		require.NoError(t, err)
		assert.Equal(t, int64(5), n)
		require.NoError(t, b.PutBytes(ctx, "a/b/c.json", []byte("hello, world")))

		got, err := b.ReadAll(ctx, "a/b/c.json", 100)
		require.NoError(t, err)
		assert.Equal(t, "hello, world", string(got))
		_, err = b.ReadAll(ctx, "a/b/c.json", 3)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))

		r, err := b.Range(ctx, "a/b/c.json", 7, 3)
		require.NoError(t, err)
		part, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		assert.Equal(t, "wor", string(part))

		size, err := b.Size(ctx, "a/b/c.json")
		require.NoError(t, err)
		assert.Equal(t, int64(12), size)

		f, err := b.OpenFile(ctx, "a/b/c.json")
		require.NoError(t, err)
		at := make([]byte, 5)
		_, err = f.ReadAt(at, 7)
		require.NoError(t, err)
		assert.Equal(t, "world", string(at))
		assert.Equal(t, int64(12), f.Size)
		require.NoError(t, f.Close())

		require.NoError(t, b.PutBytes(ctx, "a/d", nil))
		var keys []string
		for o, err := range b.List(ctx, "a/") {
			require.NoError(t, err)
			keys = append(keys, o.Key)
		}
		assert.Equal(t, []string{"a/b/c.json", "a/d"}, keys)

		require.NoError(t, b.Delete(ctx, "a/b/c.json"))
		require.NoError(t, b.Delete(ctx, "a/b/c.json"), "deleting twice is no error")
		ok, err := b.Exists(ctx, "a/b/c.json")
		require.NoError(t, err)
		assert.False(t, ok)
		_, err = b.Get(ctx, "a/b/c.json")
		assert.Equal(t, clara.NotFound, clara.KindOf(err))
	})
}

func TestKeysCannotLeave(t *testing.T) {
	buckets(t, func(t *testing.T, b *blob.Bucket) {
		for _, key := range []string{"", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a b", "a\x00b", "..", ".tmp/x", "a__0x2f", strings.Repeat("a", 2000)} {
			err := b.PutBytes(t.Context(), key, nil)
			assert.Equal(t, clara.Invalid, clara.KindOf(err), "put %q: %v", key, err)
			_, err = b.Get(t.Context(), key)
			assert.Equal(t, clara.Invalid, clara.KindOf(err), "get %q", key)
			assert.Equal(t, clara.Invalid, clara.KindOf(b.Delete(t.Context(), key)), "delete %q", key)
		}
	})
}

func TestLinksDoNotLeadOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	b := open(t, dir)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.Error(t, b.PutBytes(t.Context(), "link/x", []byte("x")))
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// failing yields some bytes and then an error.
type failing struct {
	n   int
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.n == 0 {
		return 0, f.err
	}
	f.n--
	return copy(p, "data"), nil
}

func TestABrokenWriteLeavesNothing(t *testing.T) {
	buckets(t, func(t *testing.T, b *blob.Bucket) {
		require.NoError(t, b.PutBytes(t.Context(), "k", []byte("old")))
		fault := errors.New("lost the client")
		_, err := b.Put(t.Context(), "k", &failing{3, fault})
		require.ErrorIs(t, err, fault)
		_, _, _, err = b.PutContent(t.Context(), "c", &failing{3, fault}, 0)
		require.ErrorIs(t, err, fault)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Put(ctx, "k", strings.NewReader("new"))
		require.ErrorIs(t, err, context.Canceled)

		got, err := b.ReadAll(t.Context(), "k", 100)
		require.NoError(t, err)
		assert.Equal(t, "old", string(got))
		n := 0
		for range b.List(t.Context(), "") {
			n++
		}
		assert.Equal(t, 1, n)
		if dir, ok := b.Path("k"); ok {
			left, err := os.ReadDir(filepath.Join(filepath.Dir(dir), ".tmp"))
			require.NoError(t, err)
			assert.Empty(t, left, "no temporary files stay")
		}
	})
}

func TestContent(t *testing.T) {
	buckets(t, func(t *testing.T, b *blob.Bucket) {
		data := bytes.Repeat([]byte("clara"), 100_000)
		sum := sha256.Sum256(data)
		want := hex.EncodeToString(sum[:])
		key, hash, size, err := b.PutContent(t.Context(), "files", bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		assert.Equal(t, want, hash)
		assert.Equal(t, "files/"+want, key)
		assert.Equal(t, int64(len(data)), size)
		_, _, _, err = b.PutContent(t.Context(), "files", bytes.NewReader(data), int64(len(data))-1)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "over the limit")

		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				again, _, _, err := b.PutContent(t.Context(), "files", bytes.NewReader(data), 0)
				assert.NoError(t, err)
				assert.Equal(t, key, again)
			})
		}
		all.Wait()
	})
}

func TestOldTemporaryFilesGo(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	old, fresh := filepath.Join(dir, ".tmp", "old"), filepath.Join(dir, ".tmp", "fresh")
	for _, f := range []string{old, fresh} {
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	day := time.Now().Add(-25 * time.Hour)
	require.NoError(t, os.Chtimes(old, day, day))
	open(t, dir)
	assert.NoFileExists(t, old)
	assert.FileExists(t, fresh)
}

func TestCache(t *testing.T) {
	buckets(t, func(t *testing.T, b *blob.Bucket) {
		ctx := t.Context()
		key, hash, _, err := b.PutContent(ctx, "models", strings.NewReader("weights"), 0)
		require.NoError(t, err)
		dir := t.TempDir()
		cache, err := blob.NewCache(b, dir)
		require.NoError(t, err)

		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				file, err := cache.Fetch(ctx, key, hash)
				assert.NoError(t, err)
				data, err := os.ReadFile(file)
				assert.NoError(t, err)
				assert.Equal(t, "weights", string(data))
			})
		}
		all.Wait()

		// Damage is noticed; a copy is fetched anew, the only original is refused.
		file, err := cache.Fetch(ctx, key, hash)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte("weighTS!"), 0o600))
		again, err := cache.Fetch(ctx, key, hash)
		if _, inPlace := b.Path(key); inPlace {
			assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
		} else {
			require.NoError(t, err)
			data, err := os.ReadFile(again)
			require.NoError(t, err)
			assert.Equal(t, "weights", string(data))
		}

		_, err = cache.Fetch(ctx, "models/none", strings.Repeat("0", 64))
		assert.Equal(t, clara.NotFound, clara.KindOf(err), "%v", err)
		require.NoError(t, b.PutBytes(ctx, "models/wrong", []byte("other")))
		_, err = cache.Fetch(ctx, "models/wrong", strings.Repeat("1", 64))
		assert.Equal(t, clara.Corrupt, clara.KindOf(err), "%v", err)
	})
}

func TestBadPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, url := range []string{"", "ftp://x", "file://host/x", file, "s3://"} {
		_, err := blob.Open(t.Context(), url)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), "%q: %v", url, err)
	}
}

func ExampleBucket_PutContent() {
	ctx := context.Background()
	b, err := blob.Open(ctx, "mem://")
	if err != nil {
		return
	}
	defer func() { _ = b.Close() }()
	key, _, size, err := b.PutContent(ctx, "files", strings.NewReader("the same bytes, the same key"), 0)
	if err != nil {
		return
	}
	fmt.Println(key[:14], size)
	// Output: files/08e39dc5 28
}
