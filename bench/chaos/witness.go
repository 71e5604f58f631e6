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

// call is one inference as observed between a worker and the provider.
type call struct {
	Worker     int
	Start, End time.Time
	Broken     bool // the provider broke off its answer, or sent an unusable one
	Gone       bool // the worker disconnected before the answer was complete
	Status     int
	Code       int
	Billed     bool
	Kind       string
	Model      string
	Type       string `json:"-"` // of the body
	Body       string `json:"-"`
}

// paid reports whether the call costs money. A call whose caller disconnected before the
// emulator finished counts too, since the real API would have run it.
func (c call) paid() bool { return c.Billed || c.Status == 0 }

// provider is the emulator behind a proxy that observes all calls. Workers use a path
// that begins with their number.
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

// log joins the observed calls with the emulator's log. It leaves out calls that never
// became an inference, because the worker died while it sent.
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
		c.Model, c.Type = r.Model, r.Header.Get("Content-Type")
		calls = append(calls, c)
	}
	return calls
}

// bucketFront is a proxy before the S3 server. It fails on demand, and records when each
// result and each checkpoint was stored.
type bucketFront struct {
	proxy *httputil.ReverseProxy
	sick  atomic.Int64 // percent of requests that fail
	j     *journal

	mu     sync.Mutex
	rng    *rand.Rand
	stored map[string][]time.Time // results, by task id
	kept   map[string][]time.Time // results and checkpoints, by task id
	files  map[string][]time.Time // pictures, which a checkpoint only names
	failed map[string][]time.Time // failed writes of a task's objects
	wrong  []string               // violations: events that must never happen to a result
}

func newBucketFront(addr string, j *journal, rng *rand.Rand) *bucketFront {
	f := &bucketFront{j: j, rng: rng, stored: map[string][]time.Time{}, kept: map[string][]time.Time{}, files: map[string][]time.Time{}, failed: map[string][]time.Time{}}
	target := &url.URL{Scheme: "http", Host: addr}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the signature covers it
		},
		ModifyResponse: f.see,
		Transport:      &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	return f
}

// objectOf returns the task and the object name of a path. The id is empty when the path
// belongs to no task.
func objectOf(path string) (id, name string) {
	_, rest, _ := strings.Cut(path, "/default/tasks/")
	id, name, _ = strings.Cut(rest, "/")
	return id, name
}

func (f *bucketFront) see(r *http.Response) error {
	id, name := objectOf(r.Request.URL.Path)
	checkpoint := strings.HasPrefix(name, "answer") && r.Request.Method == http.MethodPut
	if strings.HasPrefix(name, "image.") && r.Request.Method == http.MethodPut && r.StatusCode/100 == 2 {
		f.mu.Lock()
		f.files[id] = append(f.files[id], time.Now())
		f.mu.Unlock()
	}
	if name != "result.json" && !checkpoint || r.StatusCode/100 != 2 || r.Request.Method == http.MethodGet || r.Request.Method == http.MethodHead {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[id] = append(f.kept[id], time.Now())
	if checkpoint {
		return nil
	}
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
	if id, _ := objectOf(r.URL.Path); r.Method == http.MethodPut && id != "" {
		f.mu.Lock()
		f.failed[id] = append(f.failed[id], time.Now())
		f.mu.Unlock()
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

// swallow discards an answer that is to be lost.
type swallow struct{ header http.Header }

func (s swallow) Header() http.Header       { return s.header }
func (swallow) Write(b []byte) (int, error) { return len(b), nil }
func (swallow) WriteHeader(int)             {}
