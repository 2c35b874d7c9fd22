//go:build linux || darwin

package pdf

import "syscall"

// reserve maps n bytes of zeros that take up room only once they are written;
// nil if the system refuses.
func reserve(n uint64) []byte {
	b, err := syscall.Mmap(-1, 0, int(n), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return b
}

func release(b []byte) { _ = syscall.Munmap(b) }
