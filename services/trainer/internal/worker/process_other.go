//go:build unix && !linux

package worker

import "syscall"

// attributes puts a worker in a group of its own, so that Ctrl-C in a terminal reaches it through the supervisor only.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
