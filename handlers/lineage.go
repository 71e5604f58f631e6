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
// before a task is taken over a connection that is newer than the last look, or by a node
// of a cluster that was not asked before. See watch.
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

// watch has a client, or each node of a cluster's, tell of what is new.
func (l *lineage) watch(ctx context.Context, r redis.UniversalClient) error {
	cluster, ok := r.(*redis.ClusterClient)
	if !ok {
		r.AddHook(&newcomers{lineage: l})
		return nil
	}
	hook := func(node *redis.Client) { node.AddHook(&newcomers{lineage: l}) } // twice does no harm
	cluster.OnNewNode(hook)
	err := cluster.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error { hook(node); return nil })
	if err != nil {
		return fmt.Errorf("look at the nodes of the cluster: %w", err)
	}
	return nil
}

// newcomers sees new connections to a server, and its first command: a replica of a
// cluster that takes its master's place may have a connection already, over which it was
// asked for the nodes.
type newcomers struct {
	lineage *lineage
	met     atomic.Bool
}

// DialHook sees new connections.
func (n *newcomers) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		n.lineage.dialled.Store(true)
		return conn, err
	}
}

func (n *newcomers) meet(command string) {
	if command != "cluster" && command != "info" && !n.met.Load() && !n.met.Swap(true) {
		n.lineage.dialled.Store(true)
	}
}

// ProcessHook sees the first command.
func (n *newcomers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		n.meet(cmd.Name())
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook sees the first command.
func (n *newcomers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n.meet("")
		return next(ctx, cmds)
	}
}
