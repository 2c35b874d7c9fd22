package verify_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/verify"
	"github.com/clara-suite/clara/libs/testkit/partstest"
)

func TestGolden(t *testing.T) {
	root := partstest.Golden(t)
	dirs, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			r, err := verify.Run(t.Context(), dir, infer.Options{})
			require.NoError(t, err)
			for _, f := range r.Figures {
				t.Logf("%-50s %-8s %5d  %.2g of %.2g", f.Key, f.Kind, f.Compared, f.Value, f.Tolerance)
				assert.True(t, f.Pass, "%s: %g is beyond %g %s", f.Key, f.Value, f.Tolerance, f.Note)
			}
			assert.True(t, r.Pass())
			assert.Greater(t, len(r.Figures), 40)
			assert.NotEmpty(t, r.Left)
		})
	}
}

func TestNoFolder(t *testing.T) {
	_, err := verify.Run(context.Background(), t.TempDir(), infer.Options{})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
