// Package redistest gives tests a Redis in this process, for exact tests in synthetic
// time. Memory returns a client of one. New returns a server whose network breaks on
// demand, and whose data can be lost or set back.
package redistest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/memredis"
	"github.com/redis/go-redis/v9"
)

// Memory returns a client of an empty Redis that works inside a synctest bubble: it opens
// no socket, and keys expire by the bubble's clock. It ends with the test.
func Memory(t testing.TB) *redis.Client {
	t.Helper()
	return New(t).Client(nil)
}

// Server is a Redis in this process. It ends with the test.
type Server struct {
	t    testing.TB
	mini *memredis.Server

	mu      sync.Mutex
	refusal string // error for all commands; empty when they run
	life    int    // counts the restarts
	about   string // what CountAbout counts; empty for nothing
	counts  map[string]int
}

// New starts an empty server.
func New(t testing.TB) *Server {
	s := &Server{t: t, mini: memredis.New(replicationID(0))}
	s.mini.ClockTTL(true)
	s.mini.SetHook(s.refuse)
	t.Cleanup(s.mini.Close)
	return s
}

// replicationID returns the replication ID after a number of restarts.
func replicationID(restarts int) string { return fmt.Sprintf("%06d", restarts) }

// Client returns a client over a link; a nil Link never breaks. The client is closed with
// the test.
func (s *Server) Client(l *Link) *redis.Client {
	if l == nil {
		l = &Link{}
	}
	client := redis.NewClient(&redis.Options{
		Addr:            "127.0.0.1:6379", // never dialled; a host name would be resolved
		Dialer:          l.dialer(s),
		Protocol:        2, // the in-memory server accepts it at the first try
		DisableIdentity: true,
		// Waiting for a connection would use timers that outlive a bubble. The client
		// pauses between dials under a mutex, which stops a bubble's clock.
		PoolSize:      2000,
		DialerRetries: 1,
	})
	s.t.Cleanup(func() {
		broken := l.Mend() // otherwise closing would wait for a new connection
		client.Close()
		if broken { // after many failed dials the client checks the connection once a second
			time.Sleep(1100 * time.Millisecond)
		}
	})
	return client
}
