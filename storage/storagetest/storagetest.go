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

// Run runs the suite. Each call of open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	rules := map[string]func(*testing.T, storage.Store){
		"what is put is got":                         roundTrip,
		"put replaces the whole object":              replace,
		"a part of an object is read":                part,
		"create has one winner":                      oneWinner,
		"a create that loses changes nothing":        loserChangesNothing,
		"a create passes the preflight":              preflight,
		"a body is stored from where it stands":      fromWhereItStands,
		"a reader keeps the object it opened":        readerKeeps,
		"what is missing is ErrNotFound":             missing,
		"listing is in order, from and below":        listing,
		"a listing begins where its prefix leads":    prefixes,
		"many objects are deleted at once":           deleteMany,
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

func part(t *testing.T, s storage.Store) {
	put(t, s, "k", "0123456789")
	put(t, s, "empty", "")
	for _, c := range []struct {
		key            string
		offset, length int64
		want           string
	}{{"k", 0, 3, "012"}, {"k", 3, 4, "3456"}, {"k", 8, 100, "89"}, {"k", 10, 1, ""}, {"k", 99, 1, ""}, {"k", 2, 0, ""}, {"empty", 0, 5, ""}} {
		body, err := storage.GetRange(t.Context(), s, c.key, c.offset, c.length)
		require.NoError(t, err)
		require.Equal(t, c.want, string(body))
	}
	for _, length := range []int64{0, 1} {
		_, err := storage.GetRange(t.Context(), s, "missing", 5, length)
		require.ErrorIs(t, err, storage.ErrNotFound)
	}
}

func replace(t *testing.T, s storage.Store) {
	put(t, s, "k", "a long first body")
	first, err := s.Head(t.Context(), "k")
	require.NoError(t, err)
	for listed, err := range s.List(t.Context(), "k", "") {
		require.NoError(t, err)
		require.Equal(t, first.ETag, listed.ETag, "a listing and Head agree")
	}
	put(t, s, "k", "another first body")
	second, err := s.Head(t.Context(), "k")
	require.NoError(t, err)
	require.NotEqual(t, first.ETag, second.ETag, "other content has another ETag")
	for _, contentType := range []string{"application/x-own", "application/json", "text/plain"} {
		require.NoError(t, s.Put(t.Context(), "k", strings.NewReader("short"), contentType))
		require.Equal(t, "short", get(t, s, "k"))
		require.Equal(t, contentType, typeOf(t, s, "k"))
	}
	require.NoError(t, s.Put(t.Context(), "k.json", strings.NewReader("{}"), "application/x-own"))
	require.NoError(t, s.Delete(t.Context(), "k.json"))
	require.NoError(t, s.Create(t.Context(), "k.json", strings.NewReader("{}"), "application/json"))
	require.Equal(t, "application/json", typeOf(t, s, "k.json"), "that of the object before has gone with it")
}

func typeOf(t *testing.T, s storage.Store, key string) string {
	t.Helper()
	info, err := s.Head(t.Context(), key)
	require.NoError(t, err)
	return info.ContentType
}

func loserChangesNothing(t *testing.T, s storage.Store) {
	for _, key := range []string{"own.json", "plain.json"} {
		contentType := map[string]string{"own.json": "application/x-own", "plain.json": "application/json"}[key]
		require.NoError(t, s.Create(t.Context(), key, strings.NewReader("first"), contentType))
		for _, loser := range []string{"application/json", "application/x-other", ""} {
			err := s.Create(t.Context(), key, strings.NewReader("second"), loser)
			require.ErrorIs(t, err, storage.ErrExists)
			require.NotErrorIs(t, err, storage.ErrNotWritten)
		}
		require.Equal(t, "first", get(t, s, key))
		require.Equal(t, contentType, typeOf(t, s, key))
	}
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		require.Contains(t, []string{"own.json", "plain.json"}, info.Key)
	}
}

func preflight(t *testing.T, s storage.Store) {
	require.NoError(t, storage.Preflight(t.Context(), s))
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		require.Empty(t, info, "it leaves nothing")
	}
}

func fromWhereItStands(t *testing.T, s storage.Store) {
	for key, write := range map[string]func(context.Context, string, io.Reader, string) error{"put": s.Put, "create": s.Create} {
		for kind, body := range map[string]io.Reader{
			"seekable": strings.NewReader("head and rest"), "stream": io.MultiReader(strings.NewReader("head and rest")),
		} {
			_, err := io.ReadFull(body, make([]byte, len("head and ")))
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), key+"/"+kind, body, ""))
			require.Equal(t, "rest", get(t, s, key+"/"+kind), key+" "+kind)
		}
	}
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
		break // a caller may stop a listing early
	}
}

func prefixes(t *testing.T, s storage.Store) {
	for _, k := range []string{"a/b/c", "a/b/d", "a/bc", "a/b-", "b", "A b/c d/e"} {
		put(t, s, k, "x")
	}
	for _, c := range []struct {
		prefix, after string
		want          []string
	}{
		{"a/b/", "", []string{"a/b/c", "a/b/d"}},
		{"a/b", "", []string{"a/b-", "a/b/c", "a/b/d", "a/bc"}},
		{"a/b/c", "", []string{"a/b/c"}},
		{"a/b/c/", "", nil}, // an object is not a folder
		{"a/b/x/", "", nil},
		{"a/", "a/b/c", []string{"a/b/d", "a/bc"}},
		{"a/b/", "a/b/c", []string{"a/b/d"}},
		{"a/b/", "a/a", []string{"a/b/c", "a/b/d"}},
		{"a/b/", "a/b", []string{"a/b/c", "a/b/d"}},
		{"a/b/", "a/b0", nil},
		{"a/b/", "b", nil},
		{"A b/c d/", "", []string{"A b/c d/e"}},
		{"A b/c", "A b", []string{"A b/c d/e"}},
		{"", "a/b/d", []string{"a/bc", "b"}},
		{"", "zzz", nil},
		{"../", "", nil},
		{"/", "", nil},
		{"a//", "", nil},
	} {
		var got []string
		for info, err := range s.List(t.Context(), c.prefix, c.after) {
			require.NoError(t, err)
			got = append(got, info.Key)
		}
		require.Equal(t, c.want, got, "%q after %q", c.prefix, c.after)
	}
}

