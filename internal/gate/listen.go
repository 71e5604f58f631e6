package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

// The channels: of one process, and of all that wait at any gate.
const (
	toPrefix = "neuronmill:gate:to:"
	newsName = "neuronmill:gate:news"
)

const (
	quiet = time.Minute      // a connection on which nothing came for so long is pinged
	reply = 10 * time.Second // and has so long to answer
)

// listen receives messages of the gates until ctx ends. Without them callers ask by the
// clock, which costs more questions.
func (g *Gate) listen(ctx context.Context) {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		began := time.Now()
		err := g.subscribe(ctx)
		g.deaf()
		if ctx.Err() != nil {
			return
		}
		g.cfg.Log.Debug("gates do not reach this process", "error", err)
		if time.Since(began) > time.Minute {
			pause = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// deaf makes all that wait for a message ask by the clock.
func (g *Gate) deaf() {
	if g.listening.Swap(false) {
		g.wakeAll()
	}
}

func (g *Gate) wakeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.lines {
		l.announce()
	}
}

// announce wakes all that wait at a gate; the caller holds the lock.
func (l *lines) announce() {
	close(l.news)
	l.news = make(chan struct{})
}

// subscribe receives until the connection breaks or ctx ends. go-redis' own channel
// would ping every three seconds.
func (g *Gate) subscribe(ctx context.Context) error {
	sub := g.cfg.Redis.Subscribe(ctx)
	defer func() { _ = sub.Close() }()
	if err := sub.Subscribe(ctx, toPrefix+g.process, newsName); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	confirmed, pinged := 0, false
	for {
		wait := quiet
		if pinged || confirmed < 2 {
			wait = reply
		}
		got, err := sub.ReceiveTimeout(ctx, wait)
		switch {
		case err == nil:
			pinged = false
		case errors.Is(err, os.ErrDeadlineExceeded) && !pinged && confirmed == 2:
			if err := sub.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
			pinged = true
			continue
		default:
			return fmt.Errorf("receive: %w", err)
		}
		switch m := got.(type) {
		case *redis.Subscription:
			if confirmed++; confirmed == 2 {
				g.listening.Store(true)
				g.wakeAll() // polling callers may stand in line now
			}
		case *redis.Message:
			g.receive(m)
		}
	}
}

// receive takes in a message: the name of a gate that has changed, or (common.lua) when
// to ask for bulk, the number of the question that says so, and the gate.
func (g *Gate) receive(m *redis.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.Channel == newsName {
		if l := g.lines[m.Payload]; l != nil {
			l.announce()
		}
		return
	}
	var wait int64
	var t turn
	var name string
	if _, err := fmt.Sscan(m.Payload, &wait, &t.seq, &name); err != nil {
		return
	}
	l := g.lines[name]
	if l == nil || t.seq <= l.turn.seq {
		return
	}
	t.due = time.Now().Add(time.Duration(wait) * time.Microsecond)
	l.turn = t
	close(l.woken)
	l.woken = make(chan struct{})
}
