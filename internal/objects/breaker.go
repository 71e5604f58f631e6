// Package objects names the objects in the bucket, and puts a circuit breaker around the
// bucket. All requests of a worker to the bucket go through one Breaker, a storage.Store
// that wraps another one.
//
// A bucket that refuses, hangs or is unreachable opens the breaker. While the breaker is
// open, only probes reach the bucket: one at a time, with growing pauses. Every other
// request fails at once with an *OpenError; Wait blocks until the breaker closes. The
// breaker closes after a probe has written, read and removed an object.
//
// The breaker keeps load off a failing bucket. It also tells a caller, before a paid
// call, whether the result can be stored.
package objects

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	rnd "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// SlowWrite is the time without progress after which a request counts as failed. It also
// bounds a probe.
const SlowWrite = 10 * time.Second

const (
	firstPause   = 250 * time.Millisecond // after the first failed probe
	longestPause = 15 * time.Second       // between probes
	relapse      = 10 * time.Second       // a breaker that reopens within this time resumes its pauses,
	relapsePause = 4 * time.Second        // up to this one
)

// Options of a Breaker.
type Options struct {
	// Preflight runs in place of Probe until it has passed once. It also checks that the
	// bucket refuses a second create-only write of one key. Nil means Probe.
	Preflight func(context.Context, storage.Store) error
	Log       *slog.Logger // nil means the default logger
	// OnChange is told whether the bucket takes results: after a failed probe, and when the
	// breaker opens or closes. It must not wait. Nil does nothing.
	OnChange func(takes bool)
}

// State describes a breaker.
type State struct {
	Open   bool
	Reason error     // the bucket's last error; nil when closed
	Since  time.Time // when it opened or closed
}

// OpenError reports that a request was not sent because the breaker is open.
type OpenError struct {
	Reason error // the bucket's last error
	Since  time.Time
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("the bucket has not worked since %s: %v", e.Since.UTC().Format(time.RFC3339), e.Reason)
}

// Unwrap returns the bucket's last error.
func (e *OpenError) Unwrap() error { return e.Reason }

// Error is a failure of the bucket itself, in contrast to an answer such as
// storage.ErrNotFound. Its text is that of the store's error.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the store's error.
func (e *Error) Unwrap() error { return e.Err }

// Unavailable reports whether err means that the bucket failed or that the request was
// not sent. An answer about one object, such as storage.ErrNotFound, is neither.
func Unavailable(err error) bool {
	return errors.As(err, new(*OpenError)) || errors.As(err, new(*Error))
}

var (
	errUntried = errors.New("it was not tried yet")
	errSlow    = fmt.Errorf("no answer within %v", SlowWrite)
)

// Breaker is a storage.Store with a circuit breaker. It starts open: the first request
// probes the bucket. It is safe for concurrent use.
type Breaker struct {
	store     storage.Store
	preflight func(context.Context, storage.Store) error
	log       *slog.Logger
	onChange  func(takes bool)

	mu      sync.Mutex
	open    bool
	reason  error
	since   time.Time      // of the current state
	failed  int            // consecutive failed probes, or reopenings within relapse
	due     time.Time      // of the next probe
	probing chan struct{}  // closed when the running probe ends; nil when none runs
	said    map[error]bool // sorts of failures that were logged since it opened, see sortOf
	passed  bool           // the preflight has passed once
}

var (
	_ storage.Store       = (*Breaker)(nil)
	_ storage.ManyDeleter = (*Breaker)(nil)
	_ storage.RangeGetter = (*Breaker)(nil)
)

// NewBreaker puts a breaker around a store. It sends no request.
func NewBreaker(s storage.Store, o Options) *Breaker {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Preflight == nil {
		o.Preflight = Probe
	}
	if o.OnChange == nil {
		o.OnChange = func(bool) {}
	}
	return &Breaker{store: s, preflight: o.Preflight, log: o.Log, onChange: o.OnChange, open: true, reason: errUntried, since: time.Now()}
}

// Probe creates an object under a new key, reads its head and removes it.
func Probe(ctx context.Context, s storage.Store) error {
	key := DefaultTenant + "/doctor/probe-" + rand.Text()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), SlowWrite/2)
		defer cancel()
		_ = s.Delete(ctx, key) // a leftover object does no harm
	}()
	if err := s.Create(ctx, key, strings.NewReader("a worker checks the bucket"), "text/plain"); err != nil {
		return fmt.Errorf("check the bucket: %w", err)
	}
	if _, err := s.Head(ctx, key); err != nil {
		return fmt.Errorf("check the bucket: %w", err)
	}
	return nil
}

