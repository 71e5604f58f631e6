package handlers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// A task that is run has a holder: the process that is at it. While that process
// lives nobody else runs the task, however long Redis was away and whatever became of
// its lease; once it is dead, the task's next run counts a crash.

const (
	beatEvery  = 3 * time.Second
	presentFor = 20 * time.Second // without a beat a process counts as dead; less than it takes for a lease to come back
	settling   = 10 * time.Second // after Redis was away: by then all living processes have shown themselves again
)

// presence shows the fleet that this process lives, and knows how long Redis has been
// well without a break.
type presence struct {
	redis   redis.UniversalClient
	me      string
	lineage lineage
	onLoss  func(context.Context) // Redis has forgotten this process, or what it is at
	onBeat  func(context.Context)

	mu     sync.Mutex
	beaten time.Time // the last beat that arrived; zero before the first
	since  time.Time // of the unbroken row of beats
	broken bool      // there was a break before it
}

func newPresence(r redis.UniversalClient) *presence {
	p := &presence{redis: r, me: uuid.NewString()}
	p.lineage.redis, p.lineage.changed, p.lineage.turn = r, p.another, make(chan struct{}, 1)
	return p
}

// workerKey is there while a process lives.
func workerKey(process string) string { return "neuronmill:worker:" + process }

// Run beats until ctx ends and then takes the process out.
func (p *presence) Run(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatEvery)
			defer cancel()
			_ = p.redis.Del(last, workerKey(p.me)).Err() // else it expires
			return nil
		case <-tick.C:
			p.beat(ctx)
			p.onBeat(ctx)
		}
	}
}

// beat shows that this process lives.
func (p *presence) beat(ctx context.Context) {
	beating, cancel := context.WithTimeout(ctx, beatEvery)
	defer cancel()
	if err := p.lineage.look(beating, true); err != nil {
		return
	}
	_, err := p.redis.SetArgs(beating, workerKey(p.me), 1, redis.SetArgs{TTL: presentFor, Get: true}).Result()
	known := err == nil
	if err != nil && !errors.Is(err, redis.Nil) {
		return
	}
	p.mu.Lock()
	first, now := p.beaten.IsZero(), time.Now()
	lost := !first && !known
	if first || lost || now.Sub(p.beaten) > 2*beatEvery+time.Second {
		p.since, p.broken = now, !first
	}
	p.beaten = now
	p.mu.Unlock()
	if lost && p.onLoss != nil {
		p.onLoss(ctx)
	}
}

// another server has taken the place of the one that was there.
func (p *presence) another(ctx context.Context) {
	p.mu.Lock()
	p.since, p.broken = time.Now(), true
	p.mu.Unlock()
	if p.onLoss != nil {
		p.onLoss(ctx)
	}
}

// settled reports whether Redis has been well for so long that a process which is not
// there is dead.
func (p *presence) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.since.IsZero() && time.Since(p.since) >= settling && time.Since(p.beaten) < settling
}

// sinceBreak is when Redis came back the last time, zero when it has not been away.
func (p *presence) sinceBreak() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.broken {
		return time.Time{}
	}
	return p.since
}

// await lets a task that is older than a break of Redis, or was taken by one that is no
// more, wait until all living processes have said what they are at.
func (p *presence) await(ctx context.Context, t tasks.Task) error {
	if err := p.lineage.look(ctx, false); err != nil {
		return err
	}
	p.mu.Lock()
	since, broken := p.since, p.broken
	p.mu.Unlock()
	if since.IsZero() {
		since = time.Now() // no beat has arrived yet
	}
	if p.lineage.lost(t) || broken && !t.CreatedAt.After(since) {
		return wait(ctx, time.Until(since.Add(settling)))
	}
	return nil
}

// takeUp makes a process the holder unless there is another, and gives the counters.
var takeUp = redis.NewScript(`
local had = redis.call("HMGET", KEYS[1], "holder", "attempts", "calls", "settled", "unpaid", "crashes", "cancelled", "ended", "idle")
if not had[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1])
  redis.call("EXPIREAT", KEYS[1], ARGV[2])
  had[1] = ARGV[1]
end
if had[9] and had[1] == ARGV[1] then redis.call("HDEL", KEYS[1], "idle") end
return had`)

// idle marks a task whose holder does nothing for it but wait for its turn. The next
// call, and the next run, take the mark away.
var idle = redis.NewScript(`
local had = redis.call("HMGET", KEYS[1], "holder", "calls")
if had[1] == ARGV[1] and (had[2] or "0") == ARGV[2] then redis.call("HSET", KEYS[1], "idle", 1) end
return 1`)

