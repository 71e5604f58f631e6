package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/neuronmill/neuronmill/storage"
)

// Store is a bucket. It is safe for concurrent use.
type Store struct {
	client *s3.Client
	config Config

	automatic bool                   // no region is configured, so the region that the service names is used
	region    atomic.Pointer[string] // the region in use
	singly    atomic.Bool            // the service does not support DeleteObjects
}

var (
	_ storage.Store       = (*Store)(nil)
	_ storage.ManyDeleter = (*Store)(nil)
	_ storage.RangeGetter = (*Store)(nil)
)

// Open creates the client. The first request shows whether the bucket exists. There is
// nothing to close.
func Open(ctx context.Context, c Config) (*Store, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRetryMaxAttempts(4),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithHTTPClient(patient(c.Patience)),
	}
	automatic := c.Region == "" || c.Region == automaticRegion
	if !automatic {
		options = append(options, config.WithRegion(c.Region))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("read the AWS settings: %w", err)
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		o.HTTPClient = recorder{o.HTTPClient}
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	s := &Store{client: client, config: c}
	region := client.Options().Region
	switch elsewhere := client.Options().BaseEndpoint != nil; {
	case automatic && elsewhere: // AWS_REGION is for AWS, not for this service
		region, s.automatic = automaticRegion, true
	case c.Region == automaticRegion:
		return nil, errors.New("NEURONMILL_STORE_URL is not valid: region=auto needs an endpoint; for a bucket on AWS name its region or set AWS_REGION")
	case region == "":
		return nil, errors.New("the region of the bucket is not known: add region=... to NEURONMILL_STORE_URL or set AWS_REGION")
	}
	s.region.Store(&region)
	return s, nil
}

// automaticRegion is the name of R2's only region. Other services refuse it and name
// their own, which the store then uses.
const automaticRegion = "auto"

// CreateBucket creates the bucket. An existing bucket is not an error, whoever owns it:
// some services report a bucket as another owner's if it was created with earlier keys.
// The first use shows whether the bucket is usable.
func (s *Store) CreateBucket(ctx context.Context) error {
	in := &s3.CreateBucketInput{Bucket: &s.config.Bucket}
	if region := *s.region.Load(); s.client.Options().BaseEndpoint == nil && region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(region)}
	}
	_, err := send(ctx, s, s.client.CreateBucket, in)
	if code := codeOf(err); err != nil && code != "BucketAlreadyOwnedByYou" && code != "BucketAlreadyExists" {
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

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	out, err := send(ctx, s, s.client.GetObject, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	if err != nil {
		return nil, s.explain("get", key, err)
	}
	return out.Body, nil
}

// GetRange implements storage.RangeGetter.
func (s *Store) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	if length <= 0 {
		if err := s.peek(ctx, key); err != nil {
			return nil, s.explain("get", key, err)
		}
		return nil, nil
	}
	part := aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	out, err := send(ctx, s, s.client.GetObject, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.name(key), Range: part})
	if err != nil {
		if statusOf(err) == http.StatusRequestedRangeNotSatisfiable { // the object ends before
			return nil, nil
		}
		return nil, s.explain("get", key, err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(io.LimitReader(out.Body, length))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return body, nil
}

// Head implements storage.Store.
func (s *Store) Head(ctx context.Context, key string) (storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Info{}, err
	}
	out, err := s.head(ctx, key)
	if err != nil {
		return storage.Info{}, err
	}
	return storage.Info{
		Key: key, Size: aws.ToInt64(out.ContentLength), ContentType: aws.ToString(out.ContentType), Modified: aws.ToTime(out.LastModified),
		ETag: strings.Trim(aws.ToString(out.ETag), `"`),
	}, nil
}

// head requests an object's headers. An answer to HEAD has no body, so a refusal does not
// say whether the object or the bucket is missing, or why access is denied. A GET of one
// byte does. If the object appeared between the two requests, head repeats the HEAD.
func (s *Store) head(ctx context.Context, key string, options ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	for try := 1; ; try++ {
		out, err := send(ctx, s, s.client.HeadObject, &s3.HeadObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)}, options...)
		if err == nil {
			return out, nil
		}
		if code := statusOf(err); code < 300 || code >= 500 || try == 3 {
			return nil, s.explain("head", key, err)
		}
		if err := s.peek(ctx, key); err != nil {
			return nil, s.explain("head", key, err)
		}
	}
}

