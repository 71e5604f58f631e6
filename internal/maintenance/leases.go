package maintenance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// leaseSlack is the time from the end of a lease until its task is requeued. It exceeds
// the 5 s of asynq's heartbeat, with which a living owner renews the lease.
const leaseSlack = 6 * time.Second

// returnLeases requeues tasks with an expired lease: it is the reaper. asynq's own
// recovery takes one to three minutes.
func (f *fleet) returnLeases(ctx context.Context) (time.Duration, error) {
	late := time.Now().Add(-leaseSlack)
	queues, err := f.look(ctx, recent)
	if err != nil {
		return 0, err
	}
	expired, err := queue.Expired(ctx, f.Redis, those(queues, func(h queue.Holds) bool { return h.Leases }), late)
	if err != nil {
		return 0, err
	}
	var errs []error
	for name, ids := range expired {
		for _, id := range ids {
			errs = append(errs, f.returnTask(ctx, name, id, late))
		}
	}
	return 0, errors.Join(errs...)
}

func (f *fleet) returnTask(ctx context.Context, name, id string, late time.Time) error {
	if f.putAside(ctx, name, id) {
		return nil
	}
	moved, err := queue.ReturnLease(ctx, f.Redis, name, id, late)
	if moved {
		f.Log.Warn("task of a lost worker put back", "task", id, "queue", name)
	}
	return err
}

// returnStranded gives active tasks without a lease a new one. asynq's recovery only
// considers tasks with a lease.
func (f *fleet) returnStranded(ctx context.Context) (time.Duration, error) {
	if !f.Presence.Settled() {
		return unsettled, nil
	}
	for _, name := range tasks.Queues() {
		ids, err := queue.Active(ctx, f.Redis, name)
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			relet, err := queue.Relet(ctx, f.Redis, name, id)
			if err != nil {
				return 0, err
			}
			if relet {
				f.Log.Warn("active task without a lease", "task", id, "queue", name)
			}
		}
	}
	return 0, nil
}

// requeueUnlisted looks at the next page of Redis' keys for tasks that are in no list of
// their queue, and requeues them. The worker that takes one acknowledges it if it has ended.
func (f *fleet) requeueUnlisted(ctx context.Context) (time.Duration, error) {
	requeued, more, err := f.unlisted.Requeue(ctx, f.Redis, tasks.Queues())
	for id, state := range requeued {
		f.Log.Warn("task in no list of its queue put back", "task", id, "state", state)
	}
	if more {
		return scanPause, err
	}
	return 0, err
}

var ownID = regexp.MustCompile(`^t_[a-z0-9_]+$`)

// putAside removes a damaged message from the queue, where it would stop the recovery of
// all other tasks, and reports whether the message was damaged. The reconciler restores a
// task that has a pending record; any other ends as failed.
func (f *fleet) putAside(ctx context.Context, name, id string) bool {
	found, err := queue.Find(ctx, f.Redis, name, []string{id})
	if err != nil || len(found[0].Message) == 0 {
		return false
	}
	if _, payload, err := tasks.DecodeMessage(found[0].Message); err == nil || payload != nil {
		return false // a worker ends a task that is invalid but whole
	}
	key, err := queue.SetAside(ctx, f.Redis, name, id)
	if err != nil {
		return false
	}
	f.Log.Error("a damaged message is put aside", "key", fmt.Sprintf("%q", key))
	if ownID.MatchString(id) && !f.recorded(ctx, id) {
		err := f.End(ctx, unreadable(objects.DefaultTenant, id), bytes.Clone(found[0].Message), invalid("its message in the queue was damaged"))
		if err != nil {
			f.Log.Warn("no failure document", "task", id, "error", err)
		}
	}
	return true
}

// recorded reports whether a task has a pending record, of any tenant.
func (f *fleet) recorded(ctx context.Context, id string) bool {
	for tenant, err := range objects.Tenants(ctx, f.Store) {
		if err != nil {
			return true // unknown: leave the task to the reconciler rather than end it
		}
		keys := []string{objects.PendingKey(tenant, id)}
		if shared, _, ok := objects.SharedRecordOf(id); ok {
			keys = append(keys, shared.Key(tenant))
		}
		for _, key := range keys {
			if _, err := f.Store.Head(ctx, key); !errors.Is(err, storage.ErrNotFound) {
				return true
			}
		}
	}
	return false
}
