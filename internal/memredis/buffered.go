package memredis

import (
	"net"
	"sync"
)

// buffered is a connection whose Write returns at once, without waiting for the reader.
// miniredis reads the next command only after it wrote the last reply. A client writes a
// whole pipeline before it reads the first reply. Without a buffer on one side, a
// pipeline larger than the connection's capacity would deadlock. A real Redis buffers its
// replies in the same way.
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

// Close drops data that is not forwarded yet.
func (b *buffered) Close() error {
	b.mu.Lock()
	b.closed = true
	b.more.Signal()
	b.mu.Unlock()
	return b.Conn.Close()
}

// forward passes on the written data until the connection is closed or breaks.
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
			_ = b.Close()
			return
		}
	}
}
