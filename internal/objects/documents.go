package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/storage"
)

// Read returns the whole content of an object. For a missing object the error wraps
// storage.ErrNotFound.
func Read(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	body, err := s.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return content, nil
}

// CreateJSON writes a JSON document unless the object exists; then it changes nothing and
// returns nil.
func CreateJSON(ctx context.Context, s storage.Store, key string, document []byte) error {
	err := s.Create(ctx, key, bytes.NewReader(document), "application/json")
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}
