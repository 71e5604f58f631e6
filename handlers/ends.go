package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// endsOnce is how many tasks the reaper ends side by side.
const endsOnce = 16

// endAll ends tasks side by side, and reports those that stay.
func (r *reaper) endAll(ctx context.Context, ids []string, found []queued, f func(tasks.Task) *tasks.Failure) {
	var g errgroup.Group
	g.SetLimit(endsOnce)
	for i, id := range ids {
		g.Go(func() error {
			task, _, _ := tasks.DecodeMessage(found[i].message)
			if err := r.end(ctx, id, found[i], f(task)); err != nil {
				r.h.cfg.Log.Debug("task not ended yet", "task", id, "error", clean(err.Error()))
			}
			return nil
		})
	}
	_ = g.Wait() // those that stay are met again
}

// endExpired ends tasks past their deadline that wait where no worker looks at them:
// scheduled for later, behind a closed gate, at the end of a long queue.
func (r *reaper) endExpired(ctx context.Context) {
	if !r.h.cfg.on(guardExpired) {
		return
	}
	for _, queue := range queues(r.h.cfg.Kinds) {
		for ctx.Err() == nil {
			n, err := r.endExpiredOf(ctx, queue)
			if err != nil {
				r.h.cfg.Log.Debug("deadlines not looked at", "queue", queue, "error", clean(err.Error()))
				return
			}
			if n == 0 {
				break
			}
		}
	}
}

// endExpiredOf deals with some deadlines that have passed, and says with how many.
func (r *reaper) endExpiredOf(ctx context.Context, queue string) (int, error) {
	key, now := tasks.DeadlinesKey(queue), time.Now()
	late := fmt.Sprint(now.Add(-expiredSlack).Unix())
	ids, err := r.h.cfg.Redis.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "-inf", Max: late, Count: 200}).Result()
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	found, err := r.look(ctx, queue, ids)
	if err != nil {
		return 0, err
	}
	// Whatever comes of it, they are looked at again only later.
	pipe := r.h.cfg.Redis.Pipeline()
	var waiting []string
	var where []queued
	for i, id := range ids {
		if found[i].state == "" {
			pipe.ZRem(ctx, key, id)
			continue
		}
		pipe.ZAddXX(ctx, key, redis.Z{Score: float64(now.Add(expiredEvery).Unix()), Member: id})
		if found[i].state != "active" {
			waiting, where = append(waiting, id), append(where, found[i])
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	r.endAll(ctx, waiting, where, func(t tasks.Task) *tasks.Failure { return deadlineExceeded(t.Deadline) })
	return len(ids), nil
}

// endCancelled ends cancelled tasks that no worker is at. One that is run is ended by
// its own worker, see heedCancels.
func (r *reaper) endCancelled(ctx context.Context) {
	if !r.h.cfg.on(guardCancel) {
		return
	}
	ids, err := r.h.cfg.Redis.ZRange(ctx, tasks.CancelledKey, 0, 999).Result()
	if err != nil || len(ids) == 0 {
		return
	}
	there := map[string]bool{}
	for _, queue := range tasks.Queues() {
		found, err := r.look(ctx, queue, ids)
		if err != nil {
			return
		}
		var waiting []string
		var where []queued
		for i, q := range found {
			there[ids[i]] = there[ids[i]] || q.state != ""
			if q.state != "" && q.state != "active" {
				waiting, where = append(waiting, ids[i]), append(where, q)
			}
		}
		r.endAll(ctx, waiting, where, func(tasks.Task) *tasks.Failure { return errCancelled })
	}
	for _, id := range ids {
		if !there[id] { // it has ended
			r.h.cfg.Redis.ZRem(ctx, tasks.CancelledKey, id)
		}
	}
}

// heedCancels ends what this process is at and a person has cancelled.
func (h *Handlers) heedCancels(ctx context.Context) {
	if !h.cfg.on(guardCancel) || h.cfg.Redis.ZCard(ctx, tasks.CancelledKey).Val() == 0 {
		return
	}
	var jobs []*job
	var ids []string
	h.running.Range(func(id, j any) bool {
		jobs, ids = append(jobs, j.(*job)), append(ids, id.(string))
		return true
	})
	if len(ids) == 0 {
		return
	}
	for i, since := range h.cfg.Redis.ZMScore(ctx, tasks.CancelledKey, ids...).Val() {
		if since > 0 {
			jobs[i].cancel()
		}
	}
}

// endArchived gives what was archived by others, or by the queue itself, its failure
// document, and empties the archive: the queue would drop entries without a word.
func (r *reaper) endArchived(ctx context.Context) {
	if !r.h.cfg.on(guardArchived) {
		return
	}
	for _, queue := range queues(r.h.cfg.Kinds) {
		ids, err := r.h.cfg.Redis.ZRange(ctx, "asynq:{"+queue+"}:archived", 0, 4999).Result()
		if err != nil {
			return
		}
		if len(ids) == 0 {
			continue
		}
		found, err := r.look(ctx, queue, ids)
		if err != nil {
			return
		}
		r.endAll(ctx, ids, found, func(tasks.Task) *tasks.Failure {
			return &tasks.Failure{Code: "archived", Message: "the queue was told to give it up"}
		})
	}
}
