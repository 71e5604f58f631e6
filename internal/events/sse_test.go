package events_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// pipes is a listener whose connections are pipes in memory.
type pipes struct {
	conns chan net.Conn
	done  context.Context
	end   context.CancelFunc
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn)}
	p.done, p.end = context.WithCancel(context.Background())
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.end(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours, nil
}

// site serves the events of t_a to clients that each have their own connection.
type site struct {
	t     *testing.T
	pipes *pipes
}

func serveEvents(t *testing.T, h *events.Hub, snapshot events.Snapshot) *site {
	s := &site{t, newPipes()}
	server := &http.Server{
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			err := events.Serve(w, r, h, "t_a", snapshot)
			if errors.Is(err, tasks.ErrNotFound) {
				w.WriteHeader(http.StatusNotFound)
			}
		}),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(s.pipes) }()
	t.Cleanup(func() {
		_ = server.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return s
}

func (s *site) get(lastID string) *http.Response {
	s.t.Helper()
	transport := &http.Transport{DialContext: s.pipes.dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://site/", nil)
	require.NoError(s.t, err)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := transport.RoundTrip(req)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// readTo reads lines until one begins with a prefix.
func readTo(t *testing.T, lines *bufio.Scanner, prefix string) (read []string) {
	t.Helper()
	for lines.Scan() {
		read = append(read, lines.Text())
		if strings.HasPrefix(lines.Text(), prefix) {
			return read
		}
	}
	require.Fail(t, "the stream ended before "+prefix, "%q, %v", read, lines.Err())
	return nil
}

func TestAStreamOverHTTPOutlivesTheServersTimeoutsAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		server := serveEvents(t, h, queued)
		resp := server.get("")
		require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		lines := bufio.NewScanner(resp.Body)
		require.Contains(t, readTo(t, lines, "data:"), "id: t_a-1")
		begun := time.Now()
		readTo(t, lines, ": ")
		readTo(t, lines, ": ")
		require.Equal(t, 30*time.Second, time.Since(begun).Round(time.Second), "two heartbeats")
		w.Observe(happened(tasks.EventStarted))
		require.Contains(t, readTo(t, lines, "event: running"), "id: t_a-2")
		_ = resp.Body.Close()

		w.Text("t_a", "Rhine\nElbe")
		w.Observe(finished())
		lines = bufio.NewScanner(serveEvents(t, startHub(t, r), queued).get("t_a-2").Body)
		got := strings.Join(readTo(t, lines, "event: end"), "\n")
		require.NotContains(t, got, "t_a-1\n")
		require.NotContains(t, got, "event: running")
		require.Contains(t, got, "id: t_a-3\nevent: text\ndata: {")
		require.Contains(t, got, `"text":"Rhine\nElbe"`)
		require.Contains(t, got, "id: t_a-4\nevent: done\ndata: {")
		require.Equal(t, http.StatusNoContent, server.get("t_a-4").StatusCode)
		for _, id := range []string{"t_b-4", "t_a-", "t_a-x", "t_a-04", "t_a--4", "4"} {
			require.Equal(t, http.StatusOK, server.get(id).StatusCode, "%s is none of the task's ids", id)
		}
		unknown := func(context.Context) (events.Event, error) { return events.Event{}, tasks.ErrNotFound }
		require.Equal(t, http.StatusNotFound, serveEvents(t, h, unknown).get("").StatusCode)
	})
}

// A client that stops reading is cut off, and takes nothing with it.
func TestAClientThatDoesNotReadLosesItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		site := serveEvents(t, h, queued)
		conn, err := site.pipes.dial(t.Context(), "", "")
		require.NoError(t, err)
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: site\r\n\r\n"))
		require.NoError(t, err)
		time.Sleep(time.Minute) // the client reads nothing, and the pipe has no buffer
		fine := bufio.NewScanner(site.get("").Body)
		w.Observe(finished())
		readTo(t, fine, "event: end")
		synctest.Wait()
		require.Zero(t, h.Followers())
	})
}
