// Package maintenance runs the housekeeping of a fleet. Its jobs requeue tasks of dead
// workers (reaper), end expired and cancelled tasks (expirer), re-admit deferred tasks,
// and compare the bucket with the queue (reconciler).
//
// Every worker runs a Service. The worker with the leader lock runs the jobs; the others
// stand by. The leader serves all queues, whatever kinds its own worker takes.
//
// leader.go elects the leader and runs the table of jobs; jobs.go is that table.
package maintenance

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The keys in Redis. ScheduleKey is a hash from a job's name to two times: the start of
// the last run and of the next one, in milliseconds of Redis' clock.
const (
	LockKey     = "neuronmill:leader"
	ScheduleKey = "neuronmill:maintenance"
)

const (
	lockFor    = 6 * time.Second
	renewEvery = 2 * time.Second
	// A leader that could not renew its lock stops lockSlack before the lock expires,
	// because its clock may run slower than that of Redis.
	lockSlack = time.Second
)

var (
	//go:embed resign.lua
	resignLua string
	resign    = redis.NewScript(resignLua)
)

// Job is a piece of housekeeping that the leader repeats.
type Job struct {
	Name  string
	Every time.Duration // from the start of a run to the start of the next
	// Run does the job once. Its context ends when this process is no longer the leader.
	// A next above zero replaces Every once.
	Run func(ctx context.Context) (next time.Duration, err error)
	// Since, if set, makes a run due at once when the last one began before that time.
	Since func() time.Time
}

// Service runs jobs while this process is the leader of the fleet.
type Service struct {
	Redis redis.UniversalClient // the caller's to close
	Owner string                // this process
	Jobs  []Job
	Log   *slog.Logger
}

// Run works until ctx ends, then releases the lock and returns nil.
func (s *Service) Run(ctx context.Context) error {
	defer s.resign(ctx)
	for ctx.Err() == nil {
		locked, err := s.tryLock(ctx)
		if locked {
			err = s.lead(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.Log.Debug("this worker is not the leader", "error", err)
		}
		sleep(ctx, renewEvery)
	}
	return nil
}

// tryLock acquires the leader lock if it is free. A process that stands by sends no other
// command.
func (s *Service) tryLock(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	err := s.Redis.SetArgs(ctx, LockKey, s.Owner, redis.SetArgs{Mode: "NX", TTL: lockFor}).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take the leader lock: %w", err)
	}
	return true, nil
}

// renew extends the leader lock. It returns the time until which this process is the
// leader, zero when it is not. The order of the two commands makes them safe: a lock that
// was extended cannot pass to another process before it is read, and extending the lock of
// another leader does no harm.
func (s *Service) renew(ctx context.Context) (until time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	asked := time.Now()
	pipe := s.Redis.Pipeline()
	extended := pipe.PExpire(ctx, LockKey, lockFor)
	owner := pipe.Get(ctx, LockKey)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return time.Time{}, fmt.Errorf("renew the leader lock: %w", err)
	}
	if !extended.Val() || owner.Val() != s.Owner {
		return time.Time{}, nil
	}
	return asked.Add(lockFor - lockSlack), nil
}

// clock returns how far Redis' clock is ahead of ours.
func (s *Service) clock(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	asked := time.Now()
	now, err := s.Redis.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("read the clock of redis: %w", err)
	}
	return now.Sub(asked), nil
}

// lead runs the jobs until the lock is lost or ctx ends. It returns after all jobs have
// stopped.
func (s *Service) lead(ctx context.Context) error {
	until, err := s.renew(ctx)
	if err != nil || until.IsZero() {
		return err
	}
	clock, err := s.clock(ctx)
	if err != nil {
		return err
	}
	leading, lost := context.WithCancel(ctx)
	fence := time.AfterFunc(time.Until(until), lost)
	defer fence.Stop()
	times, err := s.schedule(leading)
	if err != nil {
		lost()
		return err
	}
	s.Log.Debug("this worker is the leader")
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer lost()
	for _, job := range s.Jobs {
		last, next := times[job.Name].in(clock)
		r := &runner{s: s, job: job, clock: clock, last: last, next: next}
		jobs.Go(func() { r.run(leading) })
	}
	for {
		sleep(leading, renewEvery)
		if leading.Err() != nil {
			return nil
		}
		switch until, err := s.renew(leading); {
		case err != nil:
			// The lock may outlast this failure of Redis.
			s.Log.Debug("leader lock not renewed", "error", err)
		case until.IsZero():
			s.Log.Info("this worker is no longer the leader")
			return nil
		default:
			fence.Reset(time.Until(until))
		}
	}
}

