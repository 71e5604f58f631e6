package s3store_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/storage/storagetest"
	"github.com/stretchr/testify/require"
)

// opener returns stores that share a server, each below its own prefix.
func opener(endpoint string) func(t *testing.T) storage.Store {
	var n atomic.Int32
	return func(t *testing.T) storage.Store {
		config, err := s3store.ParseURL(fmt.Sprintf("s3://%s/p%d?region=us-east-1&path_style=true&endpoint=%s", realtest.Bucket, n.Add(1), endpoint))
		require.NoError(t, err)
		s, err := s3store.Open(t.Context(), config)
		require.NoError(t, err)
		return s
	}
}

func TestAnS3ServerIsAStore(t *testing.T) {
	realtest.Long(t)
	storagetest.Run(t, opener("http://"+realtest.S3Server(t).Addr))
}

func TestAStoreSendsNothingThatR2Refuses(t *testing.T) {
	storagetest.Run(t, opener(strict(t, "http://"+realtest.S3Server(t).Addr)))
}

// at returns the URL of a bucket on a server, with further parameters.
func at(bucket, addr, parameters string) string {
	return "s3://" + bucket + "?path_style=true&endpoint=http://" + addr + parameters
}

func open(t *testing.T, url string) *s3store.Store {
	t.Helper()
	config, err := s3store.ParseURL(url)
	require.NoError(t, err)
	s, err := s3store.Open(t.Context(), config)
	require.NoError(t, err)
	return s
}

func TestAMissingBucketIsNoMissingObject(t *testing.T) {
	s := open(t, at("nowhere", realtest.S3Server(t).Addr, "&region=us-east-1"))
	storagetest.Refuses(t, s, storage.ErrNoBucket)
	_, err := s.Head(t.Context(), "a/b")
	require.ErrorContains(t, err, "create nowhere (neuronmill doctor --create-bucket does)")
	require.NoError(t, s.CreateBucket(t.Context()))
	require.NoError(t, s.CreateBucket(t.Context()), "once more is no error")
	for name, err := range map[string]error{"get": got(s.Get(t.Context(), "a/b")), "head": got(s.Head(t.Context(), "a/b"))} {
		require.ErrorIs(t, err, storage.ErrNotFound, name)
	}
}

func got[T any](_ T, err error) error { return err }

func TestWrongCredentialsAreNoMissingObject(t *testing.T) {
	server := realtest.S3Server(t)
	for name, c := range map[string]struct{ key, secret, want string }{
		"an unknown access key": {"nobody", "hunter2", "check AWS_ACCESS_KEY_ID"}, // versitygw answers it with 404
		"a wrong secret":        {"test", "hunter2", "check AWS_ACCESS_KEY_ID"},
		"no credentials":        {"", "", "there are no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", c.key)
			t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
			t.Setenv("HOME", t.TempDir())
			s := open(t, at(realtest.Bucket, server.Addr, "&region=us-east-1"))
			storagetest.Refuses(t, s, storage.ErrDenied)
			_, err := s.Head(t.Context(), "a/b")
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestRefusedAccessIsSaidWithWhatToDo(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	for code, c := range map[string]struct {
		status int
		want   string
	}{
		"AccessDenied":         {http.StatusForbidden, "the credentials need GetObject, PutObject, DeleteObject and ListBucket"},
		"RequestTimeTooSkewed": {http.StatusForbidden, "set it by NTP"},
		"ExpiredToken":         {http.StatusBadRequest, "renew the credentials"},
		"Unauthorized":         {http.StatusUnauthorized, "check AWS_ACCESS_KEY_ID"},
		"SomethingNew":         {http.StatusForbidden, "check AWS_ACCESS_KEY_ID"},
	} {
		door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
			realtest.Refuse(w, c.status, code)
		})
		storagetest.Refuses(t, s, storage.ErrDenied)
		_, err := s.Head(t.Context(), "a/b")
		require.ErrorContains(t, err, code)
		require.ErrorContains(t, err, c.want)
	}
}

