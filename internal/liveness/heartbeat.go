// Package liveness shows that this process lives, tells which other processes live, and
// detects a failover of Redis.
//
// A process sends a heartbeat every few seconds. A process without a heartbeat is dead, once
// Redis has answered for longer than the stabilisation. A failover, or an outage of Redis,
// restarts the stabilisation: living processes register again meanwhile.
package liveness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
)

const (
	heartbeatEvery = 3 * time.Second
	lifetime       = 20 * time.Second // of a heartbeat; shorter than the recovery of a lease
)

// Stabilisation is how long living processes have to register again after Redis came back.
const Stabilisation = 10 * time.Second

// Process sends the heartbeats of this process and tracks how long Redis has answered them
// without a break.
type Process struct {
	redis    redis.UniversalClient
	id       string
	failover *detector
	onLoss   func(context.Context) error
	onBeat   func(context.Context)

	mu     sync.Mutex
	beaten time.Time // time of the last heartbeat that arrived; zero before the first
	since  time.Time // start of the unbroken series of heartbeats
	broken bool      // Redis was away before since
}

// New returns a Process with an id of its own. It calls onLoss when Redis may have lost the
// heartbeat and the claims of this process, and onBeat at each later heartbeat.
func New(r redis.UniversalClient, onLoss func(context.Context) error, onBeat func(context.Context)) *Process {
	p := &Process{redis: r, id: uuid.NewString(), onLoss: onLoss, onBeat: onBeat}
	p.failover = newDetector(r, p.afterFailover)
	return p
}

// ID returns the id of this process.
func (p *Process) ID() string { return p.id }

// Key returns the heartbeat key of a process; the key exists while the process lives.
func Key(process string) string { return "neuronmill:worker:" + process }

// Start starts failover detection and sends the first heartbeat.
func (p *Process) Start(ctx context.Context) error {
	if err := p.failover.watch(ctx); err != nil {
		return err
	}
	p.Beat(ctx)
	return nil
}

// Run sends heartbeats until ctx ends, and then removes this process.
func (p *Process) Run(ctx context.Context) error {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatEvery)
			defer cancel()
			_ = p.redis.Del(last, Key(p.id)).Err() // on an error the key expires
			return nil
		case <-tick.C:
			p.Beat(ctx)
			p.onBeat(ctx)
		}
	}
}

// Beat sends one heartbeat and checks for a failover.
func (p *Process) Beat(ctx context.Context) {
	beating, cancel := context.WithTimeout(ctx, heartbeatEvery)
	defer cancel()
	if err := p.failover.check(beating, true); err != nil {
		return
	}
	_, err := p.redis.SetArgs(beating, Key(p.id), 1, redis.SetArgs{TTL: lifetime, Get: true}).Result()
	known := err == nil
	if err != nil && !errors.Is(err, redis.Nil) {
		return
	}
	p.mu.Lock()
	first, now := p.beaten.IsZero(), time.Now()
	lost := !first && !known
	if first || lost || now.Sub(p.beaten) > 2*heartbeatEvery+time.Second {
		p.since, p.broken = now, !first
	}
	p.beaten = now
	p.mu.Unlock()
	if lost {
		_ = p.onLoss(ctx) // the claims are still there: Redis has its memory
	}
}

// afterFailover starts the stabilisation and has the claims registered again.
func (p *Process) afterFailover(ctx context.Context) error {
	p.mu.Lock()
	p.since, p.broken = time.Now(), true
	p.mu.Unlock()
	return p.onLoss(ctx)
}

// Alive reports whether a process has a heartbeat, or may have one that Redis does not know
// yet.
func (p *Process) Alive(ctx context.Context, process string) (bool, error) {
	n, err := p.redis.Exists(ctx, Key(process)).Result()
	if err != nil {
		return false, fmt.Errorf("look for the owner's heartbeat: %w", err)
	}
	return n == 1 || !p.Settled(), nil
}

// Stale reports whether a living process no longer runs a task that it claimed in a memory
// of Redis: that memory is lost, and every process with a heartbeat has registered what it
// runs in the present one. A restart may bring back a claim that was released.
func (p *Process) Stale(memory string) bool {
	now := p.failover.last()
	if memory == "" || now == "" || memory == now || !p.Settled() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.since) >= Stabilisation+lifetime
}

// Memory returns the name of Redis' memory at the last check, see package replid.
func (p *Process) Memory() string { return p.failover.last() }

// Settled reports whether the stabilisation is over: a process without a heartbeat is dead.
func (p *Process) Settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.since.IsZero() && time.Since(p.since) >= Stabilisation && time.Since(p.beaten) < Stabilisation
}

// SinceBreak returns when Redis last came back; zero when it has not been away.
func (p *Process) SinceBreak() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.broken {
		return time.Time{}
	}
	return p.since
}

// CheckFailover checks which Redis answers, if a connection is newer than the last check.
func (p *Process) CheckFailover(ctx context.Context) error { return p.failover.check(ctx, false) }

// Current reports whether the memory of Redis with this name, see package replid, answered
// at the last check.
func (p *Process) Current(memory string) bool { return memory != "" && p.failover.current(memory) }

// Remembers reports whether Redis still has the memory of the last check. mark is the value
// of replid.MarkKey, read after a claim. It checks again when it is another one, or when
// the claim may have gone over a new connection.
func (p *Process) Remembers(ctx context.Context, mark string) (bool, error) {
	before := p.failover.last()
	forgot := before != "" && !replid.HasMark(before, mark)
	if err := p.failover.check(ctx, forgot); err != nil {
		return false, err
	}
	return !forgot && p.failover.current(before), nil
}

// StabilisationLeft returns how long a task must wait until all living owners have
// registered again; 0 means not at all. It applies to tasks older than the last break of
// Redis, and to tasks accepted by a Redis that another has replaced.
func (p *Process) StabilisationLeft(acceptedBy string, createdAt time.Time) time.Duration {
	p.mu.Lock()
	since, broken := p.since, p.broken
	p.mu.Unlock()
	if since.IsZero() {
		since = time.Now() // no heartbeat has arrived yet
	}
	replaced := acceptedBy != "" && !p.failover.current(acceptedBy)
	if replaced || broken && !createdAt.After(since) {
		return max(time.Until(since.Add(Stabilisation)), 0)
	}
	return 0
}
