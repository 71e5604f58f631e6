package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// WakeChannel carries two messages. "QUEUE ID" announces a task in a queue that was empty;
// see wake.lua. "- QUEUE ID" says that a process worked off the announcement and found the
// queue empty again.
const WakeChannel = "neuronmill:wake"

const (
	quiet        = 10 * time.Second // a subscription is pinged after so long without a message
	replyWithin  = 5 * time.Second  // and has so long to answer
	countEvery   = time.Minute      // interval at which the subscribers are counted
	smallFleet   = 4                // up to so many subscribers all ask at once
	askersWanted = 2.5              // of a larger fleet, on average
)

// Run listens for announcements until ctx ends. While it cannot, the empty queues are asked
// every second.
func (in *Intake) Run(ctx context.Context, r redis.UniversalClient) error {
	if in.poll > 0 {
		<-ctx.Done()
		return nil
	}
	var lost time.Time // start of a series of failures
	told := false
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		heard, err := in.listen(ctx, r)
		in.deaf()
		if ctx.Err() != nil {
			return nil
		}
		if heard || lost.IsZero() {
			lost = time.Now()
		}
		if heard {
			pause, told = 200*time.Millisecond, false
		}
		away := in.doubt != nil && in.doubt() // then the cause is logged already
		if !told && !away && time.Since(lost) > time.Minute {
			told = true
			in.log.Info("announcements of tasks do not arrive: the worker asks every second instead", "error", err)
		} else {
			in.log.Debug("announcements of tasks do not arrive", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// listen subscribes and receives until the connection breaks or ctx ends. It reports
// whether Redis confirmed the subscription. go-redis' own channel hides lost connections.
func (in *Intake) listen(ctx context.Context, r redis.UniversalClient) (heard bool, err error) {
	sub := r.Subscribe(ctx)
	defer func() { _ = sub.Close() }()
	if err := sub.Subscribe(ctx, WakeChannel); err != nil {
		return false, fmt.Errorf("subscribe: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	for pinged := false; ; {
		wait := quiet
		if pinged || !heard {
			wait = replyWithin
		}
		got, err := sub.ReceiveTimeout(ctx, wait)
		switch {
		case err == nil:
			pinged = false
		case errors.Is(err, os.ErrDeadlineExceeded) && heard && !pinged:
			if err := sub.Ping(ctx); err != nil {
				return heard, fmt.Errorf("ping: %w", err)
			}
			pinged = true
			continue
		default:
			return heard, fmt.Errorf("receive: %w", err)
		}
		switch m := got.(type) {
		case *redis.Subscription:
			if !heard {
				heard = true
				in.resubscribed()
				helpers.Go(func() { in.publish(ctx, r) })
			}
		case *redis.Message:
			in.heard(ctx, m.Payload)
		}
	}
}

// publish says which announcements this process worked off, and counts the subscribers.
func (in *Intake) publish(ctx context.Context, r redis.UniversalClient) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		in.countSubscribers(ctx, r)
		for counted := true; counted; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				counted = false
			case done := <-in.emptied:
				_ = r.Publish(ctx, WakeChannel, "- "+done).Err() // if it is lost, the others ask needlessly
			}
		}
	}
}

// countSubscribers counts the processes that listen. On a cluster they are all subscribed
// at the node of the channel's slot.
func (in *Intake) countSubscribers(ctx context.Context, r redis.UniversalClient) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var mu sync.Mutex
	var total int64
	count := func(ctx context.Context, node redis.Cmdable) error {
		numbers, err := node.PubSubNumSub(ctx, WakeChannel).Result()
		mu.Lock()
		defer mu.Unlock()
		total += numbers[WakeChannel]
		return err //nolint:wrapcheck // only its presence matters
	}
	var err error
	if cluster, ok := r.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return count(ctx, node) })
	} else {
		err = count(ctx, r)
	}
	if err != nil {
		return // the last count stands
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.subscribers = total
}

// deaf makes the takes ask by the clock.
func (in *Intake) deaf() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.subscribed = false
	in.wake()
}

// resubscribed makes all queues unknown: announcements may have been missed.
func (in *Intake) resubscribed() {
	in.mu.Lock()
	in.subscribed = true
	in.mu.Unlock()
	in.suspect()
}

// suspect makes all queues unknown, so that each is asked.
func (in *Intake) suspect() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, q := range in.queues {
		q.seq++
	}
	in.wake()
}

// heard handles one message. In a large fleet a few processes ask at once. The others wait
// some milliseconds, in which the task may have been worked off.
func (in *Intake) heard(ctx context.Context, message string) {
	rest, emptied := strings.CutPrefix(message, "- ")
	name, id, _ := strings.Cut(rest, " ")
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.byName[name]
	switch {
	case q == nil:
	case emptied:
		q.emptied = id
	case in.subscribers <= smallFleet || in.share(id)*float64(in.subscribers) < askersWanted:
		in.announced(q, id)
	default:
		time.AfterFunc(4*time.Millisecond+rand.N(8*time.Millisecond), func() {
			in.mu.Lock()
			defer in.mu.Unlock()
			if q.emptied != id && ctx.Err() == nil {
				in.announced(q, id)
			}
		})
	}
}

// announced makes a queue unknown and wakes the takes. The caller holds the mutex.
func (in *Intake) announced(q *intakeQueue, id string) {
	q.seq++
	q.waker = id
	in.wake()
}

// share is this process' place among all for one announcement, evenly from 0 to 1.
func (in *Intake) share(id string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	mixed := (h.Sum64() ^ in.me) * 0x9E3779B97F4A7C15
	return float64(mixed>>11) / (1 << 53)
}
