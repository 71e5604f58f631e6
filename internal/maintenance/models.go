package maintenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Each queue has a set of the models of its tasks. While the set has one model, tasks wait
// for their gate in place; with several models they are deferred, see package queue.
// Producers add to the set. countModels removes models without tasks and adds models of
// tasks that entered the queue otherwise, such as scheduled ones.

// pass is one walk through a queue's list of pending tasks, page by page from its head.
type pass struct {
	offset int64
	seen   map[string]bool
	known  []string // models of the queue when the pass began
}

const censusPage = 500 // tasks that one script reads, to bound how long it blocks Redis

// countModels reads the next page of each queue.
func (f *fleet) countModels(ctx context.Context) (next time.Duration, err error) {
	queues, err := f.look(ctx, recent)
	if err != nil {
		return 0, err
	}
	backlogs, err := queue.Backlogs(ctx, f.Redis, those(queues, func(h queue.Holds) bool { return h.Pending || h.Models }))
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, b := range backlogs {
		if b.Pending > 0 || len(b.Models) > 1 {
			errs = append(errs, f.countModelsOf(ctx, b))
		}
	}
	return 0, errors.Join(errs...)
}

func (f *fleet) countModelsOf(ctx context.Context, b queue.Backlog) error {
	p := f.passes[b.Queue]
	if p == nil {
		p = &pass{seen: map[string]bool{}, known: b.Models}
		f.passes[b.Queue] = p
	}
	found, err := queue.ModelsOf(ctx, f.Redis, b.Queue, p.offset, censusPage)
	if err != nil {
		return err
	}
	for _, m := range found {
		p.seen[m] = true
	}
	if added := missing(found, b.Models); len(added) > 0 {
		if err := queue.AddModels(ctx, f.Redis, b.Queue, added...); err != nil {
			return err
		}
	}
	if p.offset += censusPage; p.offset < b.Pending {
		return nil
	}
	delete(f.passes, b.Queue)
	for _, m := range p.known {
		if p.seen[m] {
			continue
		}
		if err := queue.ForgetModel(ctx, f.Redis, b.Queue, m); err != nil {
			return err
		}
	}
	return nil
}

// missing returns the members of found that known lacks.
func missing(found, known []string) []any {
	has := map[string]bool{}
	for _, m := range known {
		has[m] = true
	}
	var out []any
	for _, m := range found {
		if !has[m] {
			out = append(out, m)
		}
	}
	return out
}

const scanPage = 1000 // members of a sorted set that one run reads

// repairLists checks one page of the deferred tasks of each queue. It adds a task that is
// missing from the list of its model, and removes entries without a task.
func (f *fleet) repairLists(ctx context.Context) (next time.Duration, err error) {
	var errs []error
	for _, name := range tasks.Queues() {
		models, err := f.Redis.SMembers(ctx, queue.ModelsKey(name)).Result()
		if err != nil {
			return 0, fmt.Errorf("read the models of %s: %w", name, err)
		}
		for _, m := range models {
			errs = append(errs, f.dropOrphans(ctx, name, m))
		}
		errs = append(errs, f.relist(ctx, name))
	}
	return 0, errors.Join(errs...)
}

// scan returns the next members of a sorted set and advances the cursor of key.
func (f *fleet) scan(ctx context.Context, key string) ([]string, error) {
	pairs, cursor, err := f.Redis.ZScan(ctx, key, f.cursors[key], "", scanPage).Result()
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", key, err)
	}
	f.cursors[key] = cursor
	if cursor == 0 {
		delete(f.cursors, key)
	}
	ids := make([]string, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		ids = append(ids, pairs[i])
	}
	return ids, nil
}

// dropOrphans removes entries of tasks that are gone or pending from one page of a model's
// deferred tasks.
func (f *fleet) dropOrphans(ctx context.Context, name, model string) error {
	ids, err := f.scan(ctx, queue.DeferredKey(name, model))
	if err != nil || len(ids) == 0 {
		return err
	}
	n, err := queue.DropOrphans(ctx, f.Redis, name, model, ids)
	if n > 0 {
		f.Log.Debug("deferred entries without a task dropped", "queue", name, "model", model, "count", n)
	}
	return err
}

// relist adds missing tasks of one page of a queue's retries to the deferred ones.
func (f *fleet) relist(ctx context.Context, name string) error {
	ids, err := f.scan(ctx, queue.RetryKey(name))
	if err != nil || len(ids) == 0 {
		return err
	}
	added, err := queue.Relist(ctx, f.Redis, name, ids)
	for model, n := range added {
		f.Log.Warn("deferred tasks had lost their place", "queue", name, "model", model, "count", n)
	}
	return err
}
