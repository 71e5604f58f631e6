package realtest

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Tap is a TCP proxy before a server. It counts replies and can lose one: the server has
// executed the command, but the client does not see the answer. A reply is one read from
// the server's connection.
type Tap struct {
	Addr string

	mu      sync.Mutex
	replies int
	lose    int  // number of the reply to lose; 0 for none
	silent  bool // keep the connection open and silent, else close it
	lost    bool
}

// NewTap listens before a server until the test ends.
func NewTap(t *testing.T, server string) *Tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Tap{Addr: l.Addr().String()}
	var links sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	links.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, upstream)
			mu.Unlock()
			links.Go(func() {
				_, _ = io.Copy(upstream, client) // ends when either side closes
				upstream.Close()
			})
			links.Go(func() { p.down(client, upstream) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		links.Wait()
	})
	return p
}

// down passes replies on until it reaches the one to lose.
func (p *Tap) down(client, upstream net.Conn) {
	defer client.Close()
	defer upstream.Close()
	piece := make([]byte, 64<<10)
	mute := false
	for {
		n, err := upstream.Read(piece)
		if err != nil {
			return
		}
		if !mute {
			p.mu.Lock()
			p.replies++
			mine := p.replies == p.lose
			p.lost = p.lost || mine
			silent := p.silent
			p.mu.Unlock()
			if mine && !silent {
				return
			}
			mute = mine
		}
		if mute {
			continue
		}
		if _, err := client.Write(piece[:n]); err != nil {
			return
		}
	}
}

// Lose makes the tap lose the n-th reply from now, counted from 1. silent keeps the
// connection open without an answer, so that the client sees a timeout.
func (p *Tap) Lose(n int, silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replies, p.lose, p.silent, p.lost = 0, n, silent, false
}

// Replies returns how many replies came since the start, or since Lose.
func (p *Tap) Replies() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replies
}

// Lost reports whether the reply was lost.
func (p *Tap) Lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}
