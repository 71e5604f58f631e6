package ui

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
)

const (
	liveEvery    = time.Second
	liveFor      = 2 * time.Hour // one request follows; the browser asks again
	mostWatchers = 2000
	mostTopics   = 200
	quietFor     = 15 * time.Second // a comment is sent after so long, so that a gone watcher is noticed
)

// topic is a live part that watchers share: the same page for the same tenant and rights.
type topic struct {
	render   func(context.Context) ([]byte, error)
	watchers map[chan []byte]bool
	last     []byte
	sum      uint64
}

// hub renders each topic with watchers once a second, on one goroutine.
type hub struct {
	stopping <-chan struct{}
	log      *slog.Logger

	mu       sync.Mutex
	topics   map[string]*topic
	watchers int
	running  bool
}

func newHub(stopping <-chan struct{}, log *slog.Logger) *hub {
	return &hub{stopping: stopping, log: log, topics: map[string]*topic{}}
}

var errTooMany = errors.New("too many watchers")

// watch adds a watcher. The channel gets each change of the topic; a slow watcher
// gets only the latest one.
func (h *hub) watch(name string, render func(context.Context) ([]byte, error)) (<-chan []byte, func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[name]
	if h.watchers >= mostWatchers || t == nil && len(h.topics) >= mostTopics {
		return nil, nil, errTooMany
	}
	if t == nil {
		t = &topic{render: render, watchers: map[chan []byte]bool{}}
		h.topics[name] = t
	}
	c := make(chan []byte, 1)
	if t.last != nil {
		c <- t.last
	}
	t.watchers[c] = true
	h.watchers++
	if !h.running {
		h.running = true
		go h.run()
	}
	return c, func() { h.leave(name, c) }, nil
}

func (h *hub) leave(name string, c chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[name]
	delete(t.watchers, c)
	h.watchers--
	if len(t.watchers) == 0 {
		delete(h.topics, name)
	}
}

// run renders until there are no watchers or the server stops.
func (h *hub) run() {
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.stopping:
			return
		case <-tick.C:
		}
		topics, ended := h.current()
		if ended {
			return
		}
		for _, t := range topics {
			h.refresh(t)
		}
	}
}

// current returns the topics, and whether the goroutine may end because there are none.
func (h *hub) current() ([]*topic, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	topics := make([]*topic, 0, len(h.topics))
	for _, t := range h.topics {
		topics = append(topics, t)
	}
	h.running = len(topics) > 0
	return topics, !h.running
}

func (h *hub) refresh(t *topic) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	text, err := t.render(ctx)
	if err != nil {
		h.log.Debug("live part not rendered", "error", err)
		return
	}
	f := fnv.New64a()
	_, _ = f.Write(text)
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.Sum64() == t.sum {
		return
	}
	t.sum, t.last = f.Sum64(), text
	for c := range t.watchers {
		select {
		case <-c: // a slow watcher misses the one before
		default:
		}
		c <- text
	}
}

// follow answers with the live part of a page as server-sent events.
func (u *UI) follow(w http.ResponseWriter, r *http.Request, c Caller, p *page) {
	request := r.Clone(context.WithoutCancel(r.Context()))
	f := u.frame(r, c, p, nil)
	f.Done = ""
	name := strings.Join([]string{c.Tenant, rights(c), f.Live}, "\x00")
	parts, leave, err := u.live.watch(name, func(ctx context.Context) ([]byte, error) {
		data, err := p.load(ctx, request, c)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err = p.views.ExecuteTemplate(&b, "live", f.Of(data))
		return b.Bytes(), err
	})
	if err != nil {
		http.Error(w, "this server has too many watchers", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	ctx, cancel := context.WithTimeout(r.Context(), liveFor)
	defer cancel()
	u.stream(ctx, w, r, parts)
}

func (u *UI) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, parts <-chan []byte) {
	control := http.NewResponseController(w)
	quiet := time.NewTicker(quietFor)
	defer quiet.Stop()
	message := []byte(": hello\n\n")
	for {
		if _, err := w.Write(message); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-u.cfg.Stopping:
			return
		case <-quiet.C:
			message = []byte(": quiet\n\n")
			if _, refusal := u.identify(r); refusal != nil { // the key was revoked
				return
			}
		case text := <-parts:
			message = event(text)
		}
	}
}

// event encodes a text as a server-sent event.
func event(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.WriteString("data: ")
		b.Write(bytes.ReplaceAll(bytes.TrimRight(line, "\r\n"), []byte("\r"), nil))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func rights(c Caller) string {
	var b strings.Builder
	for _, s := range keys.Scopes {
		if c.Allows(s) {
			b.WriteString(string(s) + " ")
		}
	}
	return b.String()
}