func TestAPageThatIsNotFoundIsNoMissingObject(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	for name, page := range map[string]string{"a page": "<html>not found</html>", "nothing": "", "another code": "<Error><Code>NotFound</Code></Error>"} {
		door.Set(func(_ int, w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, page)
		})
		for method, err := range storagetest.Try(t.Context(), s, "a/b", "a/c") {
			require.ErrorContains(t, err, "check that it is an S3 service", name+", "+method)
			require.NotErrorIs(t, err, storage.ErrNotFound, name+", "+method)
		}
	}
}

func TestTheRegionThatTheServiceNamesIsUsedWhereNoneIsSet(t *testing.T) {
	server := realtest.S3Server(t)
	for _, region := range []string{"", "&region=auto"} {
		for name, first := range map[string]func(storage.Store) error{
			"put": func(s storage.Store) error { return s.Put(t.Context(), "k", strings.NewReader("a body"), "") },
			"put large": func(s storage.Store) error {
				return s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(make([]byte, 9<<20))), "")
			},
			"get":       func(s storage.Store) error { return got(s.Get(t.Context(), "k")) },
			"head":      func(s storage.Store) error { return got(s.Head(t.Context(), "k")) },
			"delete":    func(s storage.Store) error { return s.Delete(t.Context(), "other") },
			"preflight": func(s storage.Store) error { return storage.Preflight(t.Context(), s) },
		} {
			door := realtest.NewDoor(t, server.Addr)
			require.NoError(t, open(t, at(realtest.Bucket, server.Addr, "&region=us-east-1")).Put(t.Context(), "k", strings.NewReader("x"), ""))
			s := open(t, at(realtest.Bucket, door.Addr, region))
			require.NoError(t, first(s), name)
			require.Equal(t, 1, requests(door, func() { require.NoError(t, s.Delete(t.Context(), "other")) }), "the region is known from then on")
			if name == "put" {
				body, err := s.Get(t.Context(), "k")
				require.NoError(t, err)
				text, err := io.ReadAll(body)
				require.NoError(t, err)
				require.Equal(t, "a body", string(text), "it is sent again as a whole")
			}
		}
	}
}

// requests counts the requests that pass a proxy while f runs.
func requests(door *realtest.Door, f func()) int {
	door.Set(nil)
	f()
	return door.Met()
}

func TestAWrongRegionIsSaidWithTheRightOne(t *testing.T) {
	s := open(t, at(realtest.Bucket, realtest.S3Server(t).Addr, "&region=eu-west-7"))
	storagetest.Refuses(t, s, storage.ErrDenied)
	_, err := s.Head(t.Context(), "a/b")
	require.ErrorContains(t, err, "set region=us-east-1 in NEURONMILL_STORE_URL")
}

// With changed root credentials, versitygw reports that its own bucket has another owner.
func TestABucketThatHasAnotherOwnerIsNoErrorToMake(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Method == http.MethodPut && r.URL.Path == "/"+realtest.Bucket {
			realtest.Refuse(w, http.StatusConflict, "BucketAlreadyExists")
			return
		}
		server.ServeHTTP(w, r)
	})
	require.NoError(t, s.CreateBucket(t.Context()))
	require.NoError(t, storage.Preflight(t.Context(), s))
}

func TestURLsAreReadStrictly(t *testing.T) {
	c, err := s3store.ParseURL("s3://b/p/q/?endpoint=https://x.example&region=eu&path_style=true")
	require.NoError(t, err)
	require.Equal(t, s3store.Config{Bucket: "b", Prefix: "p/q", Endpoint: "https://x.example", Region: "eu", PathStyle: true}, c)
	for raw, want := range map[string]string{
		"s3://":                       "s3://bucket",
		"s3://key:secret@b":           "AWS_ACCESS_KEY_ID",
		"s3://b?endpoint=127.0.0.1:9": "http://",
		"s3://b?path_style=perhaps":   "true or false",
		"s3://b?acl=public":           "acl",
	} {
		_, err := s3store.ParseURL(raw)
		require.ErrorContains(t, err, want, raw)
		require.NotContains(t, err.Error(), "secret@")
	}
}

func TestALargeObjectIsNeverInMemory(t *testing.T) {
	realtest.Long(t)
	storagetest.Flat(t, opener("http://"+realtest.S3Server(t).Addr)(t))
}
