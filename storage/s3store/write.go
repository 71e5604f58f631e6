package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/neuronmill/neuronmill/storage"
)

// partSize is the size in bytes of each part but the last. Put sends an object of at most
// this size in one request.
const partSize = 8 << 20

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	w := s.newWrite(key, contentType)
	first := new(bytes.Buffer)
	n, err := io.CopyN(first, body, partSize)
	switch {
	case errors.Is(err, io.EOF):
		err = w.whole(ctx, func() io.ReadSeeker { return bytes.NewReader(first.Bytes()) }, n)
	case err == nil:
		err = w.parts(ctx, first.Bytes(), body)
	}
	return w.explainWrite("put", err)
}

// Create implements storage.Store.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	w := s.newWrite(key, contentType)
	w.createOnly = true
	open, size, err := readers(body)
	if err == nil {
		err = w.whole(ctx, open, size)
	}
	switch {
	case err == nil:
		return nil
	case statusOf(err) == http.StatusNotImplemented:
		return fmt.Errorf("create %s: the bucket takes no create-only writes (If-None-Match: *), which results need: use a service that does: %w: %w", key, errors.ErrUnsupported, storage.ErrNotWritten)
	case statusOf(err) == http.StatusPreconditionFailed || w.mayBeStored:
		return w.settle(ctx, err)
	}
	return w.explainWrite("create", err)
}

// readers returns a function that opens the rest of a body, once for each time it is
// sent. A body that supports reads at any position is not buffered in memory.
func readers(body io.Reader) (open func() io.ReadSeeker, size int64, err error) {
	if at, ok := body.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		start, err := at.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, 0, err
		}
		end, err := at.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, 0, err
		}
		return func() io.ReadSeeker { return io.NewSectionReader(at, start, end-start) }, end - start, nil
	}
	all, err := io.ReadAll(body)
	return func() io.ReadSeeker { return bytes.NewReader(all) }, int64(len(all)), err
}

// write is the upload of one object.
type write struct {
	*Store
	key, contentType string
	createOnly       bool
	nonce            string // distinguishes this write's object from another writer's
	mayBeStored      bool   // a failed request may have stored the object
}

func (s *Store) newWrite(key, contentType string) *write {
	return &write{Store: s, key: key, contentType: contentType, nonce: rand.Text()}
}

const nonceName = "neuronmill-write"

// whole sends an object in one request. It retries after a conflict with another
// conditional write, because the other write may have failed.
func (w *write) whole(ctx context.Context, open func() io.ReadSeeker, size int64) error {
	for try := 0; ; try++ {
		in := &s3.PutObjectInput{
			Bucket: &w.config.Bucket, Key: w.name(w.key), Body: open(),
			ContentLength: aws.Int64(size), ContentType: w.typeOf(), Metadata: map[string]string{nonceName: w.nonce},
		}
		if w.createOnly {
			in.IfNoneMatch = aws.String("*")
		}
		_, err := send(ctx, w.Store, w.client.PutObject, in)
		w.mayBeStored = w.mayBeStored || mayBeDone(err)
		if statusOf(err) != http.StatusConflict || try == 4 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond << try):
		}
	}
}

func (w *write) typeOf() *string {
	if w.contentType == "" {
		return nil
	}
	return &w.contentType
}

// parts sends a large object with one part in memory at a time. It aborts an upload that
// it cannot complete, since the service would keep and bill its parts.
func (w *write) parts(ctx context.Context, part []byte, rest io.Reader) (err error) {
	made, err := send(ctx, w.Store, w.client.CreateMultipartUpload, &s3.CreateMultipartUploadInput{
		Bucket: &w.config.Bucket, Key: w.name(w.key), ContentType: w.typeOf(), Metadata: map[string]string{nonceName: w.nonce},
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_, _ = send(ctx, w.Store, w.client.AbortMultipartUpload, &s3.AbortMultipartUploadInput{
				Bucket: &w.config.Bucket, Key: w.name(w.key), UploadId: made.UploadId,
			})
		}
	}()
	var done []types.CompletedPart
	for number := int32(1); len(part) > 0; number++ {
		sent, err := send(ctx, w.Store, w.client.UploadPart, &s3.UploadPartInput{
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
	_, err = send(ctx, w.Store, w.client.CompleteMultipartUpload, &s3.CompleteMultipartUploadInput{
		Bucket: &w.config.Bucket, Key: w.name(w.key), UploadId: made.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	w.mayBeStored = mayBeDone(err)
	if err != nil && w.mayBeStored && w.isOurs(ctx) {
		return nil
	}
	return err
}

// isOurs reports whether this write stored the object under the key.
func (w *write) isOurs(ctx context.Context) bool {
	head, err := w.head(ctx, w.key, once)
	return err == nil && head.Metadata[nonceName] == w.nonce
}

// settle determines the outcome of a Create that was refused because the key exists, or
// that got no answer. The object may be ours: if the answer to a request is lost, the SDK
// sends it again, and the second request finds the object of the first. The object may be
// another writer's: a service that refuses a large object early can break the connection
// before its refusal arrives.
func (w *write) settle(ctx context.Context, cause error) error {
	refused := statusOf(cause) == http.StatusPreconditionFailed
	var options []func(*s3.Options)
	if !refused { // the bucket is unavailable, and the SDK has already tried four times
		options = append(options, once)
	}
	head, err := w.head(ctx, w.key, options...)
	switch {
	case err == nil && head.Metadata[nonceName] == w.nonce:
		return nil
	case err == nil || refused && errors.Is(err, storage.ErrNotFound):
		return fmt.Errorf("create %s: %w", w.key, storage.ErrExists)
	case refused:
		return fmt.Errorf("create %s: the key is taken (%w); ask whether by this write: %w", w.key, cause, err)
	}
	return w.explainWrite("create", cause)
}

// once turns off the retries of the SDK.
func once(o *s3.Options) { o.RetryMaxAttempts = 1 }

// explainWrite explains the error of a write and adds ErrNotWritten if the write has
// certainly stored nothing.
func (w *write) explainWrite(verb string, err error) error {
	if err == nil {
		return nil
	}
	err = w.explain(verb, w.key, err)
	if !w.mayBeStored {
		err = fmt.Errorf("%w: %w", err, storage.ErrNotWritten)
	}
	return err
}
