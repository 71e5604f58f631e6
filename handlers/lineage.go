package handlers

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// lineage knows which Redis this process works with, and notices when another one
// answers: that may have lost the last moments and what its workers were at. It looks
// before a task is taken over a connection that is newer than the last look. It is a
// hook of the client; a cluster's client has none for its connections, there only the
// heartbeat looks.
type lineage struct {
	redis   redis.UniversalClient
	changed func(context.Context) // another server answers than at the last look
	turn    chan struct{}         // holds one: who looks
	dialled atomic.Bool           // there are newer connections than the last look
	mu      sync.Mutex
	id      string // see package replid; empty before the first look
}

// look asks which server this is, unless no connection is newer than the last look and
// the caller does not insist. Others that look meanwhile wait for the answer.
func (l *lineage) look(ctx context.Context, insist bool) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !l.dialled.Swap(false) && !insist {
		return nil
	}
	id, err := replid.Ask(ctx, l.redis)
	if err != nil {
		l.dialled.Store(true)
		return fmt.Errorf("ask redis which one it is: %w", err)
	}
	if id == "" {
		return nil // it does not tell, or not now
	}
	l.mu.Lock()
	was := l.id
	l.id = id
	l.mu.Unlock()
	if was != "" && was != id {
		l.changed(ctx)
	}
	return nil
}

// took reports whether the Redis that took a task is the one that is there, and has
// been all the time.
func (l *lineage) took(t tasks.Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return t.Redis != "" && t.Redis == l.id
}

// lost reports whether a task was taken by a Redis that is no more.
func (l *lineage) lost(t tasks.Task) bool { return t.Redis != "" && !l.took(t) }

// DialHook sees new connections.
func (l *lineage) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		l.dialled.Store(true)
		return conn, err
	}
}

// ProcessHook changes nothing.
func (*lineage) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook changes nothing.
func (*lineage) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
