//go:build unix

package disk

import "golang.org/x/sys/unix"

// Free returns how many bytes this user may still write below dir; ok is false where that can't be told.
func Free(dir string) (n int64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
