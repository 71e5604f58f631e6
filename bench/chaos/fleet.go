package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// failpoints are the instants at which a worker may be killed.
var failpoints = []string{
	"taken", "before-call", "after-call", "after-artefact",
	"before-result", "after-result", "before-pending-delete", "before-ack",
}

// fleet is a number of slots. In each slot short-lived workers run one after another.
type fleet struct {
	j       *journal
	binary  string
	env     []string
	limits  string
	slots   []*slot
	mu      sync.Mutex
	workers []*worker
	wrong   []string       // violations by workers
	thaw    sync.WaitGroup // waits for the zombies to continue
}

// slot has its own edges to Redis, the bucket and the provider.
type slot struct {
	number           int
	redis, store, ai *edge
	rng              *rand.Rand
	life             time.Duration // mean lifetime of its workers
}

// worker is one worker process.
type worker struct {
	*process
	number, slot int
	started      time.Time
	killed       time.Time // zero when it was not killed
	frozen       span      // from SIGSTOP to SIGCONT
}

func (f *fleet) start(s *slot, failpoint string) (*worker, error) {
	f.mu.Lock()
	number := len(f.workers)
	w := &worker{number: number, slot: s.number, started: time.Now()}
	f.workers = append(f.workers, w)
	f.mu.Unlock()
	env := append([]string{
		"NEURONMILL_REDIS_URL=redis://" + s.redis.addr() + "/0",
		"NEURONMILL_STORE_URL=s3://" + bucket + "/chaos?region=us-east-1&path_style=true&endpoint=http://" + s.store.addr(),
		fmt.Sprintf("CLOUDFLARE_BASE_URL=http://%s/w%d/client/v4", s.ai.addr(), number),
		"NEURONMILL_FAILPOINT=" + failpoint,
	}, f.env...)
	p, err := start(filepath.Join(f.j.dir, fmt.Sprintf("worker-%d.log", number)), env, f.binary, "worker", "--concurrency", "4", "--limits", f.limits)
	if err != nil {
		return nil, err
	}
	w.process = p
	f.j.note("worker starts", fmt.Sprintf("%d in slot %d, pid %d, failpoint %q", number, s.number, p.cmd.Process.Pid, failpoint))
	return w, nil
}

// died records that a worker was killed.
func (f *fleet) died(w *worker, how string) {
	f.mu.Lock()
	w.killed = time.Now()
	f.mu.Unlock()
	f.j.fault(how, fmt.Sprintf("worker %d, pid %d", w.number, w.cmd.Process.Pid))
}

// killed reports whether a worker was killed in a period.
func (f *fleet) killed(from, to time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.workers, func(w *worker) bool { return w.killed.After(from) && w.killed.Before(to) })
}

// live starts and ends workers of a slot until ctx ends, and leaves none running.
func (f *fleet) live(ctx context.Context, s *slot) error {
	for ctx.Err() == nil {
		failpoint := ""
		if s.rng.IntN(100) < 45 {
			failpoint = fmt.Sprintf("%s:%d", failpoints[s.rng.IntN(len(failpoints))], 1+s.rng.IntN(3))
		}
		w, err := f.start(s, failpoint)
		if err != nil {
			return err
		}
		life := time.Duration((0.3 + s.rng.ExpFloat64()) * float64(s.life))
		if failpoint != "" {
			life *= 3 // gives it time to reach the failpoint
		}
		select {
		case <-w.done:
		case <-ctx.Done():
		case <-time.After(life):
		}
		switch {
		case w.ended(0) && w.cmd.ProcessState.ExitCode() == 137:
			f.died(w, "kill at "+failpoint[:len(failpoint)-2])
		case w.ended(0):
			f.ended(w)
			sleep(ctx, 500*time.Millisecond) // the start failed: Redis or the bucket is unreachable
		case failpoint == "" && s.rng.IntN(100) < 12:
			f.drain(w)
		case failpoint == "" && s.rng.IntN(100) < 6:
			d := 30*time.Second + time.Duration(s.rng.IntN(20))*time.Second
			f.thaw.Go(func() { f.freeze(w, d) })
		default:
			w.kill()
			f.died(w, "kill at random")
		}
	}
	return nil
}

// ended checks a worker that ended by itself. That is allowed only at its start, with a
// message that a server is unreachable. A worker that was stopped while it started finds its
// time for that over when it continues.
func (f *fleet) ended(w *worker) {
	f.j.note("worker ended", fmt.Sprintf("%d: %s", w.number, w.cmd.ProcessState))
	ran := time.Since(w.started) - w.frozen.To.Sub(w.frozen.From)
	if code := w.cmd.ProcessState.ExitCode(); ran > 15*time.Second || code != 1 && code != 2 {
		f.complain("worker %d ended by itself after it ran for %s: %s", w.number, ran.Round(time.Second), w.cmd.ProcessState)
	}
}

// drainWithin is the longest time in which a worker with running calls must stop.
const drainWithin = 2 * time.Minute

// drain stops a worker as a deployment does. The worker must exit cleanly.
func (f *fleet) drain(w *worker) {
	f.j.fault("drain by SIGTERM", fmt.Sprintf("worker %d", w.number))
	w.signal(syscall.SIGTERM)
	if !w.ended(drainWithin) {
		f.complain("worker %d did not stop within %s of SIGTERM", w.number, drainWithin)
		w.kill()
		f.died(w, "kill at random")
		return
	}
	f.j.note("worker drained", fmt.Sprintf("%d: %s", w.number, w.cmd.ProcessState))
	if time.Since(w.started) > 5*time.Second && w.cmd.ProcessState.ExitCode() != 0 {
		f.complain("worker %d drained, but ended with: %s", w.number, w.cmd.ProcessState)
	}
}

// freeze makes a worker a zombie: it is stopped for longer than its leases last, then
// continues, and is killed later.
func (f *fleet) freeze(w *worker, d time.Duration) {
	end := f.j.begin("zombie by SIGSTOP", w.slot, fmt.Sprintf("worker %d", w.number))
	f.mu.Lock()
	w.frozen = span{From: time.Now()}
	f.mu.Unlock()
	w.signal(syscall.SIGSTOP)
	time.Sleep(d)
	f.mu.Lock()
	w.frozen.To = time.Now()
	f.mu.Unlock()
	w.signal(syscall.SIGCONT)
	end()
	if w.ended(5 * time.Second) {
		f.ended(w)
		return
	}
	w.kill()
	f.died(w, "kill at random")
}

func (f *fleet) complain(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

// running returns the workers that have not ended.
func (f *fleet) running() []*worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	var alive []*worker
	for _, w := range f.workers {
		if w.process != nil && !w.ended(0) {
			alive = append(alive, w)
		}
	}
	return alive
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
