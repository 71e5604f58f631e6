package bulk

import (
	"context"
	_ "embed" // the script
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

const (
	pageSize   = 200 // tasks that a page looks at or changes
	atOnce     = 8   // tasks of a page that are changed in parallel
	mostPasses = 5   // of the list of live tasks, which moves while it is read
	leaseFor   = time.Minute
	pageTime   = 45 * time.Second
	retryAfter = 2 * time.Second // after a page that failed
	mostTries  = 10              // of a page
)

//go:embed step.lua
var stepLua string

var stepScript = redis.NewScript(stepLua)

func keyOf(tenant, id string) string { return "neuronmill:action:{" + tenant + "}:" + id }

// Start runs the action of a token, unless that was done. The same token always gives the same
// action. key is the id of the API key, for the log of actions.
func (r *Runner) Start(ctx context.Context, tenant, key, token string) (State, error) {
	var f frozen
	ok, err := r.Open(ctx, purpose(tenant), token, &f)
	switch {
	case err != nil:
		return State{}, err
	case !ok:
		return State{}, ErrToken
	}
	r.starting.Lock()
	defer r.starting.Unlock()
	id := idOf(token)
	known, err := r.Get(ctx, tenant, id)
	switch {
	case !errors.Is(err, ErrNotFound):
		return known, err
	case time.Now().After(f.Expires):
		return State{}, ErrExpired
	case !r.running.TryAcquire(1):
		return State{}, ErrBusy
	}
	now := time.Now().UTC()
	s := saved{State: State{ID: id, Action: f.Action, Filter: f.Filter, Before: f.Before, Status: Running, Count: f.Count, More: f.More, Key: key, StartedAt: now, UpdatedAt: now}}
	mine, err := r.step(ctx, tenant, s, leaseFor, true)
	if err != nil || !mine {
		r.running.Release(1)
		if err == nil { // another server was faster
			return r.Get(ctx, tenant, id)
		}
		return State{}, err
	}
	r.log(ctx, tenant, s, "begun", f.Count)
	go r.run(context.WithoutCancel(ctx), tenant, s)
	return s.State, nil
}

// Get returns an action of a tenant. It continues an action whose server has stopped.
func (r *Runner) Get(ctx context.Context, tenant, id string) (State, error) {
	s, held, err := r.read(ctx, tenant, id)
	if err != nil || s.Status == Ended || held {
		return s.State, err
	}
	s.Status = Interrupted
	if !r.running.TryAcquire(1) {
		return s.State, nil
	}
	mine, err := r.take(ctx, tenant, id)
	if err == nil && mine {
		s, _, err = r.read(ctx, tenant, id) // no other process writes it now
	}
	if err != nil || !mine || s.Status == Ended {
		r.running.Release(1)
		return s.State, err
	}
	s.Status = Running
	go r.run(context.WithoutCancel(ctx), tenant, s)
	return s.State, nil
}

// read reads an action and whether a server holds its lease.
func (r *Runner) read(ctx context.Context, tenant, id string) (s saved, held bool, err error) {
	fields, err := r.Redis.HMGet(ctx, keyOf(tenant, id), "state", "until").Result()
	if err != nil {
		return s, false, fmt.Errorf("read the action: %w", err)
	}
	text, _ := fields[0].(string)
	if text == "" {
		return s, false, ErrNotFound
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, false, fmt.Errorf("decode the action: %w", err)
	}
	var until int64
	_, _ = fmt.Sscan(fmt.Sprint(fields[1]), &until)
	now, err := r.Redis.Time(ctx).Result()
	if err != nil {
		return s, false, fmt.Errorf("read the time of Redis: %w", err)
	}
	return s, until > now.UnixMilli(), nil
}

// take takes the free lease of an action.
func (r *Runner) take(ctx context.Context, tenant, id string) (bool, error) {
	n, err := stepScript.Run(ctx, r.Redis, []string{keyOf(tenant, id)}, r.owner, leaseFor.Milliseconds(), int(KeptFor.Seconds()), "", "").Int()
	if err != nil {
		return false, fmt.Errorf("take the action: %w", err)
	}
	return n == 1, nil
}

// step stores the state of an action and extends its lease, or gives it back if lease is 0. It
// returns false if another server has the lease, or if a fresh action exists already.
func (r *Runner) step(ctx context.Context, tenant string, s saved, lease time.Duration, fresh bool) (bool, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return false, fmt.Errorf("encode the action: %w", err)
	}
	mode := ""
	if fresh {
		mode = "new"
	}
	n, err := stepScript.Run(ctx, r.Redis, []string{keyOf(tenant, s.ID)}, r.owner, lease.Milliseconds(), int(KeptFor.Seconds()), text, mode).Int()
	if err != nil {
		return false, fmt.Errorf("store the action: %w", err)
	}
	return n == 1, nil
}

