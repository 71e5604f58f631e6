package s3store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/storage/storagetest"
	"github.com/stretchr/testify/require"
)

// opener gives stores that share a server, each below a prefix of its own.
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
	storagetest.Run(t, opener("http://"+realtest.S3Server(t).Addr))
}

func TestAStoreSendsNothingThatR2Refuses(t *testing.T) {
	storagetest.Run(t, opener(strict(t, "http://"+realtest.S3Server(t).Addr)))
}

func TestABucketThatIsMissingIsSaid(t *testing.T) {
	server := realtest.S3Server(t)
	config, err := s3store.ParseURL("s3://nowhere?region=us-east-1&path_style=true&endpoint=http://" + server.Addr)
	require.NoError(t, err)
	s, err := s3store.Open(t.Context(), config)
	require.NoError(t, err)
	_, err = s.Get(t.Context(), "a/b")
	require.ErrorContains(t, err, "create it")
	require.NoError(t, s.CreateBucket(t.Context()))
	require.NoError(t, s.CreateBucket(t.Context()), "once more is no error")
	_, err = s.Get(t.Context(), "a/b")
	require.ErrorIs(t, err, storage.ErrNotFound)
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
	storagetest.Flat(t, opener("http://"+realtest.S3Server(t).Addr)(t))
}
