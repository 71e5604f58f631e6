package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/freeport"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"golang.org/x/sync/errgroup"
)

// httpFigures are those of the HTTP interface, from one server.
type httpFigures struct {
	Producers int       `json:"producers"` // at once
	Direct    []float64 `json:"direct"`    // tasks a second by tasks.Client, one by one, by round
	HTTP      []float64 `json:"http"`      // the same by POST /v1/tasks
	Many      []float64 `json:"many"`      // by EnqueueMany, 100 in a call
	ManyHTTP  []float64 `json:"many_http"` // by POST /v1/tasks:batch, 100 in a request

	UploadBytes int64   `json:"upload_bytes"`
	UploadExtra int64   `json:"upload_extra"` // bytes of memory beyond those before
	UploadTook  float64 `json:"upload_took"`  // seconds

	Followers []followers `json:"followers"`
	GetMS     []float64   `json:"get_ms"` // sorted times of GET /v1/tasks/{id} under load
	Idle      float64     `json:"idle"`   // Redis commands a second without a request
}

// followers are the Redis commands while so many clients follow tasks by each way.
type followers struct {
	Each     int     `json:"each"`     // server-sent events, and as many long polls
	Commands float64 `json:"commands"` // a second
	MB       float64 `json:"mb"`       // memory of the server
}

const producersAtOnce = 16

func measureHTTP(l *lab) (figures, error) {
	f := &httpFigures{Producers: producersAtOnce, UploadBytes: 1 << 30}
	rounds, each, quiet := 5, 4*time.Second, 20*time.Second
	many := 1000
	if l.quick {
		rounds, each, quiet = 3, 2*time.Second, 10*time.Second
	}
	s, err := l.openWith(workersaitest.Options{}, s3Server)
	if err != nil {
		return nil, err
	}
	defer s.close()
	mill, err := s.serve()
	if err != nil {
		return nil, err
	}
	if err := l.sleep(5 * time.Second); err != nil { // it has settled
		return nil, err
	}
	if f.Idle, err = s.commandsDuring(quiet); err != nil {
		return nil, err
	}
	l.say("http: idle %.1f commands a second", f.Idle)
	if err := f.submits(s, mill, rounds, each); err != nil {
		return nil, err
	}
	if err := f.upload(s, mill); err != nil {
		return nil, err
	}
	for _, n := range []int{10, many} {
		if err := f.follow(s, mill, n, quiet/2); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// mill is a server of the HTTP interface.
type mill struct {
	url    string
	pid    int
	client *http.Client
}

// serve starts a server and waits until it answers.
func (s *site) serve() (*mill, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.binary, "serve", "--listen", "127.0.0.1:"+port, "--log-level", "warn")
	cmd.Env = append(os.Environ(), "NEURONMILL_REDIS_URL=redis://127.0.0.1:"+s.port+"/0", "NEURONMILL_STORE_URL="+s.bucket, "NEURONMILL_DATA_DIR="+s.dir)
	if err := s.launch(cmd, "serve"); err != nil {
		return nil, err
	}
	m := &mill{url: "http://127.0.0.1:" + port, pid: cmd.Process.Pid, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}}
	return m, s.until("the server", 20*time.Second, func() (bool, error) {
		res, err := m.client.Get(m.url + "/healthz")
		if err != nil {
			return false, s.alive()
		}
		return true, res.Body.Close()
	})
}

// memory returns the resident bytes of the server.
func (m *mill) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "VmRSS:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("the kernel does not tell the memory of a process")
}

// post sends a JSON body and wants a status.
func (m *mill) post(ctx context.Context, path string, body []byte, status int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := m.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != status {
		err = fmt.Errorf("%s: status %d: %s", path, res.StatusCode, answer)
	}
	return answer, err
}

// commandsDuring returns the Redis commands a second while nothing is done for a while.
func (s *site) commandsDuring(d time.Duration) (float64, error) {
	before, err := s.redisUse()
	if err != nil {
		return 0, err
	}
	if err := s.sleep(d); err != nil {
		return 0, err
	}
	after, err := s.redisUse()
	return float64(after.since(before).commands-1) / d.Seconds(), err // but for the question itself
}

