package modelstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/modelstore"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestDir: a package is the same until it is imported anew, and gone once it is deleted, in a folder and in a store that
// packages are fetched from.
func TestDir(t *testing.T) {
	for _, c := range []struct {
		name, url string
		folder    bool
	}{{"folder", "file://" + filepath.ToSlash(t.TempDir()), true}, {"fetched", "mem://", false}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			bucket, err := blob.Open(ctx, c.url)
			require.NoError(t, err)
			defer func() { require.NoError(t, bucket.Close()) }()
			store := modelstore.New(bucket, t.TempDir())
			_, _, err = store.Dir(ctx, "tiny")
			assert.Equal(t, clara.NotFound, clara.KindOf(err))
			ids := map[string]bool{}
			for seed := range uint64(2) {
				base := filepath.Join(t.TempDir(), "base")
				tinymodel.Base(t, base, tinymodel.Default(), seed)
				_, err = store.Import(ctx, "tiny", modelpkg.ImportOptions{Base: base})
				require.NoError(t, err)
				dir, id, err := store.Dir(ctx, "tiny")
				require.NoError(t, err)
				_, err = os.Stat(filepath.Join(dir, modelpkg.ManifestFile))
				require.NoError(t, err)
				_, again, err := store.Dir(ctx, "tiny")
				require.NoError(t, err)
				assert.Equal(t, id, again)
				m, err := modelpkg.ReadManifest(dir)
				require.NoError(t, err)
				own, err := m.ID()
				require.NoError(t, err)
				assert.Equal(t, own, id)
				ids[id] = true
			}
			assert.Len(t, ids, 2)
			require.NoError(t, store.Delete(ctx, "tiny"))
			_, _, err = store.Dir(ctx, "tiny")
			assert.Equal(t, clara.NotFound, clara.KindOf(err))
		})
	}
}
