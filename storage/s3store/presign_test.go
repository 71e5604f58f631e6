package s3store_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

// follow sends the request of a link as a client without keys does.
func follow(t *testing.T, link storage.Link, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), link.Method, link.URL, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = link.Header.Clone()
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(all)
}

func TestLinksReadAndWriteOneObjectOnceAndInTime(t *testing.T) {
	s := open(t, at(realtest.Bucket, realtest.S3Server(t).Addr, "&region=us-east-1"))
	ctx := t.Context()
	up, err := s.PresignCreate(ctx, "acme/files/a.wav", 5, "audio/wav", time.Minute)
	require.NoError(t, err)
	require.Equal(t, http.MethodPut, up.Method)
	status, answer := follow(t, up, "sound and more")
	require.GreaterOrEqual(t, status, 400, "another length than the signed one: %s", answer)
	status, answer = follow(t, up, "sound")
	require.Equal(t, http.StatusOK, status, answer)
	status, answer = follow(t, up, "other")
	require.Equal(t, http.StatusPreconditionFailed, status, "a link writes once: %s", answer)
	plain := up
	plain.Header = http.Header{}
	status, _ = follow(t, plain, "other")
	require.Equal(t, http.StatusForbidden, status, "the condition is signed")

	down, err := s.PresignGet(ctx, "acme/files/a.wav", time.Minute)
	require.NoError(t, err)
	status, answer = follow(t, down, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "sound", answer)
	elsewhere := down
	elsewhere.URL = strings.Replace(down.URL, "a.wav", "b.wav", 1)
	status, _ = follow(t, elsewhere, "")
	require.Equal(t, http.StatusForbidden, status, "another object")
	info, err := s.Head(ctx, "acme/files/a.wav")
	require.NoError(t, err)
	require.Equal(t, "audio/wav", info.ContentType)
	require.EqualValues(t, 5, info.Size)

	_, err = s.PresignGet(ctx, "../a", time.Minute)
	require.ErrorIs(t, err, storage.ErrInvalidKey)
	_, err = s.PresignCreate(ctx, "", 5, "audio/wav", time.Minute)
	require.ErrorIs(t, err, storage.ErrInvalidKey)
}