// perSecond returns how often a second producers do something for a while.
func perSecond(ctx context.Context, producers int, d time.Duration, do func(ctx context.Context, n int64) error) (float64, error) {
	var n, done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begun := time.Now()
	for range producers {
		group.Go(func() error {
			for time.Since(begun) < d {
				if err := do(ctx, n.Add(1)); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(done.Load()) / time.Since(begun).Seconds(), err
}

const manyAtOnce = 100

// submits measures the ways to submit tasks in turn.
func (f *httpFigures) submits(s *site, m *mill, rounds int, d time.Duration) error {
	client := s.client(true)
	request := func(way string, n int64) tasks.Request { return translate(fmt.Sprint(way, " ", n), tasks.Bulk) }
	document := func(way string, n int64) string {
		return fmt.Sprintf(`{"kind":"translation","lane":"bulk","input":{"text":"%s %d","target_lang":"es"}}`, way, n)
	}
	ways := []struct {
		to    *[]float64
		tasks float64
		do    func(ctx context.Context, n int64) error
	}{
		{&f.Direct, 1, func(ctx context.Context, n int64) error {
			r := request("direct", n)
			_, err := client.Enqueue(ctx, r.Payload, r.Options...)
			return err
		}},
		{&f.HTTP, 1, func(ctx context.Context, n int64) error {
			_, err := m.post(ctx, "/v1/tasks", []byte(document("http", n)), http.StatusAccepted)
			return err
		}},
		{&f.Many, manyAtOnce, func(ctx context.Context, n int64) error {
			requests := make([]tasks.Request, manyAtOnce)
			for i := range requests {
				requests[i] = request("many", n*manyAtOnce+int64(i))
			}
			for _, out := range client.EnqueueMany(ctx, requests) {
				if out.Err != nil {
					return out.Err
				}
			}
			return nil
		}},
		{&f.ManyHTTP, manyAtOnce, func(ctx context.Context, n int64) error {
			all := make([]string, manyAtOnce)
			for i := range all {
				all[i] = document("many http", n*manyAtOnce+int64(i))
			}
			_, err := m.post(ctx, "/v1/tasks:batch", []byte(`{"tasks":[`+strings.Join(all, ",")+`]}`), http.StatusOK)
			return err
		}},
	}
	for range rounds {
		for _, way := range ways {
			r, err := perSecond(s.ctx, producersAtOnce, d, way.do)
			if err != nil {
				return err
			}
			*way.to = append(*way.to, r*way.tasks)
		}
	}
	s.say("http: one by one %.0f a second by the client, %.0f by HTTP; many %.0f and %.0f", median(f.Direct), median(f.HTTP), median(f.Many), median(f.ManyHTTP))
	return nil
}

// upload sends a large file and watches the server's memory.
func (f *httpFigures) upload(s *site, m *mill) error {
	before, err := m.memory()
	if err != nil {
		return err
	}
	stop, stopped := make(chan struct{}), make(chan int64)
	go func() {
		most := before
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				now, _ := m.memory() // a server that has ended fails the upload
				most = max(most, now)
			case <-stop:
				tick.Stop()
				stopped <- most
				return
			}
		}
	}()
	begun := time.Now()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPut, m.url+"/v1/uploads", io.LimitReader(zeros{}, f.UploadBytes))
	if err != nil {
		return err
	}
	res, err := m.client.Do(req)
	f.UploadTook = time.Since(begun).Seconds()
	close(stop)
	f.UploadExtra = <-stopped - before
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("upload: status %d: %s", res.StatusCode, answer)
	}
	s.say("http: an upload of %d MB took %.1f s and %d MB", f.UploadBytes>>20, f.UploadTook, f.UploadExtra>>20)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// follow lets n clients follow tasks by server-sent events and n by long polls, and asks
// for a task again and again meanwhile.
func (f *httpFigures) follow(s *site, m *mill, n int, d time.Duration) error {
	var ids []string
	for i := range 10 {
		answer, err := m.post(s.ctx, "/v1/tasks", fmt.Appendf(nil, `{"kind":"text","input":{"prompt":"followed %d of %d"}}`, i, n), http.StatusAccepted)
		if err != nil {
			return err
		}
		var task struct{ ID string }
		if err := json.Unmarshal(answer, &task); err != nil {
			return err
		}
		ids = append(ids, task.ID)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var open, failed atomic.Int64
	get := func(path string, opened func()) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+path, nil)
		if err != nil {
			return
		}
		res, err := m.client.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				failed.Add(1)
			}
			return
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			failed.Add(1)
		}
		opened()
		_, _ = io.Copy(io.Discard, res.Body) // until the end of the measurement
	}
	for i := range n {
		id := ids[i%len(ids)]
		clients.Go(func() { get("/v1/tasks/"+id+"/events", func() { open.Add(1) }) })
		clients.Go(func() {
			for ctx.Err() == nil {
				get("/v1/tasks/"+id+"?wait=60", func() {})
			}
		})
	}
	if err := s.until("the followers", time.Minute, func() (bool, error) { return open.Load() >= int64(n), s.alive() }); err != nil {
		return err
	}
	// Each follower begins with a look at its task, of 16 commands. The long polls take 60 s, so none is renewed
	// in the time that is measured.
	if err := s.sleep(20 * time.Second); err != nil {
		return err
	}
	row := followers{Each: n}
	var err error
	if row.Commands, err = s.commandsDuring(d); err != nil {
		return err
	}
	bytes, err := m.memory()
	row.MB = float64(bytes) / (1 << 20)
	f.Followers = append(f.Followers, row)
	s.say("http: %d followers of each way: %.1f commands a second, %.0f MB", n, row.Commands, row.MB)
	if err != nil || n < 100 {
		return err
	}
	if err := f.gets(s, m, ids[0], d); err != nil {
		return err
	}
	if failed.Load() > 0 {
		return fmt.Errorf("%d followers got no answer", failed.Load())
	}
	return nil
}

