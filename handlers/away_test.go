package handlers_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// away is a store that takes no pictures until a moment.
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
