package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
)

func each(t *testing.T, run func(t *testing.T, b *blob.Bucket)) {
	t.Run("folder", func(t *testing.T) {
		b, err := blob.Open(t.Context(), "file://"+filepath.ToSlash(t.TempDir()))
		require.NoError(t, err)
		defer b.Close()
		run(t, b)
	})
	t.Run("memory", func(t *testing.T) {
		b, err := blob.Open(t.Context(), "mem://")
		require.NoError(t, err)
		defer b.Close()
		run(t, b)
	})
}

func TestBucket(t *testing.T) {
	each(t, func(t *testing.T, b *blob.Bucket) {
		ctx := t.Context()
		require.NoError(t, b.Ping(ctx))
		key, hash, size, err := b.PutContent(ctx, "files", strings.NewReader("hello"), 5)
		require.NoError(t, err)
		assert.Equal(t, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", hash)
		assert.Equal(t, "files/"+hash, key)
		assert.EqualValues(t, 5, size)
		again, _, _, err := b.PutContent(ctx, "files", strings.NewReader("hello"), 0)
		require.NoError(t, err)
		assert.Equal(t, key, again)

		_, err = b.Put(ctx, "a/b.json", strings.NewReader("1"))
		require.NoError(t, err)
		_, err = b.Put(ctx, "a/b.json", strings.NewReader("22"))
		require.NoError(t, err)
		data, err := b.ReadAll(ctx, "a/b.json", 10)
		require.NoError(t, err)
		assert.Equal(t, "22", string(data))
		_, err = b.ReadAll(ctx, "a/b.json", 1)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))

		f, err := b.OpenFile(ctx, key)
		require.NoError(t, err)
		at := make([]byte, 3)
		_, err = f.ReadAt(at, 2)
		require.NoError(t, err)
		assert.Equal(t, "llo", string(at))
		assert.EqualValues(t, 5, f.Size)
		require.NoError(t, f.Close())

		var keys []string
		for e, err := range b.List(ctx, "") {
			require.NoError(t, err)
			keys = append(keys, e.Key)
		}
		assert.Equal(t, []string{"a/b.json", key}, keys)
		require.NoError(t, b.Delete(ctx, key))
		require.NoError(t, b.Delete(ctx, key))
		_, err = b.Get(ctx, key)
		assert.Equal(t, clara.NotFound, clara.KindOf(err))
		assert.ErrorContains(t, err, key)
	})
}

func TestPutKeepsTheOldContentOnFailure(t *testing.T) {
	each(t, func(t *testing.T, b *blob.Bucket) {
		_, err := b.Put(t.Context(), "k", strings.NewReader("old"))
		require.NoError(t, err)
		broken := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), iotest.ErrReader(errors.New("gone")))
		_, err = b.Put(t.Context(), "k", broken)
		require.Error(t, err)
		data, err := b.ReadAll(t.Context(), "k", 10)
		require.NoError(t, err)
		assert.Equal(t, "old", string(data))
	})
}

func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, b *blob.Bucket) {
		for _, key := range []string{"", "/a", "a/", "../a", "a/../b", "a//b", "a\\b", ".tmp/x", "a b", "ä"} {
			_, err := b.Put(t.Context(), key, strings.NewReader("x"))
			assert.Equal(t, clara.Invalid, clara.KindOf(err), key)
		}
		_, _, _, err := b.PutContent(t.Context(), "files", strings.NewReader("123456"), 5)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Put(ctx, "k", strings.NewReader("x"))
		assert.Error(t, err)
	})
	for _, address := range []string{"ftp://x", "file://host/x", "::"} {
		_, err := blob.Open(t.Context(), address)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), address)
	}
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := blob.OpenDir(filepath.Join(file, "sub"))
	assert.ErrorContains(t, err, file)
}
