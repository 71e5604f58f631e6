package embedded

import "syscall"

// childAttr shields the server from the terminal's signals and lets the kernel stop it when
// its supervisor is killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
