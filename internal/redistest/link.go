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

// Fate is what becomes of one request.
type Fate int

// The fates. A request is what a client writes at once: a command or a pipeline.
const (
	Delivered   Fate = iota
	RequestLost      // the connection breaks before Redis has it
	ReplyLost        // Redis runs it, then the connection breaks
	ReplySilent      // Redis runs it, and the client waits until its own time limit
)

// Link is the network between some clients and a Server. The zero Link works.
type Link struct {
	mu   sync.Mutex
	down bool
	cut  bool // it was, at some time
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

// Mend lets connections through again, and reports whether it was ever cut.
func (l *Link) Mend() (wasCut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
	return l.cut
}

// Lose asks fate about every request from now on; nil ends that. Handshakes and
// connections that listen to a channel are left alone: the client waits for those under
// a mutex, which stops the clock of a bubble.
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

// broken is what a system call says; "dial" is what the client backs off for.
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
		conn, err := server.dial()
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: newBuffered(conn), link: l}
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
	listen bool // it listens to a channel
	next   Fate // of the reply that is awaited
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
		// Silent: what came is dropped, and the client's own time limit ends the wait.
	}
}

// A pipe that is closed takes no deadlines; a socket whose other end has gone does.
func (w *wire) SetDeadline(t time.Time) error      { _ = w.Conn.SetDeadline(t); return nil }
func (w *wire) SetReadDeadline(t time.Time) error  { _ = w.Conn.SetReadDeadline(t); return nil }
func (w *wire) SetWriteDeadline(t time.Time) error { _ = w.Conn.SetWriteDeadline(t); return nil }

func (w *wire) Close() error {
	w.link.mu.Lock()
	delete(w.link.open, w)
	w.link.mu.Unlock()
	return w.Conn.Close()
}
