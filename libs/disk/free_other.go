//go:build !unix

package disk

// Free returns how many bytes this user may still write below dir; ok is false where that can't be told.
func Free(string) (n int64, ok bool) { return 0, false }
