package handlers

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// counters are what a task has used up over all its runs. They stand in Redis,
// because the queue's own count includes what was nobody's failure.
type counters struct {
	attempts  int  // runs that sent a call
	calls     int  // calls sent
	unpaid    int  // attempts given back: the API was closed, not the task at fault
	cancelled bool // a person wants it to end
}

// spent is how many attempts count against the task.
func (c counters) spent() int { return c.attempts - c.unpaid }

func (h *Handlers) counters(ctx context.Context, id string) (counters, error) {
	values, err := h.cfg.Redis.HMGet(ctx, tasks.LiveKey(id), "attempts", "calls", "unpaid", "cancelled").Result()
	if err != nil {
		return counters{}, fmt.Errorf("read the counters: %w", err)
	}
	number := func(i int) int {
		s, _ := values[i].(string)
		n, _ := strconv.Atoi(s)
		return n
	}
	return counters{attempts: number(0), calls: number(1), unpaid: number(2), cancelled: values[3] != nil}, nil
}

// count writes down that a call is about to be sent for these tasks. A call that cannot
// be counted is not sent, else a sick Redis would make it free to try for ever.
func (h *Handlers) count(ctx context.Context, riders []*job) error {
	pipe := h.cfg.Redis.Pipeline()
	for _, j := range riders {
		key := tasks.LiveKey(j.task.ID)
		pipe.HIncrBy(ctx, key, "calls", 1)
		if j.startedAt.IsZero() {
			pipe.HIncrBy(ctx, key, "attempts", 1)
		}
		pipe.ExpireAt(ctx, key, j.task.Deadline.Add(tasks.LiveTTL))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("count the call: %w", err)
	}
	for _, j := range riders {
		j.counts.calls++
		if j.startedAt.IsZero() {
			j.startedAt = time.Now()
			j.counts.attempts++
		}
	}
	return nil
}

// giveBack makes the current attempt uncounted.
func (h *Handlers) giveBack(ctx context.Context, j *job) {
	if j.startedAt.IsZero() {
		return
	}
	j.counts.unpaid++
	if err := h.cfg.Redis.HIncrBy(ctx, tasks.LiveKey(j.task.ID), "unpaid", 1).Err(); err != nil {
		h.cfg.Log.Warn("attempt stays counted", "task", j.task.ID, "error", err)
	}
}

// announce leaves the result where those who wait without a bucket find it, for a
// while. Large results are left to the bucket.
func (h *Handlers) announce(ctx context.Context, id string, document []byte) {
	const most = 64 << 10
	key := tasks.LiveKey(id)
	pipe := h.cfg.Redis.Pipeline()
	if len(document) <= most {
		pipe.HSet(ctx, key, "result", document)
	}
	pipe.Expire(ctx, key, tasks.LiveTTL)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Debug("result not announced", "task", id, "error", err)
	}
}
