//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// name and left come from the environment: "before-ack" selects the first hit of that
// instant, "before-ack:3" the third.
var (
	name string
	left atomic.Int64
)

func init() {
	text, nth, _ := strings.Cut(os.Getenv("NEURONMILL_FAILPOINT"), ":")
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	name = text
	left.Store(n)
}

// Hit ends the process when the environment names this instant.
func Hit(instant string) {
	if instant == name && left.Add(-1) == 0 {
		os.Exit(137)
	}
}
