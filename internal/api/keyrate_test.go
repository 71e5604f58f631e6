package api

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// commandCounter counts the commands of a client.
type commandCounter struct{ n int }

func (c *commandCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commandCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n++
		return next(ctx, cmd)
	}
}

func (c *commandCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// allowed is how many of n requests may run, spread over some servers.
func allowed(t *testing.T, k keys.Key, n int, servers ...*keyRates) (ran int) {
	for i := range n {
		if servers[i%len(servers)].use(t.Context(), k) == 0 {
			ran++
		}
	}
	return ran
}

func TestTheRateOfAKeyHoldsOverAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, log := redistest.New(t), slog.New(slog.DiscardHandler)
		a, b := server.Client(&redistest.Link{}), server.Client(&redistest.Link{})
		count := &commandCounter{}
		a.AddHook(count)
		one, two := newKeyRates(a, log), newKeyRates(b, log)
		k := keys.Key{ID: "0123456789abcdef", PerMinute: 60}

		require.Equal(t, 6, allowed(t, k, 100, one, two), "a tenth of the minute at once, however many servers")
		require.Equal(t, time.Second, one.use(t.Context(), k), "the true wait")
		sum := 0
		for range 60 {
			time.Sleep(time.Second)
			sum += allowed(t, k, 10, one, two)
		}
		require.Equal(t, 60, sum)
		before := count.n
		require.Zero(t, allowed(t, k, 100, one))
		require.LessOrEqual(t, count.n-before, 1, "a key that must wait asks nothing")
		other := keys.Key{ID: "fedcba9876543210", PerMinute: 6000}
		before = count.n
		require.Equal(t, 100, allowed(t, other, 100, one))
		require.Equal(t, 100, count.n-before, "one command a request")
		require.Zero(t, one.use(t.Context(), keys.Key{ID: "none"}))

		time.Sleep(time.Minute)
		require.Empty(t, a.Keys(t.Context(), "neuronmill:keyrate:*").Val(), "each key expires")
	})
}

func TestNoRequestIsRefusedBecauseRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, link := redistest.New(t), &redistest.Link{}
		l := newKeyRates(server.Client(link), slog.New(slog.DiscardHandler))
		k := keys.Key{ID: "0123456789abcdef", PerMinute: 60}
		link.Cut()
		require.Equal(t, 6, allowed(t, k, 6, l), "no request is refused because of that")
		require.Zero(t, allowed(t, k, 100, l), "but the server counts by itself")
		link.Mend()
		time.Sleep(2 * awayTime)
		require.Equal(t, 6, allowed(t, k, 100, l))
		require.NotEmpty(t, server.Client(link).Keys(t.Context(), "neuronmill:keyrate:*").Val(), "Redis counts again")
	})
}