// blame counts a crash for a task whose holder died, once, unless that only waited.
var blame = redis.NewScript(`
local had = redis.call("HMGET", KEYS[1], "holder", "idle")
if had[1] ~= ARGV[1] then return 0 end
redis.call("HDEL", KEYS[1], "holder", "idle")
if had[2] then return 0 end
return redis.call("HINCRBY", KEYS[1], "crashes", 1)`)

// letGo ends a process' hold on a task that comes again, and counts what the run came
// to. A record that is gone stays away.
var letGo = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call("HINCRBY", KEYS[1], "settled", ARGV[2]) end
if tonumber(ARGV[3]) > 0 then redis.call("HINCRBY", KEYS[1], "unpaid", ARGV[3]) end
if redis.call("HGET", KEYS[1], "holder") == ARGV[1] then redis.call("HDEL", KEYS[1], "holder", "idle") end
return 1`)

// errHeld is the handback of a task that another living process is at.
func errHeld() error { return &handback{after: 5 * time.Second, why: "another worker is at it"} }

// take makes this process the task's holder and reads its counters. Whoever finds a
// dead holder counts the crash.
func (h *Handlers) take(ctx context.Context, j *job) error {
	key, me := tasks.LiveKey(j.task.ID), h.presence.me
	for {
		values, err := takeUp.Run(ctx, h.cfg.Redis, []string{key}, me, j.task.Deadline.Add(tasks.LiveTTL).Unix()).Slice()
		if err != nil {
			j.held = true // perhaps: the answer may be what was lost
			return fmt.Errorf("take the task: %w", err)
		}
		holder, _ := values[0].(string)
		if holder == me {
			j.held = true
			j.counts = countersOf(values[1:])
			return nil
		}
		if h.cfg.on(guardHolder) {
			alive, err := h.cfg.Redis.Exists(ctx, workerKey(holder)).Result()
			if err != nil {
				return fmt.Errorf("look for the holder: %w", err)
			}
			if alive == 1 || !h.presence.settled() {
				return errHeld()
			}
		}
		crashes, err := blame.Run(ctx, h.cfg.Redis, []string{key}, holder).Int()
		if err != nil {
			return fmt.Errorf("count a crash: %w", err)
		}
		if crashes > 0 {
			h.cfg.Log.Warn("a worker died while it was at this task", "task", j.task.ID, "kind", j.task.Kind)
		}
	}
}

// release ends a run whose task comes again: the process holds it no longer, and what
// the run came to is counted.
func (h *Handlers) release(ctx context.Context, j *job) {
	if !j.held {
		return
	}
	j.held = false
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	unpaid := 0
	if j.givenBack {
		unpaid = 1
	}
	if err := letGo.Run(ctx, h.cfg.Redis, []string{tasks.LiveKey(j.task.ID)}, h.presence.me, j.refused, unpaid).Err(); err != nil {
		h.cfg.Log.Warn("a run's outcome is not counted", "task", j.task.ID, "error", clean(err.Error()))
	}
}

// idleAfter is how long a task waits for its turn until a death of its holder would not
// be put down to it.
const idleAfter = time.Second

// idles marks the task as one that waits, should that take long, until done is called.
func (h *Handlers) idles(ctx context.Context, j *job) (done func() bool) {
	if !j.held {
		return func() bool { return true }
	}
	id, calls := j.task.ID, j.counts.calls
	return time.AfterFunc(idleAfter, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := idle.Run(ctx, h.cfg.Redis, []string{tasks.LiveKey(id)}, h.presence.me, calls).Err(); err != nil {
			h.cfg.Log.Debug("a waiting task is not marked", "task", id, "error", clean(err.Error()))
		}
	}).Stop
}

// holdAgain says anew what this process is at, after Redis has forgotten it.
func (h *Handlers) holdAgain(ctx context.Context) {
	pipe := h.cfg.Redis.Pipeline()
	h.running.Range(func(id, value any) bool {
		if j, ok := value.(*job); ok && j.inBody.Load() {
			pipe.HSet(ctx, tasks.LiveKey(j.task.ID), "holder", h.presence.me)
			pipe.ExpireAt(ctx, tasks.LiveKey(j.task.ID), j.task.Deadline.Add(tasks.LiveTTL))
		}
		return true
	})
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Warn("running tasks not marked again", "error", clean(err.Error()))
	}
}
