//go:build unix

package filemap

import (
	"os"
	"syscall"

	"github.com/clara-suite/clara/libs/clara"
)

func mapFile(f *os.File, size int) (*Map, error) {
	data, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "map %s: %w", f.Name(), err)
	}
	return &Map{data: data, unmap: syscall.Munmap}, nil
}