func deleteMany(t *testing.T, s storage.Store) {
	keys := []string{"gone/missing", "gone/a b&<c>"}
	put(t, s, keys[1], "x")
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("gone/%02d", i))
		put(t, s, keys[len(keys)-1], "x")
	}
	put(t, s, "stays", "x")
	require.ErrorIs(t, storage.DeleteMany(t.Context(), s, append([]string{"../x"}, keys...)), storage.ErrInvalidKey)
	require.Equal(t, "x", get(t, s, keys[1]), "an invalid key is found before anything goes")
	require.NoError(t, storage.DeleteMany(t.Context(), s, nil))
	require.NoError(t, storage.DeleteMany(t.Context(), s, keys))
	require.NoError(t, storage.DeleteMany(t.Context(), s, keys), "missing objects are no error")
	var left []string
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		left = append(left, info.Key)
	}
	require.Equal(t, []string{"stays"}, left)
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
		for name, err := range Try(t.Context(), s, k, k) {
			if !strings.HasPrefix(name, "list") {
				require.ErrorIs(t, err, storage.ErrInvalidKey, "%s %q", name, k)
			}
		}
	}
}

// large writes and reads 20 MiB of known content through a reader of unknown length.
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

// pattern is an endless text with a long period.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.n >> 56)
	}
	return len(b), nil
}

// Failing returns a body that fails after n bytes.
func Failing(n int64) io.Reader {
	return io.MultiReader(io.LimitReader(&pattern{}, n), broken{})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the body broke off") }

func failing(t *testing.T, s storage.Store) {
	for _, n := range []int64{0, 100, 18 << 20} {
		for name, write := range map[string]func(context.Context, string, io.Reader, string) error{"put": s.Put, "create": s.Create} {
			err := write(t.Context(), "half", Failing(n), "application/x-own")
			require.ErrorContains(t, err, "broke off", name)
			require.ErrorIs(t, err, storage.ErrNotWritten, name)
			_, err = s.Head(t.Context(), "half")
			require.ErrorIs(t, err, storage.ErrNotFound, name)
		}
	}
	require.NoError(t, s.Put(t.Context(), "half", strings.NewReader("whole"), ""))
	require.Error(t, s.Put(t.Context(), "half", Failing(9<<20), ""))
	require.Equal(t, "whole", get(t, s, "half"), "what was there before stays")
}

func cancelled(t *testing.T, s storage.Store) {
	put(t, s, "there", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range Try(ctx, s, "there", "new") {
		require.ErrorIs(t, err, context.Canceled, name)
	}
	require.Equal(t, "x", get(t, s, "there"))
	_, err := s.Head(t.Context(), "new")
	require.ErrorIs(t, err, storage.ErrNotFound)
}

// Try calls every method of a store. Reads and deletes use the key there; writes use the
// key created. The result has the error of each method.
func Try(ctx context.Context, s storage.Store, there, created string) map[string]error {
	errs := map[string]error{
		"put":         s.Put(ctx, created, strings.NewReader("x"), "application/x-own"),
		"put large":   s.Put(ctx, created, io.LimitReader(&pattern{}, 9<<20), ""),
		"create":      s.Create(ctx, created, strings.NewReader("x"), "application/x-own"),
		"delete":      s.Delete(ctx, there),
		"delete many": storage.DeleteMany(ctx, s, []string{there, created}),
		"list":        nil,
		"list below":  nil,
	}
	body, err := s.Get(ctx, there)
	if errs["get"] = err; err == nil {
		body.Close()
	}
	_, errs["head"] = s.Head(ctx, there)
	for _, errs["list"] = range s.List(ctx, "", "") {
		break
	}
	for _, errs["list below"] = range s.List(ctx, "a/b/", "") {
		break
	}
	return errs
}

// Refuses requires that every method of a store fails with an error, such as
// storage.ErrNoBucket, and that no method reports an object as missing or existing.
func Refuses(t *testing.T, s storage.Store, want error) {
	t.Helper()
	for name, err := range Try(t.Context(), s, "a/b/there", "a/b/new") {
		require.ErrorIs(t, err, want, name)
		require.NotErrorIs(t, err, storage.ErrNotFound, name)
		require.NotErrorIs(t, err, storage.ErrExists, name)
		writes := strings.HasPrefix(name, "put") || strings.HasPrefix(name, "create")
		require.Equal(t, writes, errors.Is(err, storage.ErrNotWritten), "%s: %v", name, err)
	}
	require.ErrorIs(t, storage.Preflight(t.Context(), s), want)
	require.NotErrorIs(t, storage.Preflight(t.Context(), s), errors.ErrUnsupported)
}

// Flat writes and reads an object of 200 MiB, and checks that it is never in memory as a
// whole.
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

// measured measures the heap every 20 MiB.
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
