package objects_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/storagetest"
	"github.com/stretchr/testify/require"
)

// bucket is a store that can refuse or delay its requests, and counts them.
type bucket struct {
	*storage.Memory
	writes, reads   atomic.Bool // refused
	delay           atomic.Int64
	asked, creates  atomic.Int64
	atOnce, busiest atomic.Int64
}

var errRefused = errors.New("403 QuotaExceeded")

func (b *bucket) meet(ctx context.Context, refused *atomic.Bool) error {
	b.asked.Add(1)
	defer b.atOnce.Add(-1)
	b.busiest.Store(max(b.busiest.Load(), b.atOnce.Add(1)))
	if d := time.Duration(b.delay.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if refused.Load() {
		return errRefused
	}
	return nil
}

func (b *bucket) Put(ctx context.Context, key string, body io.Reader, ct string) error {
	if err := b.meet(ctx, &b.writes); err != nil {
		return err
	}
	return b.Memory.Put(ctx, key, body, ct)
}

func (b *bucket) Create(ctx context.Context, key string, body io.Reader, ct string) error {
	b.creates.Add(1)
	if err := b.meet(ctx, &b.writes); err != nil {
		return err
	}
	return b.Memory.Create(ctx, key, body, ct)
}

func (b *bucket) Head(ctx context.Context, key string) (storage.Info, error) {
	if err := b.meet(ctx, &b.reads); err != nil {
		return storage.Info{}, err
	}
	return b.Memory.Head(ctx, key)
}

func (b *bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := b.meet(ctx, &b.reads); err != nil {
		return nil, err
	}
	body, err := b.Memory.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return &torn{body, &b.reads}, nil
}

func (b *bucket) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := b.meet(ctx, &b.reads); err != nil {
			yield(storage.Info{}, err)
			return
		}
		b.Memory.List(ctx, prefix, after)(yield)
	}
}

// torn is a body that breaks off once reads are refused.
type torn struct {
	io.ReadCloser
	broken *atomic.Bool
}

func (t *torn) Read(p []byte) (int, error) {
	if t.broken.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return t.ReadCloser.Read(p)
}

// breaker runs a story in synthetic time with a closed breaker.
func breaker(t *testing.T, story func(t *testing.T, b *objects.Breaker, s *bucket)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &bucket{Memory: storage.NewMemory()}
		b := objects.NewBreaker(s, objects.Options{Log: slog.New(slog.DiscardHandler)})
		require.True(t, b.State().Open, "an untried bucket")
		require.NoError(t, b.Ready(t.Context()))
		require.False(t, b.State().Open)
		time.Sleep(time.Minute)
		story(t, b, s)
	})
}

func put(t *testing.T, s storage.Store, key string) error {
	return s.Put(t.Context(), key, strings.NewReader("body"), "text/plain")
}

func TestABreakerIsAStore(t *testing.T) {
	realtest.Long(t)
	storagetest.Run(t, func(*testing.T) storage.Store {
		return objects.NewBreaker(storage.NewMemory(), objects.Options{})
	})
}

func TestARefusedRequestOpensTheBreaker(t *testing.T) {
	requests := map[string]func(*testing.T, storage.Store) error{
		"put": func(t *testing.T, s storage.Store) error { return put(t, s, "a") },
		"create": func(t *testing.T, s storage.Store) error {
			return s.Create(t.Context(), "new", strings.NewReader("body"), "")
		},
		"head": func(t *testing.T, s storage.Store) error { _, err := s.Head(t.Context(), "a"); return err },
		"get":  func(t *testing.T, s storage.Store) error { _, err := s.Get(t.Context(), "a"); return err },
		"list": func(t *testing.T, s storage.Store) error {
			for _, err := range s.List(t.Context(), "", "") {
				return err
			}
			return nil
		},
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
				require.NoError(t, put(t, b, "a"))
				s.writes.Store(true)
				s.reads.Store(true)
				err := request(t, b)
				require.ErrorIs(t, err, errRefused)
				require.True(t, objects.Unavailable(err))
				state := b.State()
				require.True(t, state.Open)
				require.ErrorIs(t, state.Reason, errRefused)
				require.Equal(t, time.Now(), state.Since)
			})
		})
	}
}

func TestABodyThatBreaksOffInTheBucketOpensTheBreaker(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		require.NoError(t, put(t, b, "a"))
		body, err := b.Get(t.Context(), "a")
		require.NoError(t, err)
		s.reads.Store(true)
		_, err = io.ReadAll(body)
		require.True(t, objects.Unavailable(err))
		require.True(t, b.State().Open)
	})
}

func TestAnAnswerAboutOneObjectLeavesTheBreakerClosed(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, _ *bucket) {
		require.NoError(t, put(t, b, "a"))
		_, err := b.Head(t.Context(), "none")
		require.ErrorIs(t, err, storage.ErrNotFound)
		require.ErrorIs(t, b.Create(t.Context(), "a", strings.NewReader("x"), ""), storage.ErrExists)
		require.ErrorIs(t, put(t, b, "../a"), storage.ErrInvalidKey)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, b.Put(ctx, "a", strings.NewReader("x"), ""))
		require.False(t, b.State().Open)
	})
}

