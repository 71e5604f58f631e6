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
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/storage/storagetest"
	"github.com/stretchr/testify/require"
)

// uploads counts the multipart uploads of a bucket that are neither completed nor
// aborted.
func uploads(t *testing.T, door *realtest.Door) int {
	t.Helper()
	door.Set(nil)
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + door.Addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test-secret", ""),
	})
	open, err := client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(realtest.Bucket)})
	require.NoError(t, err)
	return len(open.Uploads)
}

// A failed upload of a large object leaves no parts, which would otherwise stay and be
// billed.
func TestALargeWriteThatFailsLeavesNoParts(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*s3store.Store, *realtest.Door) error{
		"the body breaks off": func(s *s3store.Store, _ *realtest.Door) error {
			return s.Put(t.Context(), "k", storagetest.Failing(17<<20), "")
		},
		"a part is refused": func(s *s3store.Store, door *realtest.Door) error {
			door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
				if r.URL.Query().Get("partNumber") == "2" {
					realtest.Refuse(w, http.StatusForbidden, "AccessDenied")
					return
				}
				server.ServeHTTP(w, r)
			})
			return s.Put(t.Context(), "k", bytes.NewReader(make([]byte, 17<<20)), "")
		},
		"the caller goes": func(s *s3store.Store, door *realtest.Door) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
				if r.URL.Query().Get("partNumber") == "2" {
					cancel()
				}
				server.ServeHTTP(w, r)
			})
			return s.Put(ctx, "k", bytes.NewReader(make([]byte, 17<<20)), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, door := behind(t, 0)
			err := write(s, door)
			require.ErrorIs(t, err, storage.ErrNotWritten)
			require.Zero(t, uploads(t, door))
			_, err = s.Head(t.Context(), "k")
			require.ErrorIs(t, err, storage.ErrNotFound)
		})
	}
}

// Services that honour If-None-Match of PutObject may ignore it when a multipart upload
// is completed.
func TestACreateIsOnePutHoweverLarge(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	var mu sync.Mutex
	var requests []string
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		mu.Lock()
		requests = append(requests, fmt.Sprintf("%s %q %q", r.Method, r.URL.Query().Get("x-id"), r.Header.Get("If-None-Match")))
		mu.Unlock()
		server.ServeHTTP(w, r)
	})
	body := make([]byte, 20<<20)
	require.NoError(t, s.Create(t.Context(), "seekable", bytes.NewReader(body), ""))
	require.NoError(t, s.Create(t.Context(), "stream", io.MultiReader(bytes.NewReader(body)), ""))
	require.Equal(t, []string{`PUT "PutObject" "*"`, `PUT "PutObject" "*"`}, requests)
	info, err := s.Head(t.Context(), "seekable")
	require.NoError(t, err)
	require.EqualValues(t, len(body), info.Size)
}

func TestALargePutWhoseLastAnswerIsLostIsDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  int
		obeys   bool
		certain bool // certainly nothing was stored
	}{
		"a refusal":              {http.StatusServiceUnavailable, true, false},
		"an error in a success":  {http.StatusOK, true, false}, // S3 begins to answer before it knows the outcome
		"neither done nor known": {http.StatusServiceUnavailable, false, false},
		"a certain refusal":      {http.StatusBadRequest, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, door := behind(t, 0)
			asked := 0
			door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
				if r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") {
					server.ServeHTTP(w, r)
					return
				}
				if asked++; asked > 1 { // the completed upload no longer exists
					realtest.Refuse(w, http.StatusNotFound, "NoSuchUpload")
					return
				}
				if c.obeys {
					server.ServeHTTP(httptest.NewRecorder(), r)
				}
				realtest.Refuse(w, c.status, "InternalError")
			})
			err := s.Put(t.Context(), "k", bytes.NewReader(make([]byte, 9<<20)), "")
			require.NotZero(t, asked)
			if c.obeys {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				require.Equal(t, c.certain, errors.Is(err, storage.ErrNotWritten), "%v", err)
			}
			require.Zero(t, uploads(t, door))
		})
	}
}

// A lagging replica or a cache may answer HEAD and GET from different states.
func TestAServiceThatContradictsItselfIsNotAskedForEver(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	require.NoError(t, s.Put(t.Context(), "k", strings.NewReader("x"), ""))
	require.NoError(t, s.Put(t.Context(), "empty", strings.NewReader(""), ""))
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		server.ServeHTTP(w, r)
	})
	for _, key := range []string{"k", "empty"} {
		_, err := s.Head(t.Context(), key)
		require.Error(t, err)
		require.NotErrorIs(t, err, storage.ErrNotFound, "the object is there")
	}
	require.LessOrEqual(t, door.Met(), 10)
}

// A service may refuse a large object before it has read it, and close the connection.
// The client is still sending and sees a broken connection without the refusal.
func TestACreateWhoseRefusalIsLostFindsOutWhoHasTheKey(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	breaks := func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Header.Get("If-None-Match") == "" {
			server.ServeHTTP(w, r)
			return
		}
		server.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	require.NoError(t, s.Create(t.Context(), "theirs", strings.NewReader("first"), ""))
	door.Set(breaks)
	require.ErrorIs(t, s.Create(t.Context(), "theirs", strings.NewReader("second"), ""), storage.ErrExists)
	require.NoError(t, s.Create(t.Context(), "ours", strings.NewReader("first"), ""))
}

