package worker

import "syscall"

// attributes puts a worker in a group of its own, so that Ctrl-C in a terminal reaches it through the supervisor only,
// and has the system tell it to save and leave should this process die.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
