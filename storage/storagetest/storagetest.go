// Package storagetest holds the rules that every storage.Store keeps.
package storagetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

// Run holds the stores that open makes against the rules. Each call of open gives an
// empty one.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	rules := map[string]func(*testing.T, storage.Store){
		"what is put is got":                         roundTrip,
		"put replaces the whole object":              replace,
		"create has one winner":                      oneWinner,
		"a reader keeps the object it opened":        readerKeeps,
		"what is missing is ErrNotFound":             missing,
		"listing is in order, from and below":        listing,
		"odd keys work, invalid ones are refused":    keys,
		"large objects pass":                         large,
		"a body that fails leaves nothing":           failing,
		"a context that has ended stops every thing": cancelled,
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) { rule(t, open(t)) })
	}
}

func put(t *testing.T, s storage.Store, key, body string) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), key, strings.NewReader(body), "text/plain"))
}

func get(t *testing.T, s storage.Store, key string) string {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	defer r.Close()
	all, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(all)
}

func roundTrip(t *testing.T, s storage.Store) {
	for key, body := range map[string]string{"a/full": "hello", "a/empty": ""} {
		put(t, s, key, body)
		require.Equal(t, body, get(t, s, key))
		info, err := s.Head(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, key, info.Key)
		require.Equal(t, int64(len(body)), info.Size)
		require.Equal(t, "text/plain", info.ContentType)
		require.False(t, info.Modified.IsZero())
	}
	require.NoError(t, s.Create(t.Context(), "a/new.json", strings.NewReader("{}"), "application/json"))
	require.Equal(t, "{}", get(t, s, "a/new.json"))
}

func replace(t *testing.T, s storage.Store) {
	put(t, s, "k", "a long first body")
	put(t, s, "k", "short")
	require.Equal(t, "short", get(t, s, "k"))
}

