//go:build !linux

package infer

// Large pages are asked for on Linux only.
type span struct{}

func anonymous() map[span]bool     { return nil }
func enlarge(before map[span]bool) {}
