package handlers

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// damper keeps a worker quiet while Redis refuses what it asks: without it the queue
// asks again at once, thousands of times a second. It sits in the Redis client: a take
// from a queue that is refused waits before it says that the queue is empty, and a
// refused login keeps all new connections waiting.
type damper struct {
	log *slog.Logger

	mu       sync.Mutex
	stopping context.Context // when it ends, nobody is kept waiting any more
	refused  int             // in a row
	last     time.Time       // of these
	until    time.Time       // no new connection before it
}

const (
	dampFirst = 250 * time.Millisecond
	dampMost  = 5 * time.Second
)

// refusals are the beginnings of error replies that the next try meets again, with
// what a person can do about them.
var refusals = map[string]string{
	"NOAUTH": login, "WRONGPASS": login, "NOPERM": "the user of NEURONMILL_REDIS_URL may not do what a worker does",
	"READONLY": "it is a replica: NEURONMILL_REDIS_URL must lead to the master",
	"OOM":      "its memory is full: raise maxmemory, or wait until tasks are done",
	"MISCONF":  "it cannot write to its disk",
	"LOADING":  "it is starting", "MASTERDOWN": "it waits for its master", "CLUSTERDOWN": "the cluster is not whole",
	"NOREPLICAS": "it misses its replicas", "BUSY": "a script holds it up",
}

const login = "it wants another password: put user and password into NEURONMILL_REDIS_URL"

// refusal is the word an error reply begins with, when it is one of refusals.
func refusal(err error) string {
	var reply redis.Error
	if err == nil || !errors.As(err, &reply) {
		return ""
	}
	word, _, _ := strings.Cut(reply.Error(), " ")
	if refusals[word] == "" {
		return ""
	}
	return word
}

// sick reports whether Redis refuses just now.
func (d *damper) sick() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused > 0
}

// well takes in that a command went well. One that began before the last refusal says
// nothing new.
func (d *damper) well(began time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused == 0 || began.Before(d.last) {
		return
	}
	d.log.Info("redis is well again")
	d.refused, d.until = 0, time.Time{}
}

// note takes in a refusal, and says how long to be quiet.
func (d *damper) note(word string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = time.Now()
	if d.refused == 0 {
		d.log.Error("redis refuses: the worker waits until it is well", "answer", word, "why", refusals[word])
	}
	quiet := min(dampFirst<<min(d.refused, 6), dampMost)
	d.refused++
	quiet = quiet/2 + rand.N(quiet/2)
	if refusals[word] == login {
		d.until = time.Now().Add(quiet)
	}
	return quiet
}

func (d *damper) stopWith(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = ctx
}

func (d *damper) wait(ctx context.Context, quiet time.Duration) {
	if quiet <= 0 {
		return
	}
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-stopping.Done():
	case <-time.After(quiet):
	}
}

// DialHook keeps new connections waiting while logins are refused.
func (d *damper) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d.mu.Lock()
		quiet := time.Until(d.until)
		d.mu.Unlock()
		d.wait(ctx, quiet)
		return next(ctx, network, addr)
	}
}

// ProcessHook looks at takes, and at refused logins of whatever command met them.
func (d *damper) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmd)
		word := refusal(err)
		switch {
		case isTake(cmd) && word != "":
			d.wait(ctx, d.note(word))
			cmd.SetErr(redis.Nil) // an empty queue: asked again later, and not logged each time
			return redis.Nil
		case isTake(cmd) && (err == nil || errors.Is(err, redis.Nil)):
			d.well(began)
		case refusals[word] == login:
			d.note(word)
		}
		return err
	}
}

// ProcessPipelineHook changes nothing: pipelines are sent by the clock or once a task.
func (d *damper) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// isTake reports whether a command is asynq's script that takes a task from a queue:
// EVALSHA sha 4 pending paused active lease ...
func isTake(cmd redis.Cmder) bool {
	args := cmd.Args()
	if len(args) < 7 || cmd.Name() != "evalsha" && cmd.Name() != "eval" {
		return false
	}
	first, _ := args[3].(string)
	last, _ := args[6].(string)
	return strings.HasSuffix(first, "}:pending") && strings.HasSuffix(last, "}:lease")
}
