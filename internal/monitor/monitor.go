// Package monitor answers what people ask about a running system: which workers there are,
// and why a task waits and until when. The command line and the HTTP API use the same
// answers.
package monitor

import (
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Monitor reads the state of all workers and tasks from their Redis. The zero value is not
// usable.
type Monitor struct {
	Redis redis.UniversalClient // the caller closes it
	// WorkersFor is how long a list of workers may be used again; 0 means not at all. A
	// server that answers many callers sets it.
	WorkersFor time.Duration

	mu      sync.Mutex
	workers []Worker
	read    time.Time
}