// resign releases the lock, so that another worker becomes the leader before it expires.
func (s *Service) resign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := resign.Run(ctx, s.Redis, []string{LockKey}, s.Owner).Err(); err != nil {
		s.Log.Debug("leader lock not released", "error", err) // it expires
	}
}

// times are the start of a job's last run and of its next one, in milliseconds of Redis'
// clock.
type times struct{ last, next int64 }

// in converts the times to this process' clock, which is behind that of Redis by clock.
func (t times) in(clock time.Duration) (last, next time.Time) {
	if t.last > 0 {
		last = time.UnixMilli(t.last).Add(-clock)
	}
	if t.next > 0 {
		next = time.UnixMilli(t.next).Add(-clock)
	}
	return last, next
}

// schedule reads the times of all jobs.
func (s *Service) schedule(ctx context.Context) (map[string]times, error) {
	fields, err := s.Redis.HGetAll(ctx, ScheduleKey).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ScheduleKey, err)
	}
	all := map[string]times{}
	for name, value := range fields {
		a, b, _ := strings.Cut(value, " ")
		last, _ := strconv.ParseInt(a, 10, 64)
		next, _ := strconv.ParseInt(b, 10, 64)
		all[name] = times{last, next}
	}
	return all, nil
}

// runner runs one job while this process is the leader.
type runner struct {
	s          *Service
	job        Job
	clock      time.Duration
	last, next time.Time
	failing    time.Time // of the first of the consecutive failures; zero after a success
	told       bool      // the failure was logged at info
}

// sinceEvery is how often a runner calls a job's Since.
const sinceEvery = time.Second

// longestGap bounds the wait for the first run, in case a clock is wrong.
const longestGap = time.Hour

func (r *runner) run(ctx context.Context) {
	if most := time.Now().Add(longestGap); r.next.After(most) {
		r.next = most
	}
	for r.awaitTurn(ctx) {
		r.last = time.Now()
		next, err := r.once(ctx)
		if ctx.Err() != nil {
			return // the next leader runs it again
		}
		if next <= 0 {
			next = r.job.Every
		}
		r.next = r.last.Add(next)
		if errors.Is(err, errNoTasks) {
			continue
		}
		r.note(err)
		r.record(ctx)
	}
}

// awaitTurn waits until the job is due; it returns false when ctx has ended.
func (r *runner) awaitTurn(ctx context.Context) bool {
	for {
		gap := time.Until(r.next)
		if r.job.Since != nil {
			if r.job.Since().After(r.last) {
				return ctx.Err() == nil
			}
			gap = min(gap, sinceEvery)
		}
		if sleep(ctx, gap); ctx.Err() != nil {
			return false
		}
		if !time.Now().Before(r.next) {
			return true
		}
	}
}

// once runs the job. It turns a panic into an error, so that the worker and the other
// jobs go on.
func (r *runner) once(ctx context.Context) (next time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.s.Log.Error("a maintenance job panicked", "job", r.job.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.job.Run(ctx)
}

// note logs once that a job has failed for more than a minute, and once that it works
// again.
func (r *runner) note(err error) {
	switch {
	case err == nil:
		if r.told {
			r.s.Log.Info("maintenance job works again", "job", r.job.Name)
		}
		r.failing, r.told = time.Time{}, false
	case r.failing.IsZero():
		r.failing = time.Now()
		r.s.Log.Debug("maintenance job failed", "job", r.job.Name, "error", err)
	case !r.told && time.Since(r.failing) >= time.Minute:
		r.told = true
		r.s.Log.Info("maintenance job fails since more than a minute", "job", r.job.Name, "error", err)
	}
}

// record stores the job's times for the next leader. A job with an interval below lockFor
// is not stored: it is due for any new leader.
func (r *runner) record(ctx context.Context) {
	if r.job.Every < lockFor {
		return
	}
	value := fmt.Sprintf("%d %d", r.last.Add(r.clock).UnixMilli(), r.next.Add(r.clock).UnixMilli())
	if err := r.s.Redis.HSet(ctx, ScheduleKey, r.job.Name, value).Err(); err != nil {
		r.s.Log.Debug("time of maintenance not written", "job", r.job.Name, "error", err)
	}
}

// sleep waits until d has passed or ctx has ended.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