// peek reads the first byte of an object and returns the error, if any.
func (s *Store) peek(ctx context.Context, key string) error {
	out, err := send(ctx, s, s.client.GetObject, &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: s.name(key), Range: aws.String("bytes=0-0")})
	if err == nil {
		return out.Body.Close()
	}
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable { // the object exists and is empty
		return nil
	}
	return err
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	_, err := send(ctx, s, s.client.DeleteObject, &s3.DeleteObjectInput{Bucket: &s.config.Bucket, Key: s.name(key)})
	if err != nil && codeOf(err) != noSuchKey {
		return s.explain("delete", key, err)
	}
	return nil
}

// deletesAtOnce is the limit of DeleteObjects.
const deletesAtOnce = 1000

// DeleteMany implements storage.ManyDeleter, with up to a thousand keys per request. A
// service without DeleteObjects gets one request per key.
func (s *Store) DeleteMany(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			return err
		}
	}
	failed := &storage.DeleteError{Total: len(keys)}
	done := 0
	for chunk := range slices.Chunk(keys, deletesAtOnce) {
		err := s.deleteChunk(ctx, chunk)
		done += len(chunk)
		some, ok := errors.AsType[*storage.DeleteError](err)
		switch {
		case err == nil:
			continue
		case ok:
			failed.Add(some.Err, some.Keys...)
		default:
			failed.Add(err, chunk...)
		}
		if failed.TooMany() {
			failed.Add(err, keys[done:]...)
			break
		}
	}
	return failed.OrNil()
}

func (s *Store) deleteChunk(ctx context.Context, keys []string) error {
	if s.singly.Load() {
		return storage.DeleteEach(ctx, s, keys)
	}
	ids := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		ids[i].Key = s.name(key)
	}
	in := &s3.DeleteObjectsInput{Bucket: &s.config.Bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}}
	out, err := send(ctx, s, s.client.DeleteObjects, in, withContentMD5)
	if err != nil {
		err = s.explain("delete", fmt.Sprintf("%d objects", len(keys)), err)
		switch code := statusOf(err); {
		case errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrNoBucket):
			return err
		case code == http.StatusBadRequest || code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented:
			s.singly.Store(true)
			return storage.DeleteEach(ctx, s, keys)
		}
		return err
	}
	failed := &storage.DeleteError{Total: len(keys)}
	for _, e := range out.Errors {
		key, code := aws.ToString(e.Key)[len(*s.name("")):], aws.ToString(e.Code)
		if code == noSuchKey {
			continue
		}
		why := fmt.Errorf("delete %s: %s: %s", key, code, aws.ToString(e.Message))
		if code == "AccessDenied" {
			why = fmt.Errorf("delete %s: %w: %s: %s", key, storage.ErrDenied, code, permissions)
		}
		failed.Add(why, key)
	}
	return failed.OrNil()
}

// withContentMD5 replaces the SDK's checksum by Content-MD5, which every service accepts
// for DeleteObjects. Many services refuse a request without it, and R2 refuses the SDK's
// checksum.
func withContentMD5(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		_, _ = stack.Initialize.Remove("AWSChecksum:SetupInputContext") // a later SDK may lack this step; then it sends no checksum either
		_, _ = stack.Finalize.Remove("AWSChecksum:ComputeInputPayloadChecksum")
		_, _ = stack.Finalize.Remove("addInputChecksumTrailer")
		return smithyhttp.AddContentChecksumMiddleware(stack)
	})
}

// List implements storage.Store, with up to a thousand keys per request.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.config.Bucket, Prefix: s.name(prefix)}
		if after != "" {
			in.StartAfter = s.name(after)
		}
		strip := len(*s.name(""))
		for {
			page, err := send(ctx, s, s.client.ListObjectsV2, in)
			if err != nil {
				yield(storage.Info{}, s.explain("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				info := storage.Info{Key: aws.ToString(o.Key)[strip:], Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified), ETag: strings.Trim(aws.ToString(o.ETag), `"`)}
				if !yield(info, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			if aws.ToString(page.NextContinuationToken) == "" {
				yield(storage.Info{}, fmt.Errorf("list %s: the service says that there is more and not how to go on", prefix))
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	}
}
