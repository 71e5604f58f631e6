package engine

import (
	"context"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
)

// logStop logs one line when the worker begins to stop: how many calls it waits for. After
// cancel, nothing is logged any more.
func (e *Engine) logStop(ctx context.Context) (cancel func()) {
	logged := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(logged)
		e.cfg.Log.Info("the worker stops: it takes no more tasks and waits for the calls under way", "calls", e.calls.Load())
	})
	return func() {
		if !stop() {
			<-logged
		}
	}
}

// shutdownLimit is how long the server may take to end once no task runs.
const shutdownLimit = 20 * time.Second

// shutDown ends the server once its tasks have ended. After shutdownLimit it leaves behind a
// server that does not end, see queue.Server.
func (e *Engine) shutDown(server *queue.Server) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Shutdown()
	}()
	const look = 100 * time.Millisecond
	for idle := time.Duration(0); idle < shutdownLimit; idle += look {
		if e.runningCount.Load() > 0 {
			idle = 0
		}
		select {
		case <-ended:
			e.runs.Wait() // the server does not wait for a task whose lease it lost
			return
		case <-time.After(look):
		}
	}
	e.cfg.Log.Warn("the queue's server did not end: Redis owes it an answer")
}
