package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/stretchr/testify/require"
)

// behind returns a store on a real server, and the proxy between them.
func behind(t *testing.T, patience time.Duration) (*s3store.Store, *realtest.Door) {
	t.Helper()
	door := realtest.NewDoor(t, realtest.S3Server(t).Addr)
	config, err := s3store.ParseURL(fmt.Sprintf("s3://%s/p?region=us-east-1&path_style=true&endpoint=http://%s", realtest.Bucket, door.Addr))
	require.NoError(t, err)
	config.Patience = patience
	s, err := s3store.Open(t.Context(), config)
	require.NoError(t, err)
	return s, door
}

// uses are all operations of a store, on an existing object.
var uses = map[string]func(context.Context, storage.Store) error{
	"put": func(ctx context.Context, s storage.Store) error {
		return s.Put(ctx, "k/put", strings.NewReader("new"), "text/plain")
	},
	"create": func(ctx context.Context, s storage.Store) error {
		return s.Create(ctx, "k/create", strings.NewReader("new"), "text/plain")
	},
	"create a large one": func(ctx context.Context, s storage.Store) error {
		return s.Create(ctx, "k/large", bytes.NewReader(make([]byte, 9<<20)), "text/plain")
	},
	"get": func(ctx context.Context, s storage.Store) error {
		body, err := s.Get(ctx, "k/there")
		if err != nil {
			return err
		}
		defer body.Close()
		text, err := io.ReadAll(body)
		if err == nil && string(text) != "old" {
			return fmt.Errorf("it gave %q", text)
		}
		return err
	},
	"head": func(ctx context.Context, s storage.Store) error {
		_, err := s.Head(ctx, "k/there")
		return err
	},
	"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "k/gone") },
	"list": func(ctx context.Context, s storage.Store) error {
		for _, err := range s.List(ctx, "k/", "") {
			if err != nil {
				return err
			}
		}
		return nil
	},
}

// eachUse runs all operations in parallel and returns their errors.
func eachUse(t *testing.T, s storage.Store) map[string]error {
	t.Helper()
	errs := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, use := range uses {
		wg.Go(func() {
			err := use(t.Context(), s)
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	wg.Wait()
	return errs
}

func TestABucketThatRefusesNowAndThenTakesAndGivesEverything(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	require.NoError(t, s.Put(t.Context(), "k/there", strings.NewReader("old"), ""))
	door.Set(realtest.Throttle(3))
	for name, use := range uses { // sequential: each operation meets at most one refusal in a row
		require.NoError(t, use(t.Context(), s), name)
	}
	require.Greater(t, door.Met(), len(uses))
}

func TestABucketThatRefusesAllSaysSoAndHeals(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	require.NoError(t, s.Put(t.Context(), "k/there", strings.NewReader("old"), ""))
	door.Set(realtest.Throttle(1))
	for name, err := range eachUse(t, s) {
		require.ErrorContains(t, err, "503", name)
		require.NotErrorIs(t, err, storage.ErrNotFound, name)
		require.NotErrorIs(t, err, storage.ErrExists, name)
		require.NotErrorIs(t, err, storage.ErrNotWritten, name)
		if name != "head" { // answers to HEAD have no body
			require.ErrorContains(t, err, "SlowDown", name)
		}
	}
	require.LessOrEqual(t, door.Met(), 4*len(uses)+2, "it asks four times and no more, and once whether a create was stored")
	door.Set(nil)
	for name, err := range eachUse(t, s) {
		require.NoError(t, err, name)
	}
}

func TestSlowAnswersAreWaitedForAndMissingOnesAreNot(t *testing.T) {
	t.Parallel()
	const patience = 500 * time.Millisecond
	s, door := behind(t, patience)
	require.NoError(t, s.Put(t.Context(), "k/there", strings.NewReader("old"), ""))
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		time.Sleep(patience / 3)
		server.ServeHTTP(w, r)
	})
	for name, err := range eachUse(t, s) {
		require.NoError(t, err, "slow, "+name)
	}
	require.NoError(t, s.Delete(t.Context(), "k/create"))
	require.NoError(t, s.Delete(t.Context(), "k/large"))

	door.Set(func(n int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if n%3 == 0 {
			realtest.Mute(r)
		}
		server.ServeHTTP(w, r)
	})
	for name, use := range uses {
		require.NoError(t, use(t.Context(), s), "mute now and then, "+name)
	}

	door.Set(func(_ int, _ http.ResponseWriter, r *http.Request, _ http.Handler) { realtest.Mute(r) })
	start := time.Now()
	for name, err := range eachUse(t, s) {
		require.ErrorContains(t, err, "timeout", name)
		require.NotErrorIs(t, err, storage.ErrNotFound, name)
		require.NotErrorIs(t, err, storage.ErrExists, name)
	}
	// Four tries, with pauses of up to 1, 2 and 4 s. The upload of a large object is
	// aborted.
	require.Less(t, time.Since(start), 30*time.Second)
}

func TestABucketWithoutCreateOnlyWritesIsSaid(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	door.Set(realtest.Uncreatable)
	for _, name := range []string{"create", "create a large one"} {
		err := uses[name](t.Context(), s)
		require.ErrorIs(t, err, errors.ErrUnsupported, name)
		require.ErrorContains(t, err, "If-None-Match", name)
		require.ErrorContains(t, err, "use a service", name)
	}
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		require.Empty(t, info, "nothing was written")
	}
	require.NoError(t, uses["put"](t.Context(), s), "all else is well")
}

