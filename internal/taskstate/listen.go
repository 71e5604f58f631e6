package taskstate

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// EndedChannel carries the ids of tasks as they end, see finish.lua.
const EndedChannel = "neuronmill:ended"

const (
	pingAfter   = 10 * time.Second // a subscription is pinged after so long without a message
	replyWithin = 5 * time.Second  // and has so long to answer
	verifyEvery = 15 * time.Second // how often some listeners are woken, in case a message was lost
	verifySome  = 16               // how many
	mostPause   = 5 * time.Second  // longest pause before the next subscription
)

// Listener is woken when its task may have ended. All listeners on one Redis client share
// one subscription, which ends with the last of them.
type Listener struct {
	C <-chan struct{} // has a value when the caller should look at the task

	hub   *endsHub
	id    string
	wake  chan struct{}
	woken time.Time // guarded by hubs.mu
}

// hubs are the subscriptions of this process.
var hubs = struct {
	mu       sync.Mutex
	byClient map[redis.UniversalClient]*endsHub
}{byClient: map[redis.UniversalClient]*endsHub{}}

// endsHub is the subscription on one client. hubs.mu guards its fields.
type endsHub struct {
	redis     redis.UniversalClient
	listeners map[string]map[*Listener]bool // by task
	heard     bool                          // the subscription is confirmed
	end       context.CancelFunc
}

// Listens reports whether the process has a confirmed subscription on a client.
func Listens(r redis.UniversalClient) bool {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	h := hubs.byClient[r]
	return h != nil && h.heard
}

// Listen returns a listener for a task. The caller looks at the task afterwards, since it
// may have ended before, and closes the listener.
func Listen(r redis.UniversalClient, id string) *Listener {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	h := hubs.byClient[r]
	if h == nil {
		ctx, end := context.WithCancel(context.Background())
		h = &endsHub{redis: r, listeners: map[string]map[*Listener]bool{}, end: end}
		hubs.byClient[r] = h
		go h.run(ctx)
	}
	l := &Listener{hub: h, id: id, wake: make(chan struct{}, 1), woken: time.Now()}
	l.C = l.wake
	if h.listeners[id] == nil {
		h.listeners[id] = map[*Listener]bool{}
	}
	h.listeners[id][l] = true
	return l
}

// Heard reports whether the end of the task will be heard. While it will not, the caller
// looks at the task at intervals.
func (l *Listener) Heard() bool {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	return l.hub.heard
}

// Close ends the listener.
func (l *Listener) Close() {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	h := l.hub
	if delete(h.listeners[l.id], l); len(h.listeners[l.id]) == 0 {
		delete(h.listeners, l.id)
	}
	if len(h.listeners) == 0 && hubs.byClient[h.redis] == h {
		delete(hubs.byClient, h.redis)
		h.end()
	}
}

// run keeps the subscription until ctx ends.
func (h *endsHub) run(ctx context.Context) {
	go h.verify(ctx)
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, mostPause) {
		if h.receive(ctx) {
			pause = 100 * time.Millisecond
		}
		h.setHeard(false)
		sleep(ctx, pause)
	}
}

// receive subscribes and wakes listeners until the connection breaks. It reports whether
// Redis confirmed the subscription. go-redis' own channel hides lost connections.
func (h *endsHub) receive(ctx context.Context) (confirmed bool) {
	sub := h.redis.Subscribe(ctx, EndedChannel)
	defer func() { _ = sub.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	for pinged := false; ; {
		within := pingAfter
		if pinged || !confirmed {
			within = replyWithin
		}
		got, err := sub.ReceiveTimeout(ctx, within)
		switch {
		case err == nil:
			pinged = false
		case errors.Is(err, os.ErrDeadlineExceeded) && confirmed && !pinged && sub.Ping(ctx) == nil:
			pinged = true
			continue
		default:
			return confirmed
		}
		switch m := got.(type) {
		case *redis.Subscription:
			confirmed = true
			h.setHeard(true)
		case *redis.Message:
			h.wake(m.Payload)
		}
	}
}

// setHeard wakes all listeners when the subscription comes or goes: they have missed what
// was published meanwhile, or look for themselves from now on.
func (h *endsHub) setHeard(heard bool) {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	if h.heard == heard {
		return
	}
	h.heard = heard
	for _, listeners := range h.listeners {
		for l := range listeners {
			l.signal()
		}
	}
}

func (h *endsHub) wake(id string) {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	for l := range h.listeners[id] {
		l.signal()
	}
}

// verify wakes the listeners that were not woken for the longest time, a bounded number at
// a time.
func (h *endsHub) verify(ctx context.Context) {
	for sleep(ctx, verifyEvery) {
		h.wakeSome()
	}
}

func (h *endsHub) wakeSome() {
	hubs.mu.Lock()
	defer hubs.mu.Unlock()
	var all []*Listener
	for _, listeners := range h.listeners {
		for l := range listeners {
			if time.Since(l.woken) >= verifyEvery {
				all = append(all, l)
			}
		}
	}
	slices.SortFunc(all, func(a, b *Listener) int { return a.woken.Compare(b.woken) })
	for _, l := range all[:min(len(all), verifySome)] {
		l.signal()
	}
}

// signal wakes a listener. The caller holds hubs.mu.
func (l *Listener) signal() {
	l.woken = time.Now()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// sleep waits for d; it returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
