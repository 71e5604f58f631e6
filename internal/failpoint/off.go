//go:build !failpoint

// Package failpoint names the instants at which tests kill a process. In ordinary builds
// it has no effect and no cost. With the build tag failpoint, the instant named in
// NEURONMILL_FAILPOINT ends the process as SIGKILL does.
package failpoint

// Hit marks an instant.
func Hit(string) {}
