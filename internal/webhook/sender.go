package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/redis/go-redis/v9"
)

const (
	// SendEvery is how often the leader looks for deliveries that are due.
	SendEvery = time.Second

	mostFlying = 64               // tries under way
	perHost    = 4                // to one host
	hostPause  = 5 * time.Second  // until the next try at a host that has perHost
	tryFor     = 20 * time.Second // most time of a try
	claimFor   = time.Minute      // until a try counts as lost with its process
	readMost   = 4 << 10          // bytes of an answer
	trimEvery  = time.Minute
	unsignedIn = time.Minute // how often a leader without a secret looks
	longest    = 24 * time.Hour
)

// pauses are those after each failed try, before jitter: about three days in all.
var pauses = []time.Duration{
	5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 18 * time.Hour, 24 * time.Hour,
}

// Sender sends deliveries. Only one process may use it at a time: the leader.
type Sender struct {
	Queue   *Queue
	Signers []Signer     // none means that deliveries wait
	HTTP    *http.Client // nil means one that only connects to public addresses and Networks
	// Networks are private networks that deliveries may reach; none by default.
	Networks fetch.Networks
	Log      *slog.Logger
	// OnTry is told the state of a delivery after each try; it may be nil.
	OnTry func(State)

	connect   sync.Once // makes transport
	transport http.RoundTripper

	mu      sync.Mutex
	flying  map[string]int // tries under way, by host
	total   int
	tries   sync.WaitGroup
	trimmed time.Time
	told    time.Time // when the missing secret was logged
}

// Run starts the deliveries that are due, and returns while they are under way. They end
// with ctx, and are then sent again by the next leader. It is the job of a
// maintenance.Service: next is when to run again, 0 for SendEvery.
func (s *Sender) Run(ctx context.Context) (next time.Duration, err error) {
	if len(s.Signers) == 0 {
		return unsignedIn, s.warnUnsigned(ctx)
	}
	if err := s.trim(ctx); err != nil {
		return 0, err
	}
	const page = 200
	ids, err := s.Queue.Redis.ZRangeByScore(ctx, DueKey, &redis.ZRangeBy{Min: "-inf", Max: fmt.Sprint(time.Now().UnixMilli()), Count: page}).Result()
	if err != nil {
		return 0, fmt.Errorf("look for webhooks: %w", err)
	}
	for _, id := range ids {
		if s.full() {
			return 100 * time.Millisecond, nil
		}
		if err := s.start(ctx, id); err != nil {
			return 0, err
		}
	}
	if len(ids) == page {
		return 10 * time.Millisecond, nil
	}
	return 0, nil
}

// Wait returns when no try is under way.
func (s *Sender) Wait() { s.tries.Wait() }

// warnUnsigned logs once an hour that deliveries wait for a secret.
func (s *Sender) warnUnsigned(ctx context.Context) error {
	n, err := s.Queue.Redis.ZCard(ctx, DueKey).Result()
	if err != nil || n == 0 || time.Since(s.told) < time.Hour {
		return err
	}
	s.told = time.Now()
	s.Log.Warn("webhooks wait: set NEURONMILL_WEBHOOK_SECRET for all workers", "waiting", n)
	return nil
}

// trim applies the bounds of the queue now and then.
func (s *Sender) trim(ctx context.Context) error {
	if time.Since(s.trimmed) < trimEvery {
		return nil
	}
	s.trimmed = time.Now()
	pipe := s.Queue.Redis.Pipeline()
	dropped := pipe.ZRemRangeByRank(ctx, DueKey, MostWaiting, -1)
	pipe.ZRemRangeByScore(ctx, GoneKey, "-inf", fmt.Sprint(time.Now().Add(-DisabledFor).UnixMilli()))
	pipe.ZRemRangeByRank(ctx, GoneKey, 0, -mostGone-1)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("trim the queue of webhooks: %w", err)
	}
	if n := dropped.Val(); n > 0 {
		s.Log.Warn("too many webhooks wait: some are dropped", "dropped", n, "most", MostWaiting)
	}
	return nil
}

func (s *Sender) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total >= mostFlying
}

// enter takes one of a host's places.
func (s *Sender) enter(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flying[host] >= perHost {
		return false
	}
	if s.flying == nil {
		s.flying = map[string]int{}
	}
	s.flying[host]++
	s.total++
	return true
}

func (s *Sender) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.flying[host]--; s.flying[host] == 0 {
		delete(s.flying, host)
	}
}

