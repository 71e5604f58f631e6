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
	ended     bool // it has its result
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
		attempts: number(0), calls: number(1), settled: number(2), unpaid: number(3), crashes: number(4),
		cancelled: values[5] != nil, ended: values[6] != nil,
	}
}

// readCounters looks at a task that nobody here is at.
func (h *Handlers) readCounters(ctx context.Context, id string) (counters, error) {
	values, err := h.cfg.Redis.HMGet(ctx, tasks.LiveKey(id), "attempts", "calls", "settled", "unpaid", "crashes", "cancelled", "ended").Result()
	if err != nil {
		return counters{}, fmt.Errorf("read the counters: %w", err)
	}
	return countersOf(values), nil
}

// countCall counts a call unless another process has become the task's holder or ended
// it, as happens when Redis lost its last moments or this process was not there.
var countCall = redis.NewScript(`
local had = redis.call("HMGET", KEYS[1], "holder", "ended", "idle")
if had[1] and had[1] ~= ARGV[1] or had[2] then return 0 end
if not had[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1])
  redis.call("EXPIREAT", KEYS[1], ARGV[3])
end
if had[3] then redis.call("HDEL", KEYS[1], "idle") end
redis.call("HINCRBY", KEYS[1], "calls", 1)
if ARGV[2] == "1" then redis.call("HINCRBY", KEYS[1], "attempts", 1) end
return 1`)

// countFirst takes a task and counts its first call, unless anything was ever done for
// it or a person has cancelled it.
var countFirst = redis.NewScript(`
local had = redis.call("HMGET", KEYS[1], "holder", "ended", "cancelled", "crashes", "calls")
if had[1] and had[1] ~= ARGV[1] or had[2] or had[3] or had[4] or (had[5] or "0") ~= "0" then return 0 end
redis.call("HSET", KEYS[1], "holder", ARGV[1], "calls", 1, "attempts", 1)
redis.call("EXPIREAT", KEYS[1], ARGV[2])
return 1`)

// errKnown: something was done for a task that was taken for new.
var errKnown = errors.New("the task is not new")

// countNew counts the call of a task that nobody holds, as its first.
func (h *Handlers) countNew(ctx context.Context, j *job) error {
	j.inBody.Store(true)
	n, err := countFirst.Run(ctx, h.cfg.Redis, []string{tasks.LiveKey(j.task.ID)}, h.presence.me, j.task.Deadline.Add(tasks.LiveTTL).Unix()).Int()
	switch {
	case err != nil && h.cfg.on(guardCount):
		j.inBody.Store(false)
		j.held = true // perhaps: the answer may be what was lost
		return fmt.Errorf("count the first call: %w", err)
	case err == nil && n == 0 && h.cfg.on(guardFence):
		j.inBody.Store(false)
		return errKnown
	}
	j.held = true
	j.started()
	return nil
}

// started notes a call of this run; the first one makes it an attempt.
func (j *job) started() {
	j.counts.calls++
	if j.startedAt.IsZero() {
		j.startedAt = time.Now()
		j.counts.attempts++
	}
}

// count writes down that a call is about to be sent for these tasks. A call that cannot
// be counted is not sent, else a sick Redis would make it free to try for ever; nor is
// one with a task in it that another process is at.
func (h *Handlers) count(ctx context.Context, riders []*job) error {
	if len(riders) == 1 && !riders[0].held && riders[0].startedAt.IsZero() {
		return h.countNew(ctx, riders[0])
	}
	pipe := h.cfg.Redis.Pipeline()
	replies := make([]*redis.Cmd, len(riders))
	args := func(j *job) ([]string, []any) {
		return []string{tasks.LiveKey(j.task.ID)}, []any{h.presence.me, j.firstCall(), j.task.Deadline.Add(tasks.LiveTTL).Unix()}
	}
	for i, j := range riders {
		keys, args := args(j)
		replies[i] = countCall.EvalSha(ctx, pipe, keys, args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, j := range riders {
		if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
			keys, args := args(j)
			replies[i] = countCall.Eval(ctx, h.cfg.Redis, keys, args...)
		}
		if err := replies[i].Err(); err != nil && h.cfg.on(guardCount) {
			return fmt.Errorf("count the call: %w", err)
		}
	}
	lost := false
	for i, j := range riders {
		if n, err := replies[i].Int(); err == nil && n == 0 && h.cfg.on(guardFence) {
			j.held, lost = false, true
		}
	}
	if lost {
		h.uncount(ctx, riders)
		return errHeld()
	}
	for _, j := range riders {
		j.started()
	}
	return nil
}

// firstCall is 1 when a call would be the first of this run, which makes it an attempt.
func (j *job) firstCall() int {
	if j.startedAt.IsZero() {
		return 1
	}
	return 0
}

// uncount takes back what was counted for a call that is not sent.
func (h *Handlers) uncount(ctx context.Context, riders []*job) {
	pipe := h.cfg.Redis.Pipeline()
	for _, j := range riders {
		if j.held {
			pipe.HIncrBy(ctx, tasks.LiveKey(j.task.ID), "calls", -1)
			pipe.HIncrBy(ctx, tasks.LiveKey(j.task.ID), "attempts", int64(-j.firstCall()))
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Warn("calls that were not sent stay counted", "error", clean(err.Error()))
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

// endRecord notes in a task's live record that it has ended, for those who wait and for
// a process that does not know yet.
var endRecord = redis.NewScript(`
redis.call("HSET", KEYS[1], "ended", 1, unpack(ARGV, 2))
redis.call("HDEL", KEYS[1], "holder", "idle")
redis.call("EXPIRE", KEYS[1], ARGV[1])
return 1`)

// announce leaves the result where those who wait without a bucket find it, for a
// while, and ends the run. Large results are left to the bucket.
func (h *Handlers) announce(ctx context.Context, j *job, document []byte) {
	const most = 64 << 10
	args := []any{int(tasks.LiveTTL.Seconds())}
	if len(document) <= most {
		args = append(args, "result", document)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	keys, queue := []string{tasks.LiveKey(j.task.ID)}, tasks.Queue(j.task.Kind, j.task.Lane)
	pipe := h.cfg.Redis.Pipeline()
	ended := endRecord.EvalSha(ctx, pipe, keys, args...)
	done := pipe.ZRem(ctx, tasks.DeadlinesKey(queue), j.task.ID)
	_, _ = pipe.Exec(ctx) // each command has its own error
	if redis.HasErrorPrefix(ended.Err(), "NOSCRIPT") {
		ended = endRecord.Eval(ctx, h.cfg.Redis, keys, args...)
	}
	if err := errors.Join(ended.Err(), done.Err()); err != nil {
		h.cfg.Log.Debug("result not announced", "task", j.task.ID, "error", clean(err.Error()))
		return
	}
	j.held = false
}
