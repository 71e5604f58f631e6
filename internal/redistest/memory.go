// Package redistest gives tests a Redis: Memory in this process, for exact tests in
// synthetic time.
package redistest

import (
	"context"
	"net"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Memory is an empty Redis that works inside a synctest bubble: no socket is opened,
// and keys expire by the bubble's clock. It ends with the test.
func Memory(t testing.TB) *redis.Client {
	t.Helper()
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true)
	client := redis.NewClient(&redis.Options{
		Addr:            "127.0.0.1:6379", // never dialled; a name would be looked up
		Dialer:          func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		Protocol:        2, // what the in-memory server speaks without a second try
		DisableIdentity: true,
	})
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client
}