// State returns the current state.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return State{Since: b.since}
	}
	return State{Open: true, Reason: b.reason, Since: b.since}
}

// Ready returns nil when the breaker is closed. When the breaker is open, Ready waits for
// a running probe, or starts a due one. Otherwise it returns an *OpenError at once.
func (b *Breaker) Ready(ctx context.Context) error {
	for {
		b.mu.Lock()
		if !b.open {
			b.mu.Unlock()
			return nil
		}
		refused := &OpenError{Reason: b.reason, Since: b.since}
		running := b.probing
		if running == nil {
			if time.Now().Before(b.due) {
				b.mu.Unlock()
				return refused
			}
			b.probing = make(chan struct{})
			b.mu.Unlock()
			if err := b.probe(ctx); err != nil {
				return err
			}
			continue
		}
		b.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return refused
		}
	}
}

// Wait returns nil once the breaker is closed, or an *OpenError when ctx ends first.
func (b *Breaker) Wait(ctx context.Context) error {
	for {
		err := b.Ready(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		b.mu.Lock()
		pause := time.Until(b.due)
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(max(pause, time.Millisecond)):
		}
	}
}

// probe runs the preflight or Probe and applies the outcome to the breaker. It returns an
// error only when ctx has ended, which tells nothing about the bucket.
func (b *Breaker) probe(ctx context.Context) error {
	b.mu.Lock()
	check := b.preflight
	if b.passed {
		check = Probe
	}
	b.mu.Unlock()

	bounded, cancel := context.WithTimeout(ctx, SlowWrite)
	err := check(bounded, b.store)
	cancel()

	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.probing)
	b.probing = nil
	switch {
	case err == nil:
		b.closeNow()
	case ctx.Err() != nil:
		return &OpenError{Reason: b.reason, Since: b.since}
	default:
		b.stayOpen(err)
	}
	return nil
}

// closeNow closes the breaker. b.mu is held.
func (b *Breaker) closeNow() {
	if len(b.said) > 0 {
		b.log.Info("the bucket works again", "after", time.Since(b.since).Round(time.Millisecond))
	}
	b.open, b.reason, b.since = false, nil, time.Now()
	b.said, b.passed = nil, true
	b.onChange(true)
}

// stayOpen records a failed probe and schedules the next one. b.mu is held.
func (b *Breaker) stayOpen(err error) {
	b.reason = err
	b.onChange(false)
	pause := min(firstPause<<min(b.failed, 10), longestPause)
	b.failed++
	b.due = time.Now().Add(pause/2 + rnd.N(pause/2))
	b.say(err)
}

// say logs a failure once, and again when a failure of another sort follows: the bucket's
// server is reached, for example, and now lacks the bucket. b.mu is held.
func (b *Breaker) say(err error) {
	sort := sortOf(err)
	if b.said[sort] {
		return
	}
	if b.said == nil {
		b.said = map[error]bool{}
	}
	b.said[sort] = true
	if sort == errors.ErrUnsupported { //nolint:errorlint // sortOf returns it unwrapped
		b.log.Error("the bucket cannot hold results: no call is sent", "error", clean(err))
		return
	}
	b.log.Error("the bucket does not work: no call is sent until it does", "error", clean(err), "since", b.since.UTC().Format(time.RFC3339))
}

var errFailing = errors.New("it fails")

// sortOf returns the sort of a failure: each needs another remedy.
func sortOf(err error) error {
	for _, sort := range []error{errors.ErrUnsupported, storage.ErrNoBucket, storage.ErrDenied} {
		if errors.Is(err, sort) {
			return sort
		}
	}
	return errFailing
}

// trip opens the breaker after a failed request. The first probe is due at once, unless
// the breaker closed less than relapse ago.
func (b *Breaker) trip(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		return
	}
	now := time.Now()
	b.due = now
	if now.Sub(b.since) < relapse {
		b.failed++
		pause := min(firstPause<<min(b.failed, 10), relapsePause)
		b.due = now.Add(pause/2 + rnd.N(pause/2))
	} else {
		b.failed = 0
	}
	b.open, b.reason, b.since = true, err, now
	b.onChange(false)
	b.log.Debug("the breaker of the bucket opens", "error", clean(err))
}

