//go:build !unix

package embedded

import (
	"runtime"

	"github.com/clara-suite/clara/libs/clara"
)

// mapRead: files are mapped on Unix systems only.
func mapRead(uintptr, int64, int) ([]byte, error) {
	return nil, clara.Errorf(clara.Unsupported, "the embedded index does not keep vectors on %s: use a Qdrant server", runtime.GOOS)
}

func unmap([]byte) error { return nil }