func TestAnOpenBreakerAsksTheBucketRarelyAndOnceAtATime(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		s.writes.Store(true)
		require.Error(t, put(t, b, "a"))
		s.asked.Store(0)
		s.busiest.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		var everybody sync.WaitGroup
		for range 20 { // some wait, others ask in a loop
			everybody.Go(func() { _ = b.Wait(ctx) })
			everybody.Go(func() {
				for ctx.Err() == nil {
					_, _ = b.Head(ctx, "a")
					time.Sleep(time.Second)
				}
			})
		}
		everybody.Wait()
		require.LessOrEqual(t, s.asked.Load(), int64(3*3600/7+20), "a probe every 7.5 to 15 s")
		require.GreaterOrEqual(t, s.asked.Load(), int64(3*3600/15))
		require.EqualValues(t, 1, s.busiest.Load())
	})
}

func TestABreakerClosesSoonAfterTheBucketWorksAgain(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		s.writes.Store(true)
		require.Error(t, put(t, b, "a"))
		time.Sleep(time.Hour)
		go func() { time.Sleep(time.Minute); s.writes.Store(false) }()
		start := time.Now()
		require.NoError(t, b.Wait(t.Context()))
		require.InDelta(t, 67, time.Since(start).Seconds(), 8)
		require.False(t, b.State().Open)
		require.NoError(t, put(t, b, "a"))
		for info := range s.Memory.List(t.Context(), "default/doctor/", "") {
			t.Errorf("a probe left %s behind", info.Key)
		}
	})
}

// A bucket that accepts writes and refuses reads, or the reverse, does not close the
// breaker.
func TestABreakerStaysOpenWhileEitherReadsOrWritesAreRefused(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		s.reads.Store(true)
		_, err := b.Head(t.Context(), "a")
		require.Error(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.Error(t, b.Wait(ctx))
		s.reads.Store(false)
		s.writes.Store(true)
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.Error(t, b.Wait(ctx))
	})
}

func TestASlowWriteOpensTheBreakerBeforeItEnds(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		s.delay.Store(int64(time.Minute))
		done := make(chan error, 1)
		go func() { done <- put(t, b, "a") }()
		time.Sleep(objects.SlowWrite + time.Second)
		require.True(t, b.State().Open)
		require.NoError(t, <-done, "the write itself may still succeed")
		require.True(t, b.State().Open, "only a probe closes it")
		s.delay.Store(0)
		require.NoError(t, b.Wait(t.Context()))
	})
}

func TestABodyThatComesSlowlyOrBreaksIsNotTheBucketsFailure(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, _ *bucket) {
		pr, pw := io.Pipe()
		go func() {
			for range 5 {
				time.Sleep(time.Minute)
				_, _ = pw.Write([]byte("piece"))
			}
			pw.Close()
		}()
		require.NoError(t, b.Put(t.Context(), "slow", pr, ""))
		require.False(t, b.State().Open)
		broken := errors.New("the line is dead")
		pr, pw = io.Pipe()
		go pw.CloseWithError(broken)
		err := b.Put(t.Context(), "broken", pr, "")
		require.ErrorIs(t, err, broken)
		require.False(t, objects.Unavailable(err))
		require.False(t, b.State().Open)
	})
}

func TestABucketThatFailsEveryOtherRequestIsNotProbedWithoutPause(t *testing.T) {
	breaker(t, func(t *testing.T, b *objects.Breaker, s *bucket) {
		s.creates.Store(0)
		for start := time.Now(); time.Since(start) < time.Minute; {
			s.writes.Store(true)
			_ = put(t, b, "a")
			s.writes.Store(false)
			require.NoError(t, b.Wait(t.Context()))
		}
		require.Less(t, s.creates.Load(), int64(60))
	})
}

// A worker may start before the bucket's server, which then lacks the bucket.
func TestABucketThatTurnsOutToBeMissingIsNamedInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		asked := 0
		b := objects.NewBreaker(storage.NewMemory(), objects.Options{
			Log: slog.New(slog.NewTextHandler(&log, nil)), Preflight: func(context.Context, storage.Store) error {
				if asked++; asked <= 3 {
					return errors.New("connection refused")
				}
				return fmt.Errorf("%w: create results", storage.ErrNoBucket)
			},
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		require.Error(t, b.Wait(ctx))
		require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), log.String())
		require.Contains(t, log.String(), "create results")
	})
}

func TestThePreflightIsAskedUntilItPassedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		asked, no := 0, errors.New("it ignores If-None-Match")
		refuse := true
		s := &bucket{Memory: storage.NewMemory()}
		b := objects.NewBreaker(s, objects.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Preflight: func(context.Context, storage.Store) error {
			if asked++; refuse {
				return errors.Join(no, errors.ErrUnsupported)
			}
			return nil
		}})
		require.ErrorIs(t, put(t, b, "a"), errors.ErrUnsupported)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.ErrorIs(t, b.Wait(ctx), no)
		require.Zero(t, s.asked.Load())
		require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "it is said once: %s", log.String())
		refuse = false
		require.NoError(t, b.Wait(t.Context()))
		require.Contains(t, log.String(), "the bucket works again")
		so := asked
		time.Sleep(time.Minute)
		s.writes.Store(true)
		require.Error(t, put(t, b, "a"))
		s.writes.Store(false)
		require.NoError(t, b.Wait(t.Context()))
		require.Equal(t, so, asked)
	})
}

func TestAProbeThatIsInterruptedSaysNothingAboutTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bucket{Memory: storage.NewMemory()}
		s.delay.Store(int64(time.Second))
		b := objects.NewBreaker(s, objects.Options{Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		other := make(chan error, 1)
		go func() { other <- b.Wait(t.Context()) }()
		go func() { _ = b.Ready(ctx) }()
		require.NoError(t, <-other)
	})
}
