package maintenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

const (
	expiredSlack = 5 * time.Second // within it a worker that claims the task ends it
	expiredPage  = 200
	archivedPage = 5000
)

// endExpired ends tasks past their deadline that no worker reaches: scheduled for later,
// behind a closed gate, or at the end of a long queue.
func (f *fleet) endExpired(ctx context.Context) (time.Duration, error) {
	queues, err := f.look(ctx, recent)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, name := range those(queues, func(h queue.Holds) bool { return h.Deadlines }) {
		for ctx.Err() == nil {
			n, err := f.endExpiredPage(ctx, name)
			if err != nil {
				errs = append(errs, err)
			}
			if n < expiredPage {
				break
			}
		}
	}
	pending := those(queues, func(h queue.Holds) bool { return h.Pending })
	return 0, errors.Join(append(errs, queue.SweepTombstones(ctx, f.Redis, pending))...)
}

// endExpiredPage handles up to expiredPage passed deadlines and returns their number.
func (f *fleet) endExpiredPage(ctx context.Context, name string) (int, error) {
	key, now := queue.DeadlinesKey(name), time.Now()
	late := fmt.Sprint(now.Add(-expiredSlack).Unix())
	ids, err := f.Redis.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "-inf", Max: late, Count: expiredPage}).Result()
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	found, err := queue.Find(ctx, f.Redis, name, ids)
	if err != nil {
		return 0, err
	}
	// Postpone the deadlines, so that a task that cannot be ended now is retried later.
	pipe := f.Redis.Pipeline()
	var waiting []queue.Found
	for _, q := range found {
		if q.State == "" {
			pipe.ZRem(ctx, key, q.ID)
			continue
		}
		pipe.ZAddXX(ctx, key, redis.Z{Score: float64(now.Add(expiredEvery).Unix()), Member: q.ID})
		if q.Waiting() {
			waiting = append(waiting, q)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, fmt.Errorf("put off the deadlines of %s: %w", name, err)
	}
	return len(ids), f.endAll(ctx, waiting, f.Expired)
}

// endCancelled ends cancelled tasks without an owner. The owner ends a running one.
func (f *fleet) endCancelled(ctx context.Context) (time.Duration, error) {
	ids, err := f.Redis.ZRange(ctx, taskstate.CancelledKey, 0, 999).Result()
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	there := map[string]bool{}
	var errs []error
	for _, name := range tasks.Queues() {
		found, err := queue.Find(ctx, f.Redis, name, ids)
		if err != nil {
			return 0, err
		}
		var waiting []queue.Found
		for _, q := range found {
			there[q.ID] = there[q.ID] || q.State != ""
			if q.Waiting() {
				waiting = append(waiting, q)
			}
		}
		errs = append(errs, f.endAll(ctx, waiting, func(tasks.Task) *tasks.TaskError { return f.Cancelled }))
		if len(waiting) > 0 { // the tombstones would count among the waiting tasks
			errs = append(errs, queue.SweepTombstones(ctx, f.Redis, []string{name}))
		}
	}
	for _, id := range ids {
		if !there[id] { // it has ended
			errs = append(errs, f.Redis.ZRem(ctx, taskstate.CancelledKey, id).Err())
		}
	}
	return 0, errors.Join(errs...)
}

// endArchived writes the failure documents of archived tasks and empties the archive,
// whether a person or asynq archived them. asynq would drop entries silently.
func (f *fleet) endArchived(ctx context.Context) (time.Duration, error) {
	var errs []error
	for _, name := range tasks.Queues() {
		ids, err := queue.Archived(ctx, f.Redis, name, archivedPage)
		if err != nil {
			return 0, err
		}
		if len(ids) == 0 {
			continue
		}
		found, err := queue.Find(ctx, f.Redis, name, ids)
		if err != nil {
			return 0, err
		}
		errs = append(errs, f.endAll(ctx, found, func(tasks.Task) *tasks.TaskError {
			return &tasks.TaskError{Code: tasks.CodeArchived, Message: "the queue was told to give it up"}
		}))
	}
	return 0, errors.Join(errs...)
}
