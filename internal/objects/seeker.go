package objects

import (
	"context"
	"errors"
	"io"

	"github.com/neuronmill/neuronmill/storage"
)

// Seeker reads an object of a known size from any position. It opens the object at the
// first read, and again after a step back. The caller closes it.
type Seeker struct {
	ctx   context.Context //nolint:containedctx // io.ReadSeeker has none
	store storage.Store
	key   string
	size  int64

	at   int64 // where the next read begins
	body io.ReadCloser
	read int64 // bytes read from body
}

// NewSeeker returns a reader of an object, for as long as ctx lasts.
func NewSeeker(ctx context.Context, s storage.Store, key string, size int64) *Seeker {
	return &Seeker{ctx: ctx, store: s, key: key, size: size}
}

// Seek implements io.Seeker.
func (o *Seeker) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	o.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (o *Seeker) Read(p []byte) (int, error) {
	if o.body != nil && o.read > o.at {
		o.Close()
	}
	if o.body == nil {
		body, err := o.store.Get(o.ctx, o.key)
		if err != nil {
			return 0, err
		}
		o.body, o.read = body, 0
	}
	if skip := o.at - o.read; skip > 0 {
		n, err := io.CopyN(io.Discard, o.body, skip)
		o.read += n
		if err != nil {
			return 0, err
		}
	}
	n, err := o.body.Read(p)
	o.read += int64(n)
	o.at = o.read
	return n, err
}

// Close closes the object; it can be read again.
func (o *Seeker) Close() {
	if o.body != nil {
		o.body.Close()
		o.body = nil
	}
}
