package handlers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// counters are what a task has used up over all its runs. They stand in Redis,
// because the queue's own count includes what was nobody's failure.
type counters struct {
	attempts  int  // runs that sent a call
	calls     int  // calls sent
	settled   int  // of these, those that the API refused: nothing was billed
	unpaid    int  // attempts given back: the API was closed, not the task at fault
	crashes   int  // workers that died while they were at it
	cancelled bool // a person wants it to end
}

// spent is how many attempts count against the task.
func (c counters) spent() int { return c.attempts - c.unpaid }

// countersOf reads them as takeUp gives them.
func countersOf(values []any) counters {
	number := func(i int) int {
		s, _ := values[i].(string)
		n, _ := strconv.Atoi(s)
		return n
	}
	return counters{
		attempts: number(0), calls: number(1), settled: number(2), unpaid: number(3), crashes: number(4), cancelled: values[5] != nil,
	}
}

// readCounters looks at a task that nobody here is at.
func (h *Handlers) readCounters(ctx context.Context, id string) (counters, error) {
	values, err := h.cfg.Redis.HMGet(ctx, tasks.LiveKey(id), "attempts", "calls", "settled", "unpaid", "crashes", "cancelled").Result()
	if err != nil {
		return counters{}, fmt.Errorf("read the counters: %w", err)
	}
	return countersOf(values), nil
}

// count writes down that a call is about to be sent for these tasks. A call that cannot
// be counted is not sent, else a sick Redis would make it free to try for ever; nor is
// one for a task that was taken from this process while it was not there.
func (h *Handlers) count(ctx context.Context, riders []*job) error {
	holders, ended := make([]*redis.StringCmd, len(riders)), make([]*redis.BoolCmd, len(riders))
	pipe := h.cfg.Redis.Pipeline()
	for i, j := range riders {
		key := tasks.LiveKey(j.task.ID)
		holders[i], ended[i] = pipe.HGet(ctx, key, "holder"), pipe.HExists(ctx, key, "ended")
		pipe.HIncrBy(ctx, key, "calls", 1)
		if j.startedAt.IsZero() {
			pipe.HIncrBy(ctx, key, "attempts", 1)
		}
		pipe.ExpireAt(ctx, key, j.task.Deadline.Add(tasks.LiveTTL))
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) && h.cfg.on(guardCount) {
		return fmt.Errorf("count the call: %w", err)
	}
	taken := false
	for i, j := range riders {
		if by := holders[i].Val(); h.cfg.on(guardFence) && (by != "" && by != h.presence.me || ended[i].Val()) {
			taken, j.held = true, false // it is not ours to release
		}
	}
	if taken {
		h.uncount(ctx, riders)
		return errHeld()
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

// uncount takes back what was written down of a call that is not sent after all.
func (h *Handlers) uncount(ctx context.Context, riders []*job) {
	pipe := h.cfg.Redis.Pipeline()
	for _, j := range riders {
		pipe.HIncrBy(ctx, tasks.LiveKey(j.task.ID), "calls", -1)
		if j.startedAt.IsZero() {
			pipe.HIncrBy(ctx, tasks.LiveKey(j.task.ID), "attempts", -1)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Warn("a call that was not sent stays counted", "error", clean(err.Error()))
	}
}

// giveBack makes the current attempt uncounted.
func (j *job) giveBack() {
	if j.startedAt.IsZero() || j.givenBack {
		return
	}
	j.givenBack = true
	j.counts.unpaid++
}

// unsettled is how many calls were sent whose outcome nobody learned, or whose answer
// was lost before it was stored: each may have been billed for nothing.
func (j *job) unsettled() int {
	return max(0, j.counts.calls-j.counts.settled-j.refused-j.answered)
}

// announce leaves the result where those who wait without a bucket find it, for a
// while, and ends the run. Large results are left to the bucket.
func (h *Handlers) announce(ctx context.Context, j *job, document []byte) {
	const most = 64 << 10
	key := tasks.LiveKey(j.task.ID)
	queue := tasks.Queue(j.task.Kind, j.task.Lane)
	pipe := h.cfg.Redis.Pipeline()
	if len(document) <= most {
		pipe.HSet(ctx, key, "result", document)
	}
	pipe.HSet(ctx, key, "ended", 1) // for a process that does not know yet, see count
	pipe.HDel(ctx, key, "holder")
	pipe.Expire(ctx, key, tasks.LiveTTL)
	pipe.ZRem(ctx, tasks.DeadlinesKey(queue), j.task.ID)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Debug("result not announced", "task", j.task.ID, "error", err)
		return
	}
	j.held = false
}
