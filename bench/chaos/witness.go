package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// call is one inference as it was seen between a worker and the provider.
type call struct {
	Worker     int
	Start, End time.Time
	Broken     bool // the provider broke its answer off, or sent nonsense
	Gone       bool // the worker was gone before the answer was out
	Status     int
	Code       int
	Billed     bool
	Kind       string
	Body       string `json:"-"`
}

// paid reports whether the call costs money: also one whose caller was gone before
// the emulator was done, since the real one would have run it.
func (c call) paid() bool { return c.Billed || c.Status == 0 }

// provider is the emulator with a witness before it. Workers come by a path that
// begins with their number.
type provider struct {
	emulator *workersaitest.Server
	mu       sync.Mutex
	calls    []*call
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	number, err := strconv.Atoi(strings.TrimPrefix(first, "w"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	r.URL.Path = "/" + rest
	c := &call{Worker: number, Start: time.Now()}
	p.mu.Lock()
	r.Header.Set("X-Call", strconv.Itoa(len(p.calls)))
	p.calls = append(p.calls, c)
	p.mu.Unlock()
	defer func() {
		broke := recover()
		p.mu.Lock()
		c.End, c.Broken, c.Gone = time.Now(), broke != nil || w.Header().Get(malformed) != "", r.Context().Err() != nil
		p.mu.Unlock()
		if broke != nil {
			panic(broke)
		}
	}()
	p.emulator.ServeHTTP(w, r)
}

// log joins what the witness saw with what the emulator says of it. Calls that never
// became an inference (the worker died while it sent) are left out.
func (p *provider) log() []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var calls []call
	for _, r := range p.emulator.Requests() {
		i, err := strconv.Atoi(r.Header.Get("X-Call"))
		if err != nil {
			continue
		}
		c := *p.calls[i]
		c.Status, c.Code, c.Billed, c.Kind, c.Body = r.Status, r.Code, r.Billed, r.Kind, string(r.Body)
		calls = append(calls, c)
	}
	return calls
}

// bucketFront stands before the S3 server: it fails on demand, and remembers when each
// result was stored.
type bucketFront struct {
	proxy *httputil.ReverseProxy
	sick  atomic.Int64 // percent of requests that go wrong
	j     *journal

	mu     sync.Mutex
	rng    *rand.Rand
	stored map[string][]time.Time // by task id
	wrong  []string               // what must never happen to a result
}

func newBucketFront(addr string, j *journal, rng *rand.Rand) *bucketFront {
	f := &bucketFront{j: j, rng: rng, stored: map[string][]time.Time{}}
	target := &url.URL{Scheme: "http", Host: addr}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: f.see,
		Transport:      &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	return f
}

// resultOf gives the id of the task whose result a path names.
func resultOf(path string) (id string, ok bool) {
	_, rest, found := strings.Cut(path, "/default/tasks/")
	id, name, _ := strings.Cut(rest, "/")
	return id, found && name == "result.json"
}

func (f *bucketFront) see(r *http.Response) error {
	id, ok := resultOf(r.Request.URL.Path)
	if !ok || r.StatusCode/100 != 2 || r.Request.Method == http.MethodGet || r.Request.Method == http.MethodHead {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Request.Method != http.MethodPut || r.Request.Header.Get("If-None-Match") != "*" {
		f.wrong = append(f.wrong, fmt.Sprintf("%s of the result of %s without If-None-Match", r.Request.Method, id))
	}
	f.stored[id] = append(f.stored[id], time.Now())
	return nil
}

func (f *bucketFront) roll(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n)
}

func (f *bucketFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.roll(100) >= int(f.sick.Load()) {
		f.proxy.ServeHTTP(w, r)
		return
	}
	switch f.roll(5) {
	case 0:
		f.j.fault("bucket 503", r.Method)
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	case 1:
		f.j.fault("bucket 500", r.Method)
		refuse(w, http.StatusInternalServerError, "InternalError")
	case 2:
		f.j.fault("bucket slow", r.Method)
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Duration(f.roll(3000)) * time.Millisecond):
		}
		f.proxy.ServeHTTP(w, r)
	case 3:
		f.j.fault("bucket answer lost", r.Method)
		f.proxy.ServeHTTP(swallow{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	case 4:
		if r.Header.Get("If-None-Match") == "" {
			f.proxy.ServeHTTP(w, r)
			return
		}
		f.j.fault("bucket 409", r.Method)
		refuse(w, http.StatusConflict, "ConditionalRequestConflict")
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>chaos</Message></Error>", code)
}

// swallow is where a lost answer goes.
type swallow struct{ header http.Header }

func (s swallow) Header() http.Header       { return s.header }
func (swallow) Write(b []byte) (int, error) { return len(b), nil }
func (swallow) WriteHeader(int)             {}
