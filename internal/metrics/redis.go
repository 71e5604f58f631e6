package metrics

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// WatchRedis measures the round trips of a client from now on. A second call with the same
// client does nothing.
func (m *Metrics) WatchRedis(client redis.UniversalClient) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watched[client] {
		return
	}
	m.watched[client] = true
	client.AddHook(redisHook{m.redis.WithLabelValues("command"), m.redis.WithLabelValues("pipeline"), m.redisErrors})
}

// redisHook measures round trips.
type redisHook struct {
	command, pipeline prometheus.Observer
	failed            prometheus.Counter
}

// DialHook leaves dialling alone.
func (redisHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

// ProcessHook measures a command.
func (h redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		begun := time.Now()
		err := next(ctx, cmd)
		if !blocks[cmd.Name()] {
			h.command.Observe(time.Since(begun).Seconds())
		}
		h.count(err)
		return err
	}
}

// ProcessPipelineHook measures a pipeline.
func (h redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		begun := time.Now()
		err := next(ctx, cmds)
		h.pipeline.Observe(time.Since(begun).Seconds())
		h.count(err)
		return err
	}
}

// blocks are commands whose time is a wait for data.
var blocks = map[string]bool{"xread": true, "xreadgroup": true, "blpop": true, "brpop": true, "blmove": true, "bzpopmin": true, "wait": true}

// count counts a failure. A reply that says "none" or "unknown script" is an answer, and a
// caller that gave up is no fault of Redis.
func (h redisHook) count(err error) {
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, context.Canceled) || redis.HasErrorPrefix(err, "NOSCRIPT") {
		return
	}
	h.failed.Inc()
}
