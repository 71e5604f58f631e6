package redistest

import (
	"bytes"
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Fate is the outcome of one request.
type Fate int

// The fates. A request is the data of one client write: a command or a pipeline.
const (
	Delivered   Fate = iota
	RequestLost      // the connection breaks before Redis receives it
	ReplyLost        // Redis executes it, then the connection breaks
	ReplySilent      // Redis executes it, and the client waits for its own timeout
)

// Link is the network between some clients and a Server. The zero Link works.
type Link struct {
	mu   sync.Mutex
	down bool
	cut  bool // it was cut at least once
	fate func(request []byte) Fate
	open map[*wire]bool
}

// Cut breaks every connection and refuses new ones until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	l.down, l.cut = true, true
	open := l.open
	l.open = nil
	l.mu.Unlock()
	for w := range open {
		w.Conn.Close()
	}
}

// Mend lets connections through again, and reports whether the link was ever cut.
func (l *Link) Mend() (wasCut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
	return l.cut
}

// Lose sets a func that decides the fate of every request from now on; nil removes it.
// Handshakes and subscriptions are exempt: the client waits for those under a mutex,
// which stops the clock of a bubble.
func (l *Link) Lose(fate func(request []byte) Fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fate = fate
}

func (l *Link) draw(request []byte) Fate {
	l.mu.Lock()
	fate := l.fate
	l.mu.Unlock()
	if fate == nil {
		return Delivered
	}
	return fate(request)
}

// broken returns the error of a failed system call. For "dial" errors the client backs
// off.
func broken(op string, why syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, why)}
}

func (l *Link) dialer(server *Server) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.down {
			return nil, broken("dial", syscall.ECONNREFUSED)
		}
		conn, err := server.mini.Dial()
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: conn, link: l}
		if l.open == nil {
			l.open = map[*wire]bool{}
		}
		l.open[w] = true
		return w, nil
	}
}

// wire is one connection.
type wire struct {
	net.Conn
	link   *Link
	mu     sync.Mutex
	listen bool // it is subscribed to a channel
	next   Fate // fate of the awaited reply
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	start := bytes.ToLower(p[:min(len(p), 64)])
	w.listen = w.listen || bytes.Contains(start, []byte("subscribe"))
	w.next = Delivered
	if !w.listen && !bytes.Contains(start, []byte("hello")) {
		w.next = w.link.draw(p)
	}
	if w.next == RequestLost {
		w.Conn.Close()
		return 0, broken("write", syscall.ECONNRESET)
	}
	n, err := w.Conn.Write(p)
	if err != nil {
		err = broken("write", syscall.EPIPE)
	}
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		n, err := w.Conn.Read(p)
		w.mu.Lock()
		fate := w.next
		w.mu.Unlock()
		switch {
		case err != nil && !os.IsTimeout(err):
			return n, broken("read", syscall.ECONNRESET)
		case err != nil || fate == Delivered:
			return n, err
		case fate == ReplyLost:
			w.Conn.Close()
			return 0, broken("read", syscall.ECONNRESET)
		}
		// ReplySilent: the reply is dropped, and the client's own timeout ends the wait.
	}
}

// A closed pipe refuses deadlines, while a socket with a closed peer accepts them.
func (w *wire) SetDeadline(t time.Time) error      { _ = w.Conn.SetDeadline(t); return nil }
func (w *wire) SetReadDeadline(t time.Time) error  { _ = w.Conn.SetReadDeadline(t); return nil }
func (w *wire) SetWriteDeadline(t time.Time) error { _ = w.Conn.SetWriteDeadline(t); return nil }

func (w *wire) Close() error {
	w.link.mu.Lock()
	delete(w.link.open, w)
	w.link.mu.Unlock()
	return w.Conn.Close()
}
