//go:build !linux

package embedded

import "syscall"

// childAttr shields the server from the terminal's signals. The next supervisor stops a
// server whose supervisor was killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
