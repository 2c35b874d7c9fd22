package filemap_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor/filemap"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{"", "abc"} {
		path := filepath.Join(dir, "f"+content)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		m, err := filemap.Open(path)
		require.NoError(t, err)
		assert.Equal(t, content, string(m.Bytes()))
		m.Release()
		assert.Equal(t, content, string(m.Bytes()), "it is read again")
		require.NoError(t, m.Close())
		require.NoError(t, m.Close())
	}
	_, err := filemap.Open(filepath.Join(dir, "missing"))
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = filemap.Open(dir)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}