// clean returns the error's text for a log: one line of valid UTF-8, at most 300 bytes.
func clean(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:297], "") + "…"
	}
	return text
}

// answer applies the outcome of a request. Answers about one object pass unchanged; a
// failure opens the breaker, unless ctx has ended, and becomes an *Error.
func (b *Breaker) answer(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrExists), errors.Is(err, storage.ErrInvalidKey):
		return err
	case ctx.Err() == nil:
		b.trip(err)
	}
	return &Error{err}
}

// enter calls Ready before a request. When ctx has ended it returns the error of ctx, not
// that of the breaker.
func (b *Breaker) enter(ctx context.Context) error {
	err := b.Ready(ctx)
	if err != nil && ctx.Err() != nil {
		return &Error{ctx.Err()}
	}
	return err
}

// do sends one request when the breaker is closed. A request without an answer after
// SlowWrite opens the breaker and continues.
func (b *Breaker) do(ctx context.Context, request func() error) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	slow := time.AfterFunc(SlowWrite, func() { b.trip(errSlow) })
	defer slow.Stop()
	return b.answer(ctx, request())
}

// Put implements storage.Store.
func (b *Breaker) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return b.write(ctx, body, func(body io.Reader) error { return b.store.Put(ctx, key, body, contentType) })
}

// Create implements storage.Store.
func (b *Breaker) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return b.write(ctx, body, func(body io.Reader) error { return b.store.Create(ctx, key, body, contentType) })
}

// write sends a body. A streamed body may be slow or fail, which does not count as a
// failure of the bucket.
func (b *Breaker) write(ctx context.Context, body io.Reader, send func(io.Reader) error) error {
	if _, here := body.(io.Seeker); here {
		return b.do(ctx, func() error { return send(body) })
	}
	if err := b.enter(ctx); err != nil {
		return err
	}
	from := &source{Reader: body, slow: time.AfterFunc(SlowWrite, func() { b.trip(errSlow) })}
	err := send(from)
	from.slow.Stop()
	if from.err != nil {
		if errors.Is(err, from.err) {
			return err
		}
		return from.err
	}
	return b.answer(ctx, err)
}

// source is a streamed body. The time that the store waits for it does not count towards
// SlowWrite, and its read error is kept apart from the store's errors.
type source struct {
	io.Reader
	slow *time.Timer
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	s.slow.Stop()
	n, err := s.Reader.Read(p)
	s.slow.Reset(SlowWrite)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Get implements storage.Store.
func (b *Breaker) Get(ctx context.Context, key string) (body io.ReadCloser, err error) {
	err = b.do(ctx, func() error {
		body, err = b.store.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &object{ReadCloser: body, ctx: ctx, b: b}, nil
}

// object is a body read from the bucket; a read error opens the breaker.
type object struct {
	io.ReadCloser
	ctx context.Context
	b   *Breaker
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.b.answer(o.ctx, err)
	}
	return n, err
}

// GetRange implements storage.RangeGetter.
func (b *Breaker) GetRange(ctx context.Context, key string, offset, length int64) (part []byte, err error) {
	err = b.do(ctx, func() error {
		part, err = storage.GetRange(ctx, b.store, key, offset, length)
		return err
	})
	return part, err
}

// Head implements storage.Store.
func (b *Breaker) Head(ctx context.Context, key string) (info storage.Info, err error) {
	err = b.do(ctx, func() error {
		info, err = b.store.Head(ctx, key)
		return err
	})
	return info, err
}

// Delete implements storage.Store.
func (b *Breaker) Delete(ctx context.Context, key string) error {
	return b.do(ctx, func() error { return b.store.Delete(ctx, key) })
}

// DeleteMany implements storage.ManyDeleter.
func (b *Breaker) DeleteMany(ctx context.Context, keys []string) error {
	return b.do(ctx, func() error { return storage.DeleteMany(ctx, b.store, keys) })
}

// List implements storage.Store.
func (b *Breaker) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := b.enter(ctx); err != nil {
			yield(storage.Info{}, err)
			return
		}
		for info, err := range b.store.List(ctx, prefix, after) {
			if err != nil {
				yield(storage.Info{}, b.answer(ctx, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}