func oneWinner(t *testing.T, s storage.Store) {
	var (
		wg   sync.WaitGroup
		won  atomic.Int32
		body atomic.Value
	)
	for i := range 16 {
		wg.Go(func() {
			mine := strings.Repeat(fmt.Sprintf("%02d", i), 5000)
			err := s.Create(t.Context(), "once/x", strings.NewReader(mine), "text/plain")
			if err == nil {
				won.Add(1)
				body.Store(mine)
			} else if !errors.Is(err, storage.ErrExists) {
				t.Errorf("creator %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.Equal(t, body.Load(), get(t, s, "once/x"))
	require.ErrorIs(t, s.Create(t.Context(), "once/x", strings.NewReader("late"), ""), storage.ErrExists)
	require.Equal(t, body.Load(), get(t, s, "once/x"))
}

func readerKeeps(t *testing.T, s storage.Store) {
	old := strings.Repeat("old ", 1000)
	put(t, s, "k", old)
	r, err := s.Get(t.Context(), "k")
	require.NoError(t, err)
	defer r.Close()
	put(t, s, "k", "new")
	all, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, old, string(all))
}

func missing(t *testing.T, s storage.Store) {
	_, err := s.Get(t.Context(), "no/such")
	require.ErrorIs(t, err, storage.ErrNotFound)
	_, err = s.Head(t.Context(), "no/such")
	require.ErrorIs(t, err, storage.ErrNotFound)
	require.NoError(t, s.Delete(t.Context(), "no/such"))
	put(t, s, "there", "x")
	require.NoError(t, s.Delete(t.Context(), "there"))
	_, err = s.Get(t.Context(), "there")
	require.ErrorIs(t, err, storage.ErrNotFound)
}

func listing(t *testing.T, s storage.Store) {
	want := []string{"t/a-b/1", "t/a.json", "t/a/1", "t/a/2", "t/b"}
	for _, k := range []string{"t/b", "t/a/2", "other", "t/a.json", "t/a/1", "t/a-b/1"} {
		put(t, s, k, "x")
	}
	list := func(prefix, after string) []string {
		var keys []string
		for info, err := range s.List(t.Context(), prefix, after) {
			require.NoError(t, err)
			require.EqualValues(t, 1, info.Size)
			require.False(t, info.Modified.IsZero())
			keys = append(keys, info.Key)
		}
		return keys
	}
	require.Equal(t, want, list("t/", ""))
	require.Equal(t, want[2:4], list("t/a/", ""))
	require.Equal(t, want[1:4], list("t/a", "t/a-b/1")[:3])
	require.Equal(t, want[3:], list("t/", "t/a/1"))
	require.Empty(t, list("none/", ""))
	for _, err := range s.List(t.Context(), "t/", "") {
		require.NoError(t, err)
		break // a listing may be left early
	}
}

func keys(t *testing.T, s storage.Store) {
	odd := []string{"odd/a b", "odd/ä日本", "odd/a+b%41=@?#&", "odd/.hidden", "odd/x.d", "odd/UPPER", "odd/" + strings.Repeat("k", 200)}
	for _, k := range odd {
		put(t, s, k, k)
	}
	for _, k := range odd {
		require.Equal(t, k, get(t, s, k))
	}
	n := 0
	for info, err := range s.List(t.Context(), "odd/", "") {
		require.NoError(t, err)
		require.Contains(t, odd, info.Key)
		n++
	}
	require.Equal(t, len(odd), n)
	for _, k := range []string{"", "/", "a//b", "a/", "/a", "../a", "a/./b", "a\x00b", "a\nb", "\xff", strings.Repeat("k", 1025)} {
		require.ErrorIs(t, s.Put(t.Context(), k, strings.NewReader("x"), ""), storage.ErrInvalidKey, "%q", k)
		_, err := s.Get(t.Context(), k)
		require.ErrorIs(t, err, storage.ErrInvalidKey, "%q", k)
	}
}

// large sends 20 MiB of known content through a reader of unknown length.
func large(t *testing.T, s storage.Store) {
	const size = 20 << 20
	sum := sha256.New()
	require.NoError(t, s.Put(t.Context(), "big", io.TeeReader(io.LimitReader(&pattern{}, size), sum), "application/octet-stream"))
	require.NoError(t, s.Create(t.Context(), "big-once", io.LimitReader(&pattern{}, size), "application/octet-stream"))
	require.ErrorIs(t, s.Create(t.Context(), "big-once", io.LimitReader(&pattern{}, size), ""), storage.ErrExists)
	for _, key := range []string{"big", "big-once"} {
		r, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		back := sha256.New()
		n, err := io.Copy(back, r)
		r.Close()
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.Equal(t, sum.Sum(nil), back.Sum(nil))
	}
}

// pattern is an endless text that does not repeat soon.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.n >> 56)
	}
	return len(b), nil
}

// Failing is a body that breaks off after n bytes.
func Failing(n int64) io.Reader {
	return io.MultiReader(io.LimitReader(&pattern{}, n), broken{})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the body broke off") }

func failing(t *testing.T, s storage.Store) {
	for _, n := range []int64{0, 100, 18 << 20} {
		require.Error(t, s.Put(t.Context(), "half", Failing(n), ""))
		_, err := s.Head(t.Context(), "half")
		require.ErrorIs(t, err, storage.ErrNotFound)
	}
}

func cancelled(t *testing.T, s storage.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Put(ctx, "k", strings.NewReader("x"), ""), context.Canceled)
	_, err := s.Head(t.Context(), "k")
	require.ErrorIs(t, err, storage.ErrNotFound)
	for _, err := range s.List(ctx, "", "") {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// Flat sends an object of 200 MiB and gets it back, and measures that it is never in
// memory as a whole.
func Flat(t *testing.T, s storage.Store) {
	const size, most = 200 << 20, 40 << 20
	before := heap()
	m := &measured{Reader: io.LimitReader(&pattern{}, size)}
	require.NoError(t, s.Put(t.Context(), "huge", m, "application/octet-stream"))
	require.Less(t, m.most, before+most, "while it is put")
	body, err := s.Get(t.Context(), "huge")
	require.NoError(t, err)
	defer body.Close()
	m = &measured{Reader: body}
	n, err := io.Copy(io.Discard, m)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Less(t, m.most, before+most, "while it is got")
}

// measured looks at the heap every 20 MiB.
type measured struct {
	io.Reader
	read int
	most uint64
}

func (m *measured) Read(b []byte) (int, error) {
	const every = 20 << 20
	n, err := m.Reader.Read(b)
	if m.read/every != (m.read+n)/every {
		m.most = max(m.most, heap())
	}
	m.read += n
	return n, err
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
