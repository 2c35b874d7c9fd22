//go:build unix

package filemap

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/clara-suite/clara/libs/clara"
)

func mapFile(f *os.File, size int) (*Map, error) {
	data, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "map %s: %w", f.Name(), err)
	}
	return &Map{data: data, unmap: syscall.Munmap}, nil
}

// release is a matter of memory alone: a fault means that it stays.
func release(data []byte) { _ = unix.Madvise(data, unix.MADV_DONTNEED) }