// run runs an action from its position to its end, unless the server stops or an outage lasts.
func (r *Runner) run(ctx context.Context, tenant string, s saved) {
	defer r.running.Release(1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.Stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	for failures := 0; s.Status == Running; {
		skip := failures == mostTries-1 && r.Redis.Ping(ctx).Err() == nil
		err := r.page(ctx, tenant, &s, skip)
		s.UpdatedAt = time.Now().UTC()
		if failures++; err == nil {
			failures = 0
		}
		if ctx.Err() != nil || failures >= mostTries {
			s.Status = Interrupted
		}
		if !r.keep(ctx, tenant, s) {
			return
		}
		if err != nil && s.Status == Running {
			r.Log.Debug("a page of an action is tried again", "action", s.ID, "error", err)
			sleep(ctx, retryAfter)
		}
	}
	if s.Status == Ended {
		r.log(context.WithoutCancel(ctx), tenant, s, "ended", s.Changed)
	}
}

// keep stores an action after a page; false means that another server has it, or that Redis
// does not answer.
func (r *Runner) keep(ctx context.Context, tenant string, s saved) bool {
	lease := leaseFor
	if s.Status != Running {
		lease = 0
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	mine, err := r.step(limited, tenant, s, lease, false)
	if err != nil {
		r.Log.Warn("an action stops; whoever asks for it continues it", "action", s.ID, "error", err)
	}
	return err == nil && mine
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// log writes the beginning or the end of an action to the log of actions.
func (r *Runner) log(ctx context.Context, tenant string, s saved, what string, count int) {
	r.Log.Info("action "+what, "action", s.ID, "does", s.Action, "count", count, "tenant", tenant, "key", s.Key)
	entry := history.Action{At: time.Now().UTC(), Key: s.Key, Did: fmt.Sprintf("%s many: %s", s.Action, what), About: s.ID + " " + s.Filter.Words(true), Count: count}
	if err := r.History.Log(ctx, tenant, entry); err != nil {
		r.Log.Warn("the log of actions lacks one", "error", err)
	}
}

// page changes the tasks of the next page and moves the position. After an error the same page
// is repeated: tasks that were changed do not match again. skip leaves out the tasks that fail
// each time, such as one with a damaged document.
func (r *Runner) page(ctx context.Context, tenant string, s *saved, skip bool) error {
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	var err error
	if s.Action == Cancel {
		err = r.cancelPage(ctx, tenant, s, skip)
	} else {
		err = r.failedPage(ctx, tenant, s, skip)
	}
	if err == nil && s.Changed >= MostChanged {
		s.end()
	}
	return err
}

func (s *saved) end() { s.Status, s.EndedAt = Ended, time.Now().UTC() }

// failedPage retries or drops the failed tasks of a page of the dead letters.
func (r *Runner) failedPage(ctx context.Context, tenant string, s *saved, skip bool) error {
	client := r.Client(tenant)
	var ids []string
	last, seen := s.After, 0
	for letter, err := range client.DeadLetters(ctx, tasks.DeadLetterFilter{After: s.After, Limit: pageSize}) {
		if err != nil {
			return err
		}
		last = letter.ID
		if seen++; s.Filter.failed(letter, s.Before) {
			ids = append(ids, letter.ID)
		}
	}
	err := s.each(ctx, ids, skip, func(ctx context.Context, id string) (bool, error) {
		if s.Action == Drop {
			err := client.Drop(ctx, id)
			return err == nil, err
		}
		receipt, err := client.Retry(ctx, id)
		return err == nil && !receipt.Existing, err
	})
	if err != nil {
		return err
	}
	if s.After = last; seen < pageSize {
		s.end()
	}
	return nil
}

func (r *Runner) cancelPage(ctx context.Context, tenant string, s *saved, skip bool) error {
	client := r.Client(tenant)
	list, next, err := client.ListFrom(ctx, s.Filter.list(pageSize), s.Position, func(t tasks.Info) bool { return s.Filter.alive(t, s.Before) })
	if err != nil {
		return err
	}
	ids := make([]string, len(list))
	for i, t := range list {
		ids[i] = t.ID
	}
	before := s.Changed
	err = s.each(ctx, ids, skip, func(ctx context.Context, id string) (bool, error) {
		err := client.Cancel(ctx, id)
		return err == nil, err
	})
	s.InPass += s.Changed - before
	if err != nil {
		return err
	}
	if s.Position = next; next.Section >= 0 {
		return nil
	}
	// Tasks have moved in the list meanwhile, so it is read until nothing in it changes.
	if s.Pass++; s.InPass == 0 || s.Pass == mostPasses {
		s.end()
	}
	s.Position, s.InPass = tasks.Position{}, 0
	return nil
}

// each changes tasks in parallel and counts them. Its error is the first that may pass.
func (s *saved) each(ctx context.Context, ids []string, skip bool, change func(context.Context, string) (bool, error)) error {
	var changed, unchanged atomic.Int64
	var g errgroup.Group // a failure does not stop the others
	g.SetLimit(atOnce)
	for _, id := range ids {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			did, err := change(ctx, id)
			switch {
			case did:
				changed.Add(1)
			case err == nil || final(err) || skip && ctx.Err() == nil:
				unchanged.Add(1)
			default:
				return err
			}
			return nil
		})
	}
	err := g.Wait()
	s.Changed += int(changed.Load())
	if err == nil { // else they are met again
		s.Unchanged += int(unchanged.Load())
	}
	return err
}

// final reports whether a task can never be changed.
func final(err error) bool {
	var invalid tasks.ValidationError
	var lost *tasks.TaskError
	return errors.Is(err, tasks.ErrEnded) || errors.Is(err, tasks.ErrNotFound) || errors.Is(err, storage.ErrNotFound) ||
		errors.Is(err, tasks.ErrIdempotencyMismatch) || errors.As(err, &invalid) || errors.As(err, &lost)
}