// gets measures the time of looking at a task while others submit and follow.
func (f *httpFigures) gets(s *site, m *mill, id string, d time.Duration) error {
	var mu sync.Mutex
	load, stop := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := perSecond(load, 4, d+time.Second, func(ctx context.Context, n int64) error {
			_, err := m.post(ctx, "/v1/tasks", fmt.Appendf(nil, `{"kind":"text","lane":"bulk","input":{"prompt":"load %d"}}`, n), http.StatusAccepted)
			if ctx.Err() != nil {
				return nil
			}
			return err
		})
		done <- err
	}()
	_, err := perSecond(s.ctx, 4, d, func(ctx context.Context, _ int64) error {
		begun := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/v1/tasks/"+id, nil)
		if err != nil {
			return err
		}
		res, err := m.client.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		mu.Lock()
		defer mu.Unlock()
		f.GetMS = append(f.GetMS, float64(time.Since(begun).Microseconds())/1000)
		return err
	})
	stop()
	err = errors.Join(err, <-done)
	slices.Sort(f.GetMS)
	if len(f.GetMS) > 10_000 { // kept as every n-th
		step := len(f.GetMS) / 5000
		var some []float64
		for i := 0; i < len(f.GetMS); i += step {
			some = append(some, f.GetMS[i])
		}
		f.GetMS = some
	}
	s.say("http: GET p50 %.2f ms, p99 %.2f ms", percentile(f.GetMS, 50), percentile(f.GetMS, 99))
	return err
}

// Section implements figures.
func (f *httpFigures) Section() report.Section {
	s := report.Section{
		Title: "The HTTP interface",
		About: fmt.Sprintf(`One server, a real Redis and a real S3 server on the same machine; %d producers at once, each task with a pending record in the bucket. The rates are medians of rounds in turn. "Many" is
%d tasks in a call or request. Memory is that of the server's process. Those who follow are as many EventSources as long polls, on ten tasks that wait; meanwhile four clients look at a task again and again, and four submit.`, f.Producers, manyAtOnce),
	}
	one, many := median(f.HTTP)/median(f.Direct), median(f.ManyHTTP)/median(f.Many)
	s.Tables = append(s.Tables, report.Table{
		Head: []string{"", "tasks a second by tasks.Client", "by HTTP"},
		Rows: [][]string{
			{"one by one", fmt.Sprintf("%.0f", median(f.Direct)), fmt.Sprintf("%.0f", median(f.HTTP))},
			{"many", fmt.Sprintf("%.0f", median(f.Many)), fmt.Sprintf("%.0f", median(f.ManyHTTP))},
		},
	})
	t := report.Table{Head: []string{"EventSources, and as many long polls", "Redis commands a second", "memory"}}
	least, most := math.Inf(1), 0.0
	for _, r := range f.Followers {
		t.Rows = append(t.Rows, []string{strconv.Itoa(r.Each), fmt.Sprintf("%.1f", r.Commands), fmt.Sprintf("%.0f MB", r.MB)})
		least, most = min(least, r.Commands), max(most, r.Commands)
	}
	s.Tables = append(s.Tables, t)
	p50, p99 := percentile(f.GetMS, 50), percentile(f.GetMS, 99)
	s.Checks = []report.Check{
		{What: "tasks submitted one by one over HTTP, against tasks.Client", Target: "at least 50 %", Got: percent(one), Pass: one >= 0.5, Loaded: true},
		{What: "the same, many in a request", Target: "at least 50 %", Got: percent(many), Pass: many >= 0.5, Loaded: true},
		{What: "memory of an upload of 1 GB", Target: "below 64 MB", Got: fmt.Sprintf("%d MB", f.UploadExtra>>20), Pass: f.UploadExtra < 64<<20},
		{What: "Redis commands with 2,000 who follow, against 20", Target: "independent: at most 1.5 times", Got: fmt.Sprintf("%.1f against %.1f a second", most, least), Pass: most <= 1.5*least+5},
		{What: "p99 of looking at a task under load, against the median", Target: "at most 5 times", Got: fmt.Sprintf("%.1f ms against %.1f ms", p99, p50), Pass: p99 <= 5*p50, Loaded: true},
		{What: "Redis commands of an idle server", Target: "at most 5 a second", Got: fmt.Sprintf("%.1f", f.Idle), Pass: f.Idle <= 5},
	}
	return s
}
