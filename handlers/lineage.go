package handlers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// lineage knows which Redis this process works with. One that has started anew, or has
// taken another's place, may have lost the last moments and what its workers were at.
// It is told by its run id, which is looked at before a task is taken over a connection
// that is newer than the last look. It is a hook of the client; a cluster's client has
// none for its connections, there only the heartbeat looks.
type lineage struct {
	redis   redis.UniversalClient
	changed func(context.Context) // another server answers than at the last look
	turn    chan struct{}         // holds one: who looks
	dialled atomic.Bool           // there are newer connections than the last look
	ids     string                // of the servers; empty before the first look
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
	ids, err := runIDs(ctx, l.redis)
	if err != nil {
		l.dialled.Store(true)
		return fmt.Errorf("ask redis for its run id: %w", err)
	}
	was := l.ids
	l.ids = ids
	if was != "" && was != ids {
		l.changed(ctx)
	}
	return nil
}

// runIDs is empty where a Redis does not tell.
func runIDs(ctx context.Context, r redis.UniversalClient) (string, error) {
	cluster, ok := r.(*redis.ClusterClient)
	if !ok {
		return runID(ctx, r)
	}
	var (
		mu  sync.Mutex
		ids []string
	)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		id, err := runID(ctx, master)
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
		return err
	})
	slices.Sort(ids)
	return strings.Join(ids, " "), err
}

func runID(ctx context.Context, r redis.Cmdable) (string, error) {
	info, err := r.InfoMap(ctx, "server").Result()
	var no redis.Error
	if errors.As(err, &no) && (redis.HasErrorPrefix(err, "NOPERM") || refusal(err) == "") {
		return "", nil
	}
	return info["Server"]["run_id"], err
}

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
