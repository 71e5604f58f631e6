package realtest

import (
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Door is an HTTP proxy before an S3 server. A Rule may answer in the server's place.
type Door struct {
	Addr string

	mu   sync.Mutex
	met  int
	rule Rule
}

// Rule handles the n-th request, counted from 1 since Set. It answers itself, lets the
// server answer, or both.
type Rule func(n int, w http.ResponseWriter, r *http.Request, server http.Handler)

// NewDoor starts a proxy before a server until the test ends. At first it passes
// everything.
func NewDoor(t *testing.T, server string) *Door {
	t.Helper()
	target, err := url.Parse("http://" + server)
	require.NoError(t, err)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ExpectContinueTimeout = 30 * time.Second // a refusal arrives before the body is sent, otherwise the body breaks the connection
	t.Cleanup(transport.CloseIdleConnections)
	through := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the signature covers it
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients disconnect here all the time
	}
	d := &Door{}
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.met++
		n, rule := d.met, d.rule
		d.mu.Unlock()
		if rule == nil {
			through.ServeHTTP(w, r)
			return
		}
		rule(n, answer{w, r}, r, through)
	}))
	t.Cleanup(listener.Close)
	d.Addr = strings.TrimPrefix(listener.URL, "http://")
	return d
}

// Set sets the rule for later requests; nil passes everything again.
func (d *Door) Set(rule Rule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.met, d.rule = 0, rule
}

// Met returns how many requests came since the start, or since Set.
func (d *Door) Met() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met
}

// answer is the response to a request that passes the proxy.
type answer struct {
	http.ResponseWriter
	request *http.Request
}

// Unwrap returns the writer below, for http.ResponseController.
func (a answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Refuse answers with an S3 error. It reads the whole request first: a client that is
// still sending might otherwise see a broken connection instead of the answer.
func Refuse(w http.ResponseWriter, status int, code string) {
	if a, ok := w.(answer); ok {
		_, _ = io.Copy(io.Discard, a.request.Body)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>by the test</Message></Error>", code)
}

// Throttle refuses every n-th request as an overloaded service does; 1 refuses all.
func Throttle(every int) Rule {
	return func(n int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if n%every == 0 {
			Refuse(w, http.StatusServiceUnavailable, "SlowDown")
			return
		}
		server.ServeHTTP(w, r)
	}
}

// Mute reads a request and never answers. It returns when the client has disconnected.
func Mute(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // the server notices a disconnect only after it read the body
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Uncreatable refuses create-only writes as services without support for them do.
func Uncreatable(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
	if r.Header.Get("If-None-Match") != "" {
		Refuse(w, http.StatusNotImplemented, "NotImplemented")
		return
	}
	server.ServeHTTP(w, r)
}

// Unconditional reports success where a create-only write is refused for an existing key,
// as services do that ignore the condition.
func Unconditional(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
	if r.Header.Get("If-None-Match") == "" {
		server.ServeHTTP(w, r)
		return
	}
	said := httptest.NewRecorder()
	server.ServeHTTP(said, r)
	if said.Code == http.StatusPreconditionFailed {
		w.Header().Set("ETag", `"unconditional"`)
		return
	}
	maps.Copy(w.Header(), said.Header())
	w.WriteHeader(said.Code)
	_, _ = said.Body.WriteTo(w)
}
