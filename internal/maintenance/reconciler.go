package maintenance

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

const (
	unsettled    = 5 * time.Second  // until a job checks again whether stabilisation is over
	sparsest     = 15 * time.Minute // longest time between the starts of two runs
	recordMinAge = time.Minute      // the tasks of younger records may not have been enqueued yet
)

// reconcile compares the bucket with the queue and requeues accepted tasks that Redis
// lost. The interval grows to ten times the length of a run. After a run that found lost
// tasks it is shorter: some may have been too young for that run.
func (f *fleet) reconcile(ctx context.Context) (time.Duration, error) {
	// Redis may just have lost its data. Owners must register their running tasks again
	// before lost tasks are requeued.
	if f.Presence.Beat(ctx); !f.Presence.Settled() {
		return unsettled, nil
	}
	began := time.Now()
	client := tasks.NewClient(tasks.Config{Redis: f.Redis, Store: f.Store})
	n, err := client.Recover(ctx, tasks.Recovery{OlderThan: recordMinAge, Damaged: f.endDamaged})
	if n.Returned > 0 {
		f.Log.Warn("tasks that redis had lost are back in the queue", "count", n.Returned)
	}
	if err != nil {
		err = fmt.Errorf("look at the pending records: %w", err)
	}
	runs := time.Duration(10)
	if n.Returned > 0 {
		runs = 2
	}
	return min(max(runs*time.Since(began), minutely), sparsest), err
}

// endDamaged ends a task whose pending record cannot be decoded.
func (f *fleet) endDamaged(ctx context.Context, tenant, id string, document []byte) error {
	if err := f.End(ctx, unreadable(tenant, id), document, invalid("its pending record cannot be read")); err != nil {
		return err
	}
	return f.Store.Delete(ctx, objects.PendingKey(tenant, id))
}

// forgetServers removes the entries of dead processes from asynq's sets of servers and
// workers. asynq removes them only when the servers are listed.
func (f *fleet) forgetServers(ctx context.Context) (time.Duration, error) {
	return 0, queue.ForgetServers(ctx, f.Redis)
}
