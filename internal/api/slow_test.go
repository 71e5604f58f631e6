package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a listener in memory, so that a bubble's clock drives its time limits.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inBubble serves a bench with all time limits of a real server in synthetic time.
func inBubble(t *testing.T, test func(t *testing.T, b *bench, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		b := newUnservedBench(t, Config{}).withKeys()
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx, l) }()
		defer func() {
			stop()
			require.NoError(t, <-ended)
		}()
		test(t, b, l.dial)
	})
}

// begins is the start of a body that a route would take.
func (a target) begins() string {
	switch a.takes {
	case "form":
		return "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\x00\x00\x00\x00WAVE" + canary
	case "file":
		return canary
	}
	return `{"kind":"` + canary
}

func (a target) contentType() string {
	if a.takes == "form" {
		return "multipart/form-data; boundary=x"
	}
	return "application/json"
}

// TestEveryRouteGivesUpASlowBody: a body that stops or trickles ends in a 408 that is soon
// enough, and nothing of it stays behind.
func TestEveryRouteGivesUpASlowBody(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, dial func() net.Conn) {
		before, tried := b.kept(), 0
		for _, a := range b.targets(owned{"t_x", "x", "a_x", "file-x", "batch_x"}) {
			for _, trickle := range []bool{false, true} {
				if a.takes == "" {
					continue
				}
				tried++
				conn, begun := dial(), time.Now()
				_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: mill\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: 50000\r\n\r\n%s",
					a.method, a.path, b.key, a.contentType(), a.begins())
				require.NoError(t, err)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					var failed error
					for ; trickle && failed == nil; time.Sleep(time.Second) {
						_, failed = io.WriteString(conn, "x")
					}
				}()
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err, "%s", a)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err, "%s", a)
				require.Equal(t, http.StatusRequestTimeout, res.StatusCode, "%s: %s", a, body)
				a.refusal(t, answer{res, body})
				require.Equal(t, 30*time.Second, time.Since(begun).Truncate(time.Second), "%s", a)
				conn.Close()
				<-sent
			}
		}
		require.Greater(t, tried, 30)
		require.Equal(t, before, b.kept())
	})
}

// TestARefusedBodyHoldsNoConnection: a request is refused before its body has come, and the
// body never comes.
func TestARefusedBodyHoldsNoConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *bench, dial func() net.Conn) {
		conn, begun := dial(), time.Now()
		defer conn.Close()
		_, err := io.WriteString(conn, "POST /v1/tasks HTTP/1.1\r\nHost: mill\r\nContent-Length: 1000\r\n\r\n{")
		require.NoError(t, err)
		all, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(all), "HTTP/1.1 401 ")
		require.Less(t, time.Since(begun), 2*drainTime)
	})
}

func TestSlowHeadersAreGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *bench, dial func() net.Conn) {
		conn, begun := dial(), time.Now()
		defer conn.Close()
		_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: mill\r\nX-")
		require.NoError(t, err)
		_, err = io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, headerTime, time.Since(begun))
	})
}
