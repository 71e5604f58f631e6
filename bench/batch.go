package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// part is the use of one process in a batch.
type part struct {
	Wall float64 `json:"wall_s"`
	CPU  float64 `json:"cpu_s"`
	Peak int64   `json:"peak_bytes"` // resident memory
}

type batchFigures struct {
	Lines    int          `json:"lines"`
	Bytes    int64        `json:"bytes"`  // of the file
	Ingest   part         `json:"ingest"` // batch submit
	Engine   part         `json:"engine"` // a worker: calls, results, shards, output
	Calls    int          `json:"calls"`
	Redis    float64      `json:"redis_bytes"` // most memory of Redis during the run, per line
	Memory   []usedMemory `json:"memory"`      // during the run
	Again    part         `json:"again"`       // submit --reuse of the same file, until its end
	Recalled int          `json:"recalled"`    // calls of that
}

// usedMemory is the memory of a worker and of Redis at a moment.
type usedMemory struct {
	At     float64 `json:"at_s"` // since the start of the run
	Worker int64   `json:"worker"`
	Redis  int64   `json:"redis"`
}

// mostMoments bounds the moments of a run.
const mostMoments = 240

// resident returns the resident memory of a process, in bytes; 0 when it is not known.
func resident(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func measureBatch(l *lab) (figures, error) {
	f := &batchFigures{Lines: 1_000_000}
	if l.quick {
		f.Lines = 50_000
	}
	s, err := l.open(workersaitest.Options{NoLimits: true})
	if err != nil {
		return nil, err
	}
	defer s.close()
	api := &atOnce{}
	s.server.Handler = api
	file := filepath.Join(s.dir, "rows.jsonl")
	if f.Bytes, err = writeRows(file, f.Lines); err != nil {
		return nil, err
	}
	empty, err := s.redisUse()
	if err != nil {
		return nil, err
	}
	id, err := s.submit(f, file)
	if err != nil {
		return nil, err
	}
	l.say("batch: %d lines accepted in %.1f s, %.1f CPU s, peak %d MB", f.Lines, f.Ingest.Wall, f.Ingest.CPU, f.Ingest.Peak>>20)
	start := time.Now()
	if err := s.workers(1, tasks.KindEmbedding, 1_000_000); err != nil {
		return nil, err
	}
	worker := s.processes[len(s.processes)-1]
	b := batch.New(batch.Config{Client: s.client(true), Store: s.store, Redis: s.redis})
	most, looked := int64(0), time.Time{}
	err = s.until("the end of the batch", 2*time.Hour, func() (bool, error) {
		if time.Since(looked) < 500*time.Millisecond {
			return false, s.alive()
		}
		looked = time.Now()
		now, err := s.redisUse()
		if err != nil {
			return false, err
		}
		most = max(most, now.since(empty).memory)
		f.remember(usedMemory{time.Since(start).Seconds(), resident(worker.cmd.Process.Pid), now.since(empty).memory})
		state, err := b.State(s.ctx, id)
		if err != nil || state.EndedAt.IsZero() {
			return false, err
		}
		if state.Completed != f.Lines {
			return false, fmt.Errorf("%d of %d lines completed", state.Completed, f.Lines)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	f.Engine.Wall = time.Since(start).Seconds()
	f.Engine.CPU = s.stopWorkers().Seconds()
	f.Engine.Peak = peak(worker.cmd)
	called := api.count()
	if err := s.store.Delete(s.ctx, b.OutputKey(id)); err != nil { // the disk may not have room for two
		return nil, err
	}
	if err := s.workers(1, tasks.KindEmbedding, 1_000_000); err != nil {
		return nil, err
	}
	if err := s.again(f, b, file); err != nil {
		return nil, err
	}
	f.Recalled = api.count() - called
	l.say("batch: again with --reuse in %.1f s, %d calls", f.Again.Wall, f.Recalled)
	f.Calls, f.Redis = called, float64(most)/float64(f.Lines)
	l.say("batch: run in %.1f s, %.1f CPU s, peak %d MB, %d calls, %.1f bytes of Redis a line", f.Engine.Wall, f.Engine.CPU, f.Engine.Peak>>20, f.Calls, f.Redis)
	return f, nil
}

// remember keeps a moment, every other one after there are many.
func (f *batchFigures) remember(m usedMemory) {
	if f.Memory = append(f.Memory, m); len(f.Memory) < mostMoments {
		return
	}
	kept := f.Memory[:0]
	for i := 0; i < mostMoments; i += 2 {
		kept = append(kept, f.Memory[i])
	}
	f.Memory = kept
}

// again submits the file once more and takes all results from the first batch.
func (s *site) again(f *batchFigures, b *batch.Batches, file string) error {
	start := time.Now()
	id, err := s.submit(&batchFigures{}, file, "--reuse", "90d")
	if err != nil {
		return err
	}
	err = s.until("the end of the second batch", 2*time.Hour, func() (bool, error) {
		state, err := b.State(s.ctx, id)
		if err == nil {
			err = s.alive()
		}
		if err != nil || state.EndedAt.IsZero() {
			return false, err
		}
		if state.Completed != f.Lines || state.Cached != f.Lines {
			return false, fmt.Errorf("%d of %d lines completed, %d from the first batch", state.Completed, f.Lines, state.Cached)
		}
		return true, nil
	})
	f.Again.Wall = time.Since(start).Seconds()
	return err
}

// submit hands the file over and returns the id of the batch.
func (s *site) submit(f *batchFigures, file string, flags ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, s.binary, append([]string{"batch", "submit", file}, flags...)...)
	cmd.Env = append(os.Environ(), "NEURONMILL_REDIS_URL=redis://127.0.0.1:"+s.port+"/0", "NEURONMILL_STORE_URL="+s.bucket)
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("batch submit: %w", err)
	}
	f.Ingest = part{time.Since(start).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), peak(cmd)}
	return strings.TrimSpace(string(out)), nil
}

// peak returns the most resident memory of a process that has ended, in bytes.
func peak(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

// writeRows writes a file of embedding lines and returns its size.
func writeRows(path string, n int) (int64, error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	w := bufio.NewWriterSize(file, 1<<20)
	for i := range n {
		fmt.Fprintf(w, `{"id":"row-%d","kind":"embedding","model":"@cf/baai/bge-base-en-v1.5","input":{"texts":[%q]}}`+"\n", i, rowText(i, n))
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), file.Close()
}

// rowText is the text of a line.
func rowText(i, n int) string {
	return fmt.Sprintf("%s, one of the many titles of a catalogue with %d entries", textOf(i), n)
}

// atOnce answers embedding calls with stored vectors of 768 numbers, so that the
// emulator's own work does not count.
type atOnce struct {
	mu      sync.Mutex
	calls   int
	answers map[int][]byte // by number of texts
}

func (a *atOnce) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// ServeHTTP implements http.Handler.
func (a *atOnce) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Text []string `json:"text"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cf-Ai-Neurons", strconv.Itoa(len(body.Text)))
	_, _ = w.Write(a.answer(len(body.Text))) // a broken connection is the client's to notice
}

func (a *atOnce) answer(texts int) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if answer, ok := a.answers[texts]; ok {
		return answer
	}
	var b strings.Builder
	fmt.Fprintf(&b, `{"result":{"shape":[%d,768],"data":[`, texts)
	for t := range texts {
		if t > 0 {
			b.WriteByte(',')
		}
		for i := range 768 {
			fmt.Fprintf(&b, "%c%.9f", "[,"[min(i, 1)], float64((t*768+i)%9973)/99730-0.05)
		}
		b.WriteByte(']')
	}
	b.WriteString(`]},"success":true,"errors":[],"messages":[]}`)
	if a.answers == nil {
		a.answers = map[int][]byte{}
	}
	a.answers[texts] = []byte(b.String())
	return a.answers[texts]
}

// Section implements figures.
func (f *batchFigures) Section() report.Section {
	lines := float64(f.Lines)
	s := report.Section{
		Title: "A batch",
		About: fmt.Sprintf(`%d lines of embeddings (%d MB), 768 numbers a vector, answers at once. *Accepted* is neuronmill batch submit: every line is checked and stored. *Run* is one worker that
calls, stores the results, and puts shards and output together; the bucket is a folder. The price of a line of output is that of its vector, 9 KB of text.`, f.Lines, f.Bytes>>20),
	}
	row := func(what string, p part) []string {
		return []string{what, fmt.Sprintf("%.1f s", p.Wall), fmt.Sprintf("%.0f", lines/p.Wall), fmt.Sprintf("%.0f", lines/p.CPU), fmt.Sprintf("%d MB", p.Peak>>20)}
	}
	s.Tables = []report.Table{{
		Head: []string{"", "time", "lines a second", "lines a CPU second", "peak memory"},
		Rows: [][]string{row("accepted", f.Ingest), row("run", f.Engine)},
	}}
	if f.Again.Wall > 0 {
		s.Tables[0].Rows = append(s.Tables[0].Rows, []string{"both again, with --reuse 90d", fmt.Sprintf("%.1f s", f.Again.Wall), fmt.Sprintf("%.0f", lines/f.Again.Wall), "", ""})
	}
	if len(f.Memory) > 0 {
		worker, redis := report.Series{Name: "worker"}, report.Series{Name: "Redis"}
		for _, m := range f.Memory {
			worker.X, worker.Y = append(worker.X, m.At), append(worker.Y, float64(m.Worker)/(1<<20))
			redis.X, redis.Y = append(redis.X, m.At), append(redis.Y, float64(m.Redis)/(1<<20))
		}
		s.Plot = &report.Plot{Title: fmt.Sprintf("Memory during a batch of %d lines", f.Lines), X: "seconds", Y: "MB", Lines: []report.Series{worker, redis}}
	}
	s.Checks = []report.Check{
		{What: "calls", Target: "one for 100 lines", Got: fmt.Sprint(f.Calls), Pass: f.Calls == (f.Lines+99)/100},
		{What: "lines accepted a CPU second", Target: "at least 200,000", Got: fmt.Sprintf("%.0f", lines/f.Ingest.CPU), Pass: lines/f.Ingest.CPU >= 200_000, Loaded: true},
		{What: "peak memory of accepting", Target: "at most 128 MB", Got: fmt.Sprintf("%d MB", f.Ingest.Peak>>20), Pass: f.Ingest.Peak <= 128<<20},
		{What: "peak memory of the worker", Target: "at most 256 MB", Got: fmt.Sprintf("%d MB", f.Engine.Peak>>20), Pass: f.Engine.Peak <= 256<<20},
		{What: "the same file again, with --reuse", Target: "0 calls, under 2 minutes", Got: fmt.Sprintf("%d calls, %.0f s", f.Recalled, f.Again.Wall), Pass: f.Recalled == 0 && f.Again.Wall < 120, Loaded: true},
		{What: "bytes of Redis a line at most", Target: "at most 32 at a million lines", Got: fmt.Sprintf("%.1f", f.Redis), Pass: f.Redis <= 32, Loaded: true},
	}
	return s
}
