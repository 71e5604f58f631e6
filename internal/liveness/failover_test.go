package liveness

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestAMasterOfAClusterThatStartsAnewIsNoticedBeforeATaskIsTaken: a cluster master that
// restarted may have lost the owners of tasks.
func TestAMasterOfAClusterThatStartsAnewIsNoticedBeforeATaskIsTaken(t *testing.T) {
	t.Parallel()
	servers := realtest.RedisCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(realtest.Addrs(servers), ",")})
	defer client.Close()
	use := func() error { return client.Incr(t.Context(), "used").Err() }
	require.NoError(t, use())
	found := 0
	process := New(client, func(context.Context) error { found++; return nil }, func(context.Context) {})
	err := process.failover.watch(t.Context())
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, use())
		require.NoError(t, process.CheckFailover(t.Context()))
		require.Zero(t, found)
	}
	for i, s := range servers {
		s.Kill()
		s.Start()
		require.Eventually(t, func() bool {
			return client.ForEachMaster(t.Context(), func(ctx context.Context, m *redis.Client) error {
				return m.Do(ctx, "CLUSTER", "COUNTKEYSINSLOT", 0).Err()
			}) == nil && use() == nil
		}, 30*time.Second, 50*time.Millisecond)
		require.Eventually(t, func() bool { return process.CheckFailover(t.Context()) == nil }, 30*time.Second, 50*time.Millisecond)
		require.Equal(t, i+1, found)
	}
}
