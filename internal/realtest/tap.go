package realtest

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Tap is a TCP proxy before a server that counts replies, and can lose one: the server
// has done what it was asked, the client does not see the answer. A reply is what
// comes down a connection in one piece.
type Tap struct {
	Addr string

	mu      sync.Mutex
	replies int
	lose    int  // the reply to lose; 0 for none
	silent  bool // the connection stays open and mute, else it is closed
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
				_, _ = io.Copy(upstream, client) // it ends when either side does
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

// down passes replies on until one is to be lost.
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

// Lose makes the n-th reply from now get lost, counted from 1; silent leaves the
// connection open and mute, so that the client sees a timeout.
func (p *Tap) Lose(n int, silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replies, p.lose, p.silent, p.lost = 0, n, silent, false
}

// Replies is how many came since the start, or since Lose.
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