// conflicts answers the first create-only writes with 409, as S3 does while another write
// of the same key is in progress.
func conflicts(most int) realtest.Rule {
	met := 0
	return func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Header.Get("If-None-Match") != "" {
			if met++; met <= most {
				realtest.Refuse(w, http.StatusConflict, "ConditionalRequestConflict")
				return
			}
		}
		server.ServeHTTP(w, r)
	}
}

func TestACreateThatMeetsAnotherIsTriedAgainUntilOneHasWon(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	create := func(key string) error {
		return s.Create(t.Context(), key, strings.NewReader("mine"), "text/plain")
	}
	text := func(key string) string {
		body, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		defer body.Close()
		all, err := io.ReadAll(body)
		require.NoError(t, err)
		return string(all)
	}
	// The other write fails.
	door.Set(conflicts(2))
	require.NoError(t, create("a"))
	require.Equal(t, 3, door.Met())
	require.Equal(t, "mine", text("a"))

	// The other write wins.
	door.Set(nil)
	require.NoError(t, s.Put(t.Context(), "b", strings.NewReader("theirs"), ""))
	door.Set(conflicts(1))
	require.ErrorIs(t, create("b"), storage.ErrExists)
	require.Equal(t, "theirs", text("b"))

	// The conflict never ends: the winner stays unknown.
	door.Set(conflicts(1000))
	err := create("c")
	require.ErrorContains(t, err, "ConditionalRequestConflict")
	require.NotErrorIs(t, err, storage.ErrExists)
	require.ErrorIs(t, err, storage.ErrNotWritten)
	require.Equal(t, 5, door.Met())

	// A large object is sent again as well.
	door.Set(conflicts(1))
	require.NoError(t, uses["create a large one"](t.Context(), s))
	require.Equal(t, 2, door.Met())
	require.ErrorIs(t, uses["create a large one"](t.Context(), s), storage.ErrExists)
}

// The SDK repeats a write that was stored and then refused, and finds its own object.
func TestACreateThatWasRefusedAfterItWasDoneIsOurOwn(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	for _, name := range []string{"create", "create a large one"} {
		done := false
		door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
			if r.Header.Get("If-None-Match") == "" || done {
				server.ServeHTTP(w, r)
				return
			}
			done = true
			server.ServeHTTP(httptest.NewRecorder(), r)
			realtest.Refuse(w, http.StatusServiceUnavailable, "SlowDown")
		})
		require.NoError(t, uses[name](t.Context(), s), name)
		require.True(t, done)
		require.ErrorIs(t, uses[name](t.Context(), s), storage.ErrExists, name)
	}
}
