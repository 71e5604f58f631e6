package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// RangeGetter is a Store that reads a part of an object with one request.
type RangeGetter interface {
	// GetRange behaves as the function GetRange describes.
	GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error)
}

// GetRange reads up to length bytes of an object from an offset on. It returns fewer, or
// none, if the object ends before. It fails with ErrNotFound if the object does not exist.
// A store that is not a RangeGetter is read from the start, unless its bodies can seek.
func GetRange(ctx context.Context, s Store, key string, offset, length int64) ([]byte, error) {
	if r, ok := s.(RangeGetter); ok {
		return r.GetRange(ctx, key, offset, length)
	}
	body, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if seeker, ok := body.(io.Seeker); ok {
		_, err = seeker.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, body, offset)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	var part []byte
	if err == nil {
		part, err = io.ReadAll(io.LimitReader(body, length))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return part, nil
}
