package memredis_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/memredis"
	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// clients returns a client of an empty server for each way to connect.
func clients(t *testing.T) map[string]*redis.Client {
	t.Helper()
	open := func(network, addr string, dial func() (net.Conn, error)) *redis.Client {
		client := redis.NewClient(&redis.Options{
			Dialer: func(context.Context, string, string) (net.Conn, error) { return dial() },
			Addr:   addr, Network: network, Protocol: 2, DisableIdentity: true, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		})
		t.Cleanup(func() { client.Close() })
		return client
	}
	pipe := memredis.New("first")
	t.Cleanup(pipe.Close)

	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	served := memredis.New("first")
	done := make(chan error, 1)
	go func() { done <- served.Serve(listener) }()
	t.Cleanup(func() {
		listener.Close()
		require.ErrorIs(t, <-done, net.ErrClosed)
		served.Close()
	})
	return map[string]*redis.Client{
		"dialled":       open("tcp", "127.0.0.1:6379", pipe.Dial),
		"over a socket": open("unix", socket, func() (net.Conn, error) { return net.Dial("unix", socket) }),
	}
}

func TestAPipelineMayBeLongerThanWhatTheConnectionHolds(t *testing.T) {
	const count = 20_000
	value := strings.Repeat("v", 200)
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			pipe := client.Pipeline()
			for range count {
				pipe.Echo(t.Context(), value)
			}
			replies, err := pipe.Exec(t.Context())
			require.NoError(t, err)
			require.Len(t, replies, count)
			require.Equal(t, value, replies[count-1].(*redis.StringCmd).Val())
		})
	}
}

func TestTheReplicationIDIsTold(t *testing.T) {
	for name, client := range clients(t) {
		id, err := replid.Ask(t.Context(), client)
		require.NoError(t, err, name)
		require.True(t, strings.HasPrefix(id, "first"), name)
	}
}
