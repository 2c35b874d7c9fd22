package golden_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/golden"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

func folders(t *testing.T) []string {
	root := os.Getenv("CLARA_GOLDEN")
	if root == "" {
		t.Log("CLARA_GOLDEN is not set: the comparison with the reference's golden folders is NOT run")
		t.Skip("CLARA_GOLDEN is not set")
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func TestFolders(t *testing.T) {
	torchx.SetThreads(1)
	for _, f := range folders(t) {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) {
			r, err := golden.Verify(context.Background(), filepath.Dir(f))
			require.NoError(t, err)
			var out bytes.Buffer
			r.Print(&out, false)
			assert.True(t, r.OK(), out.String())
			assert.Greater(t, r.Passed, 1000)
		})
	}
}

func TestNoFolder(t *testing.T) {
	_, err := golden.Verify(context.Background(), t.TempDir())
	require.Error(t, err)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
