package engine_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// away is a store that refuses pictures until a given time.
type away struct {
	storage.Store
	until time.Time
}

func (s *away) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if time.Now().Before(s.until) && strings.Contains(key, "/image.") {
		return errors.New("503 slow down")
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func redisZ(at time.Time, id string) redis.Z { return redis.Z{Score: float64(at.Unix()), Member: id} }

// awayAfter is a store that is unreachable for a while after the first answer arrived.
type awayAfter struct {
	storage.Store
	long  time.Duration
	until atomic.Pointer[time.Time]
}

func (s *awayAfter) gone() error {
	if until := s.until.Load(); until != nil && time.Now().Before(*until) {
		return errors.New("503 slow down")
	}
	return nil
}

func (s *awayAfter) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if strings.Contains(key, "/answer-") {
		until := time.Now().Add(s.long)
		s.until.CompareAndSwap(nil, &until)
	}
	if err := s.gone(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func (s *awayAfter) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}
