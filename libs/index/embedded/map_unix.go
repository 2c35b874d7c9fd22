//go:build unix

package embedded

import "golang.org/x/sys/unix"

// mapRead maps part of a file for reading; what is written to the file shows in it.
func mapRead(fd uintptr, at int64, size int) ([]byte, error) {
	return unix.Mmap(int(fd), at, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmap(b []byte) error { return unix.Munmap(b) }
