//go:build !unix

package filemap

import (
	"io"
	"os"

	"github.com/clara-suite/clara/libs/clara"
)

func mapFile(f *os.File, size int) (*Map, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "read %s: %w", f.Name(), err)
	}
	return &Map{data: data}, nil
}

func release([]byte) {}
