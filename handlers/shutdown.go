package handlers

import (
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"
)

// strayFor is how long a server may take to end once no task runs.
const strayFor = 20 * time.Second

// shutDown ends the servers once their tasks have ended. One that cannot end is left
// behind: asynq v0.26 waits without bound for the answer to its first SUBSCRIBE, and if
// that got lost its Shutdown never returns.
func (h *Handlers) shutDown(servers []*asynq.Server) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var g errgroup.Group
		for _, s := range servers {
			g.Go(func() error { s.Shutdown(); return nil })
		}
		_ = g.Wait()
	}()
	const look = 100 * time.Millisecond
	for idle := time.Duration(0); idle < strayFor; idle += look {
		if h.held.Load() > 0 {
			idle = 0
		}
		select {
		case <-ended:
			if h.cfg.on(guardLinger) {
				h.runs.Wait() // a server does not wait for a task whose lease it lost
			}
			return
		case <-time.After(look):
		}
	}
	h.cfg.Log.Warn("the queue's servers did not end: Redis owes them an answer")
}
