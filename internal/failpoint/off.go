//go:build !failpoint

// Package failpoint names the instants at which tests kill a process. In ordinary
// builds it does nothing and costs nothing; built with the tag failpoint, the
// instant named in NEURONMILL_FAILPOINT ends the process as SIGKILL would.
package failpoint

// Hit marks an instant.
func Hit(string) {}
