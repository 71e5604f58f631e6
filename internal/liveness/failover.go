package liveness

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
)

// detector detects a failover by the name of the memory of the Redis that answers. The new
// server, or one that was emptied, may have lost the latest writes and claims. The check
// runs before a claim if there is a new connection, or a cluster node that is new to this
// client, since the last check. See watch and Process.Remembers.
type detector struct {
	redis      redis.UniversalClient
	onFailover func(context.Context) error // called when another server answers than at the last check
	checking   chan struct{}               // a lock of one element: the caller that checks
	connected  atomic.Bool                 // a connection was opened after the last check
	mu         sync.Mutex
	id         string // name of the memory, see package replid; empty before the first check
}

func newDetector(r redis.UniversalClient, onFailover func(context.Context) error) *detector {
	return &detector{redis: r, onFailover: onFailover, checking: make(chan struct{}, 1)}
}

// check finds out whose memory answers, if a connection is newer than the last check or
// insist is set. Concurrent callers wait for the running check.
func (d *detector) check(ctx context.Context, insist bool) error {
	select {
	case d.checking <- struct{}{}:
		defer func() { <-d.checking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !d.connected.Swap(false) && !insist {
		return nil
	}
	id, err := replid.Ask(ctx, d.redis)
	if err != nil {
		d.connected.Store(true)
		return fmt.Errorf("ask redis for the name of its memory: %w", err)
	}
	if id == "" {
		return nil // the server tells no name, or none at the moment
	}
	d.mu.Lock()
	before := d.id
	d.id = id
	d.mu.Unlock()
	if before == "" || before == id {
		return nil
	}
	if err := d.onFailover(ctx); err != nil {
		d.mu.Lock()
		d.id = before // so that the next check does it again
		d.mu.Unlock()
		d.connected.Store(true)
		return err
	}
	return nil
}

// current reports whether the memory with this name answered at the last check.
func (d *detector) current(id string) bool { return id == d.last() }

// last returns the name at the last check; empty when there is none.
func (d *detector) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// watch adds a hook for new connections to the client, or to each node of a cluster client.
func (d *detector) watch(ctx context.Context) error {
	cluster, ok := d.redis.(*redis.ClusterClient)
	if !ok {
		d.redis.AddHook(&connectionHook{detector: d})
		return nil
	}
	hook := func(node *redis.Client) { node.AddHook(&connectionHook{detector: d}) } // a second hook on a node does no harm
	cluster.OnNewNode(hook)
	err := cluster.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error { hook(node); return nil })
	if err != nil {
		return fmt.Errorf("add hooks to the nodes of the cluster: %w", err)
	}
	return nil
}

// connectionHook detects new connections to a server, and the first command sent to it. The
// command matters in a cluster: a promoted replica may already have a connection, over
// which only the list of nodes was read.
type connectionHook struct {
	detector *detector
	used     atomic.Bool
}

// DialHook detects new connections.
func (c *connectionHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		c.detector.connected.Store(true)
		return conn, err
	}
}

func (c *connectionHook) use(command string) {
	if command != "cluster" && command != "info" && !c.used.Load() && !c.used.Swap(true) {
		c.detector.connected.Store(true)
	}
}

// ProcessHook detects the first command.
func (c *connectionHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.use(cmd.Name())
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook detects the first command.
func (c *connectionHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.use("")
		return next(ctx, cmds)
	}
}
