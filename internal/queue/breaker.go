package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Breaker is the circuit breaker for a Redis that refuses commands. Without it asynq
// repeats a refused take thousands of times a second. It is a hook of the Redis client: a
// refused take waits and then reports an empty queue, and a refused login delays all new
// connections. Takes are its probes: while Redis refuses, a Server asks without waiting for
// announcements.
type Breaker struct {
	log  *slog.Logger
	away outage

	mu       sync.Mutex
	stopping context.Context // its end ends all waits
	suspect  func()          // makes the server take; nil without one
	refused  int             // refusals in a row
	last     time.Time       // time of the last refusal
	until    time.Time       // no new connection before this time
}

const (
	firstPause = 250 * time.Millisecond
	mostPause  = 5 * time.Second
)

// refusals maps the first word of an error reply to its cause or remedy. A retry would get
// the same reply.
var refusals = map[string]string{
	"NOAUTH": login, "WRONGPASS": login, "NOPERM": "the user of NEURONMILL_REDIS_URL may not do what a worker does",
	"READONLY": "it is a replica: NEURONMILL_REDIS_URL must lead to the master",
	"OOM":      "its memory is full: raise maxmemory, or wait until tasks are done",
	"MISCONF":  "it cannot write to its disk",
	"LOADING":  "it is starting", "MASTERDOWN": "it waits for its master", "CLUSTERDOWN": "the cluster is not whole",
	"NOREPLICAS": "it misses its replicas", "BUSY": "a script holds it up",
}

const login = "it wants another password: put user and password into NEURONMILL_REDIS_URL"

// refusal returns the first word of an error reply if it is in refusals; else empty.
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

// Refuses reports whether an error is the reply of a Redis that takes no commands for now:
// it is full, read-only, starting. Such a command has not run.
func Refuses(err error) bool { return refusal(err) != "" }

// NewBreaker returns a Breaker that logs to log.
func NewBreaker(log *slog.Logger) *Breaker {
	return &Breaker{log: log, away: outage{log: log}, stopping: context.Background()}
}

// StopWith ends all waits when ctx ends.
func (b *Breaker) StopWith(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopping = ctx
}

// sick reports whether Redis refuses commands or cannot be reached.
func (b *Breaker) sick() bool {
	if b.away.active() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused > 0
}

// onSuspicion sets the func that makes a server take.
func (b *Breaker) onSuspicion(take func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspect = take
}

// well records a successful command. A command that began before the last refusal does not
// count.
func (b *Breaker) well(began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refused == 0 || began.Before(b.last) {
		return
	}
	b.log.Info("redis is well again")
	b.refused, b.until = 0, time.Time{}
}

// note records a refusal and returns how long to wait.
func (b *Breaker) note(word string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = time.Now()
	if b.refused == 0 {
		b.log.Error("redis refuses: the worker waits until it is well", "answer", word, "why", refusals[word])
	}
	pause := min(firstPause<<min(b.refused, 6), mostPause)
	b.refused++
	pause = pause/2 + rand.N(pause/2)
	if refusals[word] == login {
		b.until = time.Now().Add(pause)
	}
	return pause
}

func (b *Breaker) wait(ctx context.Context, pause time.Duration) {
	if pause <= 0 {
		return
	}
	b.mu.Lock()
	stopping := b.stopping
	b.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-stopping.Done():
	case <-time.After(pause):
	}
}

// DialHook delays new connections while logins are refused.
func (b *Breaker) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		b.mu.Lock()
		pause := time.Until(b.until)
		b.mu.Unlock()
		b.wait(ctx, pause)
		return next(ctx, network, addr)
	}
}

// ProcessHook checks the replies to takes, and refusals of other commands.
func (b *Breaker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmd)
		word := refusal(err)
		queue, take := takesFrom(cmd)
		if take && ctx.Err() == nil {
			if unreachable(err) {
				b.away.failed(queue, err)
			} else {
				b.away.answered(queue)
			}
		}
		switch {
		case take && word != "":
			b.wait(ctx, b.note(word))
			cmd.SetErr(redis.Nil) // means an empty queue: asked again later, and not logged each time
			return redis.Nil
		case take && (err == nil || errors.Is(err, redis.Nil)):
			b.well(began)
		case refusals[word] == login:
			b.note(word)
			b.probe()
		case word != "" && slices.Contains(needed, cmd.Name()):
			b.probe()
		}
		return err
	}
}

// needed names commands that no worker can do without. A refusal of others, such as
// subscriptions, may be meant.
var needed = []string{"evalsha", "eval", "set", "hset", "zadd"}

// probe makes the server take, to see whether takes are refused too.
func (b *Breaker) probe() {
	b.mu.Lock()
	suspect := b.suspect
	b.mu.Unlock()
	if suspect != nil {
		suspect()
	}
}

// ProcessPipelineHook changes nothing: pipelines are sent by timers or once per task.
func (b *Breaker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// takesFrom returns the key of the queue from which a command takes a task:
// EVALSHA sha 4 pending paused active lease ...
func takesFrom(cmd redis.Cmder) (key string, ok bool) {
	args := cmd.Args()
	if len(args) != 9 || cmd.Name() != "evalsha" && cmd.Name() != "eval" {
		return "", false
	}
	keys := make([]string, 4)
	for i := range keys {
		keys[i] = fmt.Sprint(args[3+i])
	}
	return keys[0], isTake(keys, args[7:])
}
