package realtest

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Door is an HTTP proxy before an S3 server, which may answer in its place.
type Door struct {
	Addr string

	mu   sync.Mutex
	met  int
	rule Rule
}

// Rule deals with the n-th request, counted from 1 since the rule was set: it answers by
// itself, or has the server answer, or both.
type Rule func(n int, w http.ResponseWriter, r *http.Request, server http.Handler)

// NewDoor opens before a server until the test ends. It lets everything through at first.
func NewDoor(t *testing.T, server string) *Door {
	t.Helper()
	target, err := url.Parse("http://" + server)
	require.NoError(t, err)
	through := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the signature covers it
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients go away here all the time
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
		rule(n, w, r, through)
	}))
	t.Cleanup(listener.Close)
	d.Addr = strings.TrimPrefix(listener.URL, "http://")
	return d
}

// Set makes a rule hold from now on; nil lets everything through again.
func (d *Door) Set(rule Rule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.met, d.rule = 0, rule
}

// Met is how many requests came since the start, or since Set.
func (d *Door) Met() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met
}

// Refuse answers as S3 does when it says no.
func Refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>by the test</Message></Error>", code)
}

// Throttle refuses every so many-th request as a service that has too many; 1 refuses
// all.
func Throttle(every int) Rule {
	return func(n int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if n%every == 0 {
			Refuse(w, http.StatusServiceUnavailable, "SlowDown")
			return
		}
		server.ServeHTTP(w, r)
	}
}

// Mute takes a request in and never answers. It ends when the client has gone.
func Mute(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then the client's going is seen
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Uncreatable refuses create-only writes as services do that do not know them.
func Uncreatable(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
	if r.Header.Get("If-None-Match") != "" {
		Refuse(w, http.StatusNotImplemented, "NotImplemented")
		return
	}
	server.ServeHTTP(w, r)
}