// A write error states whether nothing was certainly stored. Only then can a producer be
// told of a plain refusal.
func TestAWriteSaysWhenItHasCertainlyStoredNothing(t *testing.T) {
	t.Parallel()
	server := realtest.S3Server(t)
	refuses := func(status int, code string) realtest.Rule {
		return func(_ int, w http.ResponseWriter, r *http.Request, _ http.Handler) { realtest.Refuse(w, status, code) }
	}
	for name, c := range map[string]struct {
		rule    realtest.Rule
		certain bool
	}{
		"400":           {refuses(http.StatusBadRequest, "InvalidRequest"), true},
		"a wrong clock": {refuses(http.StatusForbidden, "AccessDenied"), true},
		"409":           {refuses(http.StatusConflict, "ConditionalRequestConflict"), true},
		"500":           {refuses(http.StatusInternalServerError, "InternalError"), false},
		"503":           {refuses(http.StatusServiceUnavailable, "SlowDown"), false},
		"no answer":     {func(_ int, _ http.ResponseWriter, r *http.Request, _ http.Handler) { realtest.Mute(r) }, false},
		"cut":           {func(int, http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, false},
		"first lost, then refused": {func(n int, w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			realtest.Refuse(w, http.StatusForbidden, "AccessDenied")
		}, false},
	} {
		for _, method := range []string{"put", "create"} {
			t.Run(name+", "+method, func(t *testing.T) {
				t.Parallel()
				door := realtest.NewDoor(t, server.Addr)
				door.Set(c.rule)
				config, err := s3store.ParseURL(at(realtest.Bucket, door.Addr, "&region=us-east-1"))
				require.NoError(t, err)
				config.Patience = time.Second
				s, err := s3store.Open(t.Context(), config)
				require.NoError(t, err)
				write := map[string]func(context.Context, string, io.Reader, string) error{"put": s.Put, "create": s.Create}[method]
				err = write(t.Context(), "k", strings.NewReader("x"), "")
				require.Error(t, err)
				require.Equal(t, c.certain, errors.Is(err, storage.ErrNotWritten), "%v", err)
			})
		}
	}
	nobody := open(t, at(realtest.Bucket, realtest.FreeAddr(t), ""))
	require.ErrorIs(t, nobody.Put(t.Context(), "k", strings.NewReader("x"), ""), storage.ErrNotWritten, "nothing was ever sent")
}

func TestManyObjectsAreDeletedAThousandARequest(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	var keys []string
	for i := range 2500 {
		keys = append(keys, fmt.Sprintf("k/%04d", i))
	}
	require.NoError(t, s.Put(t.Context(), keys[2499], strings.NewReader("x"), ""))
	var headers http.Header
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		headers = r.Header
		server.ServeHTTP(w, r)
	})
	require.NoError(t, storage.DeleteMany(t.Context(), s, keys))
	require.Equal(t, 3, door.Met())
	require.NotEmpty(t, headers.Get("Content-MD5"), "the checksum that all services know")
	for name := range headers {
		require.NotContains(t, strings.ToLower(name), "checksum", "those of the SDK are refused by R2")
	}
	_, err := s.Head(t.Context(), keys[2499])
	require.ErrorIs(t, err, storage.ErrNotFound)

	// One key of a request is kept. The other keys are deleted, and so are those of later
	// requests.
	door.Set(func(n int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if n > 1 {
			server.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/xml")
		fmt.Fprint(w, `<DeleteResult><Error><Key>p/k/0007</Key><Code>AccessDenied</Code></Error><Error><Key>p/k/0008</Key><Code>NoSuchKey</Code></Error></DeleteResult>`)
	})
	err = storage.DeleteMany(t.Context(), s, keys)
	failed, ok := errors.AsType[*storage.DeleteError](err)
	require.True(t, ok)
	require.Equal(t, []string{"k/0007"}, failed.Keys)
	require.ErrorIs(t, err, storage.ErrDenied)
	require.Equal(t, 3, door.Met())

	// The bucket is unavailable: the client tries one batch of a thousand and no more.
	door.Set(realtest.Throttle(1))
	err = storage.DeleteMany(t.Context(), s, keys)
	failed, ok = errors.AsType[*storage.DeleteError](err)
	require.True(t, ok)
	require.Equal(t, keys, failed.Keys)
	require.LessOrEqual(t, door.Met(), 4)
}

func TestAServiceWithoutDeleteObjectsDeletesOneByOne(t *testing.T) {
	t.Parallel()
	for code, status := range map[string]int{"NotImplemented": 501, "MethodNotAllowed": 405, "MissingContentMD5": 400} {
		s, door := behind(t, 0)
		for _, key := range []string{"k/1", "k/2"} {
			require.NoError(t, s.Put(t.Context(), key, strings.NewReader("x"), ""))
		}
		var many atomic.Int32
		door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
			if r.Method == http.MethodPost {
				many.Add(1)
				realtest.Refuse(w, status, code)
				return
			}
			server.ServeHTTP(w, r)
		})
		for range 2 {
			require.NoError(t, storage.DeleteMany(t.Context(), s, []string{"k/1", "k/2"}), code)
		}
		require.EqualValues(t, 1, many.Load(), "it is tried once")
		for info, err := range s.List(t.Context(), "", "") {
			require.NoError(t, err)
			require.Empty(t, info)
		}
	}
}

func TestPreflightFindsABucketThatIgnoresTheCondition(t *testing.T) {
	t.Parallel()
	s, door := behind(t, 0)
	require.NoError(t, storage.Preflight(t.Context(), s))
	for _, rule := range []realtest.Rule{realtest.Unconditional, realtest.Uncreatable} {
		door.Set(rule)
		err := storage.Preflight(t.Context(), s)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorContains(t, err, "If-None-Match")
		for info, err := range s.List(t.Context(), "", "") {
			require.NoError(t, err)
			require.Empty(t, info)
		}
	}
}
