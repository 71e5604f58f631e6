// Package storage says what neuronmill asks of a bucket, and brings Memory for
// tests. The real ones are fsstore (a folder) and s3store (any S3-compatible
// service); storagetest holds the rules all of them pass.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

var (
	// ErrNotFound: nothing has the key.
	ErrNotFound = errors.New("object not found")
	// ErrExists: Create lost, another object already has the key.
	ErrExists = errors.New("object already exists")
	// ErrInvalidKey: the key is empty, too long (over 1024 bytes), not UTF-8, holds
	// control characters, or has an empty, "." or ".." segment.
	ErrInvalidKey = errors.New("invalid object key")
)

// Info is what is known about an object without reading it.
type Info struct {
	Key         string
	Size        int64
	ContentType string    // empty in listings
	Modified    time.Time // as the store's own clock has it
}

// Store keeps objects by key; keys use "/" between segments. All methods are
// safe for concurrent use. Bodies are streamed: memory stays flat however large
// the object. A reader sees an old object or a new one, never a part of either.
type Store interface {
	// Put stores body under key, replacing what was there.
	Put(ctx context.Context, key string, body io.Reader, contentType string) error
	// Create is Put that fails with ErrExists when the key is taken. Of concurrent
	// creators exactly one wins. It fails with errors.ErrUnsupported where the service
	// has no such write.
	Create(ctx context.Context, key string, body io.Reader, contentType string) error
	// Get opens an object; the caller closes it. ErrNotFound when there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// Head describes an object; ErrNotFound when there is none.
	Head(ctx context.Context, key string) (Info, error)
	// Delete removes an object; a missing one is no error.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose key begins with prefix, in byte order of the key,
	// beginning behind the key after ("" begins at the start). It ends at the first error.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
}
