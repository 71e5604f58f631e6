package s3store

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/neuronmill/neuronmill/storage"
)

var _ storage.Presigner = (*Store)(nil)

// presigner signs for the region in use. An earlier request has learned it where it is not
// configured.
func (s *Store) presigner(valid time.Duration) *s3.PresignClient {
	region := *s.region.Load()
	return s3.NewPresignClient(s.client, s3.WithPresignExpires(valid), s3.WithPresignClientFromClientOptions(func(o *s3.Options) { o.Region = region }))
}

// PresignGet implements storage.Presigner.
func (s *Store) PresignGet(ctx context.Context, key string, valid time.Duration) (storage.Link, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Link{}, err
	}
	expires := time.Now().Add(valid)
	signed, err := s.presigner(valid).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	return s.link(key, signed, expires, err)
}

// PresignCreate implements storage.Presigner. Length, type and the create-only condition
// are signed.
func (s *Store) PresignCreate(ctx context.Context, key string, size int64, contentType string, valid time.Duration) (storage.Link, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Link{}, err
	}
	expires := time.Now().Add(valid)
	signed, err := s.presigner(valid).PresignPutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.config.Bucket, Key: s.name(key), ContentLength: &size, ContentType: &contentType, IfNoneMatch: aws.String("*"),
	})
	return s.link(key, signed, expires, err)
}

func (s *Store) link(key string, signed *v4.PresignedHTTPRequest, expires time.Time, err error) (storage.Link, error) {
	if err != nil {
		return storage.Link{}, s.explain("sign a link to", key, err)
	}
	header := signed.SignedHeader.Clone()
	header.Del("Host")
	header.Del("Content-Length")
	return storage.Link{Method: signed.Method, URL: signed.URL, Header: header, Expires: expires.UTC().Truncate(time.Second)}, nil
}
