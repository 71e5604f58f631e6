//go:build failpoint

package failpoint

import "os"

// Hit ends the process when the environment names this instant.
func Hit(name string) {
	if os.Getenv("NEURONMILL_FAILPOINT") == name {
		os.Exit(137)
	}
}