// start begins a try of a delivery, unless its host has enough of them.
func (s *Sender) start(ctx context.Context, id string) error {
	r := s.Queue.Redis
	d, err := s.Queue.Get(ctx, id)
	if errors.Is(err, ErrUnknown) || err == nil && d.State != Waiting {
		return r.ZRem(ctx, DueKey, id).Err()
	}
	if err != nil {
		return err
	}
	gone, err := r.ZScore(ctx, GoneKey, endpoint(d.URL)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("look for the endpoint: %w", err)
	}
	if time.Since(time.UnixMilli(int64(gone))) < DisabledFor {
		s.record(ctx, d, outcome{state: Gone, answer: "the endpoint answered 410 earlier"})
		return nil
	}
	if !s.enter(d.Host()) {
		return s.dueIn(ctx, id, hostPause)
	}
	if err := s.dueIn(ctx, id, claimFor); err != nil {
		s.leave(d.Host())
		return err
	}
	s.tries.Go(func() {
		defer s.leave(d.Host())
		out := s.try(ctx, d)
		if ctx.Err() == nil || out.state == Delivered {
			s.record(ctx, d, out)
		}
	})
	return nil
}

func (s *Sender) dueIn(ctx context.Context, id string, d time.Duration) error {
	err := s.Queue.Redis.ZAddXX(ctx, DueKey, redis.Z{Score: float64(time.Now().Add(d).UnixMilli()), Member: id}).Err()
	if err != nil {
		return fmt.Errorf("put off the delivery %s: %w", id, err)
	}
	return nil
}

// outcome is the result of one try.
type outcome struct {
	state  State
	answer string
	sent   bool
	after  time.Duration // the receiver's Retry-After
}

// try sends a delivery once.
func (s *Sender) try(ctx context.Context, d Delivery) outcome {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, bytes.NewReader(d.Body))
	if err == nil {
		err = s.Networks.Allowed(req.URL)
	}
	if err != nil {
		return outcome{state: Failed, answer: "the URL is not allowed"}
	}
	for name, value := range Headers(s.Signers, d.Tenant, d.ID, time.Now(), d.Body) {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "neuronmill")
	resp, err := s.client().Do(req)
	if err != nil {
		return outcome{state: Waiting, answer: fetch.Reason(err), sent: true}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, readMost) // the content is ignored
	out := outcome{state: Waiting, answer: "status " + strconv.Itoa(resp.StatusCode), sent: true, after: retryAfter(resp.Header)}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		out.state = Delivered
	case resp.StatusCode == http.StatusGone:
		out.state = Gone
	}
	return out
}

// client returns a client that follows no redirects.
func (s *Sender) client() *http.Client {
	s.connect.Do(func() { s.transport = s.Networks.Transport() })
	c := http.Client{Transport: s.transport}
	if s.HTTP != nil {
		c = *s.HTTP
	}
	c.Jar = nil
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// retryAfter reads the header, at most a day.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return min(max(time.Duration(min(seconds, 1e6))*time.Second, 0), longest)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(time.Until(at), 0), longest)
}

// record writes the outcome of a try, and when the next one is due.
func (s *Sender) record(ctx context.Context, d Delivery, out outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if out.sent {
		d.Attempts++
	}
	entry := Entry{ID: d.ID, Task: d.Task, Time: time.Now().UTC(), Attempt: d.Attempts, Host: d.Host(), State: out.state, Answer: out.answer}
	if out.state == Waiting && d.Attempts > len(pauses) {
		entry.State = Failed
	}
	if s.OnTry != nil && out.sent {
		s.OnTry(entry.State)
	}
	pipe := s.Queue.Redis.Pipeline()
	if entry.State == Waiting {
		pause := pauses[d.Attempts-1]
		pause = max(pause*9/10+rand.N(pause/5), out.after)
		entry.Next = time.Now().Add(pause).UTC()
		pipe.ZAddXX(ctx, DueKey, redis.Z{Score: float64(entry.Next.UnixMilli()), Member: d.ID})
	} else {
		pipe.ZRem(ctx, DueKey, d.ID)
	}
	if entry.State == Gone && out.sent {
		pipe.ZAdd(ctx, GoneKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: endpoint(d.URL)})
	}
	pipe.HSet(ctx, Key(d.ID), "state", string(entry.State), "attempts", d.Attempts, "last", out.answer)
	pipe.PExpire(ctx, Key(d.ID), KeptFor)
	if line, err := json.Marshal(entry); err == nil {
		pipe.LPush(ctx, LogKey(d.Tenant), line)
		pipe.LTrim(ctx, LogKey(d.Tenant), 0, MostLogged-1)
		pipe.PExpire(ctx, LogKey(d.Tenant), KeptFor)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		s.Log.Debug("outcome of a webhook not written: it is sent again", "delivery", d.ID, "error", err)
	}
	if entry.State == Failed || entry.State == Gone {
		s.Log.Warn("webhook given up", "delivery", d.ID, "host", entry.Host, "attempts", d.Attempts, "answer", out.answer, "state", entry.State)
	}
}
