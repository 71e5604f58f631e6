package replid_test

import (
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAServerThatStartsAnewHasAnotherID(t *testing.T) {
	t.Parallel()
	server := realtest.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	first, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.Len(t, first, 12)
	again, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.Equal(t, first, again)
	server.Kill()
	server.Start()
	realtest.WaitTCP(t, server.Addr)
	second, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
}

// TestAServerThatIsEmptiedHasAnotherName: FLUSHALL keeps the replication id.
func TestAServerThatIsEmptiedHasAnotherName(t *testing.T) {
	t.Parallel()
	server := realtest.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	before, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.True(t, replid.HasMark(before, client.Get(t.Context(), replid.MarkKey).Val()))
	require.NoError(t, client.FlushAll(t.Context()).Err())
	require.False(t, replid.HasMark(before, client.Get(t.Context(), replid.MarkKey).Val()))
	after, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	require.Equal(t, before[:6], after[:6])
}

func TestAReplicaThatBecomesTheMasterHasAnotherID(t *testing.T) {
	t.Parallel()
	_, servers := realtest.RedisSentinel(t, "mill")
	replica := redis.NewClient(&redis.Options{Addr: servers[1].Addr})
	defer replica.Close()
	before, err := replid.Ask(t.Context(), replica)
	require.NoError(t, err)
	require.NoError(t, replica.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err())
	after, err := replid.Ask(t.Context(), replica)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
}

func TestAServerThatDoesNotTellHasNone(t *testing.T) {
	t.Parallel()
	server := realtest.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	require.NoError(t, client.Do(t.Context(), "ACL", "SETUSER", "default", "-info").Err())
	id, err := replid.Ask(t.Context(), client)
	require.NoError(t, err)
	require.Empty(t, id)
}
