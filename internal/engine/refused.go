package engine

import (
	"context"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
)

// refusedPatience is how long a call that has its permit waits for a Redis that refuses to
// count it. Without the wait the task would return to the queue and spend another permit.
const refusedPatience = 10 * time.Second

// whileRefused repeats a write for the next call of these tasks while Redis refuses it. The
// wait ends with the deadline, the cancellation or the stop of any of the tasks.
func (e *Engine) whileRefused(ctx context.Context, members []*job, write func() error) error {
	err := write()
	if !queue.Refuses(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, refusedPatience)
	defer cancel()
	for _, j := range members {
		turn, done := j.waitContext(ctx)
		defer done()
		defer context.AfterFunc(turn, cancel)()
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if wait(ctx, pause) != nil {
			return err
		}
		if err = write(); !queue.Refuses(err) {
			return err
		}
	}
}
