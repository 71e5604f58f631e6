// Package s3store keeps objects in a bucket of any S3-compatible service.
//
// It sends only what all of them take, Cloudflare R2 included: whole bodies with their
// length and hash, no trailing checksums, no tags. Small objects go in one request,
// larger ones in parts of equal size.
package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/neuronmill/neuronmill/storage"
)

// partSize is that of each part but the last. An object up to it is one request.
const partSize = 8 << 20

// Store is a bucket. It is safe for concurrent use.
type Store struct {
	client *s3.Client
	config Config
}

var _ storage.Store = (*Store)(nil)

// Open makes the client; the first request shows whether the bucket is there. There is
// nothing to close.
func Open(ctx context.Context, c Config) (*Store, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRegion(c.Region), config.WithRetryMaxAttempts(4),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithHTTPClient(patient(c.Patience)),
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("read the AWS settings: %w", err)
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	return &Store{client, c}, nil
}

// CreateBucket makes the bucket; one that is ours already is no error.
func (s *Store) CreateBucket(ctx context.Context) error {
	_, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.config.Bucket})
	var owned *types.BucketAlreadyOwnedByYou
	if err != nil && !errors.As(err, &owned) {
		return s.explain("create", "bucket "+s.config.Bucket, err)
	}
	return nil
}

func (s *Store) name(key string) *string {
	if s.config.Prefix != "" {
		key = s.config.Prefix + "/" + key
	}
	return &key
}

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return s.write(ctx, key, body, contentType, false)
}

// Create implements storage.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return s.write(ctx, key, body, contentType, true)
}

// write reads the first part; what fits into it is one request.
func (s *Store) write(ctx context.Context, key string, body io.Reader, contentType string, once bool) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	w := &writing{Store: s, key: key, contentType: contentType, once: once, nonce: rand.Text()}
	first := new(bytes.Buffer)
	n, err := io.CopyN(first, body, partSize)
	switch {
	case errors.Is(err, io.EOF):
		err = w.whole(ctx, first.Bytes())
	case err == nil && n == partSize:
		err = w.parts(ctx, first.Bytes(), body)
	}
	if err == nil {
		return nil
	}
	if once && taken(err) {
		return w.ours(ctx, err)
	}
	if once && status(err) == http.StatusNotImplemented {
		return fmt.Errorf("create %s: the bucket takes no create-only writes (If-None-Match: *), which results need: use a service that does: %w", key, errors.ErrUnsupported)
	}
	return s.explain("put", key, err)
}

// writing is one object on its way.
type writing struct {
	*Store
	key, contentType string
	once             bool
	nonce            string // tells our own object from another writer's
}

const nonceName = "neuronmill-write"

// whole sends an object in one request. A conflict with another conditional write is
// tried again: the other may have failed.
func (w *writing) whole(ctx context.Context, body []byte) error {
	for try := 0; ; try++ {
		in := &s3.PutObjectInput{
			Bucket: &w.config.Bucket, Key: w.name(w.key), Body: bytes.NewReader(body),
			ContentLength: aws.Int64(int64(len(body))), ContentType: w.typeOf(), Metadata: map[string]string{nonceName: w.nonce},
		}
		if w.once {
			in.IfNoneMatch = aws.String("*")
		}
		_, err := w.client.PutObject(ctx, in)
		if status(err) != http.StatusConflict || try == 4 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond << try):
		}
	}
}

func (w *writing) typeOf() *string {
	if w.contentType == "" {
		return nil
	}
	return &w.contentType
}

// parts sends a large object; one part is in memory at a time.
func (w *writing) parts(ctx context.Context, part []byte, rest io.Reader) (err error) {
	made, err := w.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &w.config.Bucket, Key: w.name(w.key), ContentType: w.typeOf(), Metadata: map[string]string{nonceName: w.nonce},
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_, _ = w.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
				Bucket: &w.config.Bucket, Key: w.name(w.key), UploadId: made.UploadId,
			})
		}
	}()
	var done []types.CompletedPart
	for number := int32(1); len(part) > 0; number++ {
		sent, err := w.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &w.config.Bucket, Key: w.name(w.key), UploadId: made.UploadId, PartNumber: aws.Int32(number),
			Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))),
		})
		if err != nil {
			return err
		}
		done = append(done, types.CompletedPart{ETag: sent.ETag, PartNumber: aws.Int32(number)})
		n, err := io.ReadFull(rest, part[:partSize])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		part = part[:n]
	}
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &w.config.Bucket, Key: w.name(w.key), UploadId: made.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	}
	if w.once {
		in.IfNoneMatch = aws.String("*")
	}
	_, err = w.client.CompleteMultipartUpload(ctx, in)
	return err
}

// ours settles a Create that was told the key is taken: when the answer to our own
// write was lost and the SDK asked again, the object there is ours.
func (w *writing) ours(ctx context.Context, cause error) error {
	head, err := w.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &w.config.Bucket, Key: w.name(w.key)})
	if err == nil && head.Metadata[nonceName] == w.nonce {
		return nil
	}
	if err != nil && !missing(err) {
		return w.explain("create", w.key, errors.Join(cause, err))
	}
	return fmt.Errorf("create %s: %w", w.key, storage.ErrExists)
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	if err != nil {
		return nil, s.explain("get", key, err)
	}
	return out.Body, nil
}

// Head implements storage.Store.
func (s *Store) Head(ctx context.Context, key string) (storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	if err != nil {
		return storage.Info{}, s.explain("head", key, err)
	}
	return storage.Info{
		Key: key, Size: aws.ToInt64(out.ContentLength), ContentType: aws.ToString(out.ContentType), Modified: aws.ToTime(out.LastModified),
	}, nil
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	if err != nil && !missing(err) {
		return s.explain("delete", key, err)
	}
	return nil
}

// List implements storage.Store, a thousand keys a request.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.config.Bucket, Prefix: s.name(prefix)}
		if after != "" {
			in.StartAfter = s.name(after)
		}
		strip := len(*s.name(""))
		for pages := s3.NewListObjectsV2Paginator(s.client, in); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(storage.Info{}, s.explain("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				info := storage.Info{Key: aws.ToString(o.Key)[strip:], Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// explain wraps an error of the SDK, and says what to do where that is known.
func (s *Store) explain(verb, key string, err error) error {
	code := ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
	}
	switch {
	case code == "NoSuchBucket":
		return fmt.Errorf("%s %s: there is no bucket %s: create it (neuronmill doctor --create-bucket does), or mend NEURONMILL_STORE_URL", verb, key, s.config.Bucket)
	case missing(err):
		return fmt.Errorf("%s %s: %w", verb, key, storage.ErrNotFound)
	case code == "InvalidAccessKeyId" || code == "SignatureDoesNotMatch" || code == "AccessDenied":
		return fmt.Errorf("%s %s: the bucket refuses the credentials (%s): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the region", verb, key, code)
	}
	if _, ok := errors.AsType[*v4.SigningError](err); ok || strings.Contains(err.Error(), "get credentials") {
		return fmt.Errorf("%s %s: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role of the AWS chain", verb, key)
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%s %s: %s cannot be reached: start it, or mend NEURONMILL_STORE_URL: %w", verb, key, s.config, dial)
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

func missing(err error) bool {
	var api smithy.APIError
	return status(err) == http.StatusNotFound && (!errors.As(err, &api) || api.ErrorCode() != "NoSuchBucket")
}

func taken(err error) bool { return status(err) == http.StatusPreconditionFailed }

func status(err error) int {
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}
