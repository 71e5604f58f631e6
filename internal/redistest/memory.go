// Package redistest gives tests a Redis in this process, for exact tests in synthetic
// time: Memory is a client of one, New a server whose network breaks on demand and
// whose memory can be lost or set back.
package redistest

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Memory is a client of an empty Redis that works inside a synctest bubble: no socket
// is opened, and keys expire by the bubble's clock. It ends with the test.
func Memory(t testing.TB) *redis.Client {
	t.Helper()
	return New(t).Client(nil)
}

// Server is a Redis in this process. It ends with the test.
type Server struct {
	t    testing.TB
	mini *miniredis.Miniredis

	mu      sync.Mutex
	refusal string // of all commands; empty when they run
	life    int    // counts the times that it started anew
}

// New starts an empty one.
func New(t testing.TB) *Server {
	s := &Server{t: t, mini: miniredis.NewMiniRedis()}
	s.mini.ClockTTL(true)
	t.Cleanup(s.mini.Close)
	return s
}

// dial opens a connection; the first one starts the server.
func (s *Server) dial() (net.Conn, error) {
	conn, err := s.mini.Dial()
	if err != nil {
		return nil, err
	}
	s.mini.Server().SetPreHook(s.answer)
	return conn, nil
}

// Client is a client over a link; a nil Link never breaks. It is closed with the test.
func (s *Server) Client(l *Link) *redis.Client {
	if l == nil {
		l = &Link{}
	}
	client := redis.NewClient(&redis.Options{
		Addr:            "127.0.0.1:6379", // never dialled; a name would be looked up
		Dialer:          l.dialer(s),
		Protocol:        2, // what the in-memory server speaks without a second try
		DisableIdentity: true,
		// Waiting for a connection would use timers that outlive a bubble, and waiting
		// between dials is done under a mutex, which stops a bubble's clock.
		PoolSize:      2000,
		DialerRetries: 1,
	})
	s.t.Cleanup(func() {
		broken := l.Mend() // else closing would wait for a new connection
		client.Close()
		if broken { // after many failed dials the client looks once a second whether it may go on
			time.Sleep(1100 * time.Millisecond)
		}
	})
	return client
}

// buffered takes writes at once, as a socket does. A bare pipe takes them as they are
// read, so that a long pipeline of commands would wait for the reader of its replies.
type buffered struct {
	net.Conn
	mu     sync.Mutex
	more   *sync.Cond
	buf    []byte
	closed bool
}

func newBuffered(conn net.Conn) *buffered {
	b := &buffered{Conn: conn}
	b.more = sync.NewCond(&b.mu)
	go b.forward()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, net.ErrClosed
	}
	b.buf = append(b.buf, p...)
	b.more.Signal()
	return len(p), nil
}

func (b *buffered) Close() error {
	b.mu.Lock()
	b.closed = true
	b.more.Signal()
	b.mu.Unlock()
	return b.Conn.Close()
}

// forward ends when the connection is closed.
func (b *buffered) forward() {
	for {
		b.mu.Lock()
		for len(b.buf) == 0 && !b.closed {
			b.more.Wait()
		}
		out := b.buf
		b.buf = nil
		closed := b.closed
		b.mu.Unlock()
		if closed {
			return
		}
		if _, err := b.Conn.Write(out); err != nil {
			return
		}
	}
}
