package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is an opened Redis.
type Redis struct {
	redis.UniversalClient
	Description string // for people; holds no password
	InMemory    bool   // its data are lost when the last command that uses it ends
	stop        func() error
	empty       bool // a Redis in memory that has just started, see embedded.Session
}

// Close closes the client and leaves the embedded Redis, if it uses one.
func (r *Redis) Close() error {
	err := r.UniversalClient.Close()
	if r.stop != nil {
		err = errors.Join(err, r.stop())
	}
	return err
}

// OpenRedis connects to the Redis of the settings and checks that it is fit for the queue.
func OpenRedis(ctx context.Context, s Settings, log *slog.Logger) (*Redis, error) {
	if strings.HasPrefix(s.RedisURL, "embedded:") {
		return openEmbedded(ctx, s.DataDir, log)
	}
	r, err := dial(s.RedisURL, s.PoolSize())
	if err != nil {
		return nil, err
	}
	if err := CheckRedis(ctx, r.UniversalClient, log); err != nil {
		r.Close()
		return nil, fmt.Errorf("redis at %s: %w", r.Description, err)
	}
	return r, nil
}

// CheckRedis returns an error if a Redis is unfit for the queue, with the remedy. It logs a
// warning for a setting that a managed service hides.
func CheckRedis(ctx context.Context, client redis.UniversalClient, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		if text := err.Error(); strings.Contains(text, "NOAUTH") || strings.Contains(text, "WRONGPASS") {
			return errors.New("it wants another password: put user and password into the URL, those of sentinels as sentinel_username and sentinel_password")
		}
		return fmt.Errorf("it cannot be reached; start it or fix NEURONMILL_REDIS_URL: %w", err)
	}
	server, err := client.InfoMap(ctx, "server").Result()
	version := server["Server"]["redis_version"]
	switch {
	case err != nil || version == "":
		log.Warn("redis does not tell its version; it must be 6.2 or newer")
	case older(version, 6, 2):
		return fmt.Errorf("its version is %s; 6.2 or newer is needed", version)
	}
	policy, err := client.ConfigGet(ctx, "maxmemory-policy").Result()
	switch p := policy["maxmemory-policy"]; {
	case err != nil || p == "":
		log.Warn("redis does not tell its maxmemory-policy; it must be noeviction, else tasks may vanish")
	case p != "noeviction":
		return fmt.Errorf("its maxmemory-policy is %s, so it may throw tasks away: CONFIG SET maxmemory-policy noeviction", p)
	}
	return nil
}

func older(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err == nil && err2 == nil && (a < major || a == major && b < minor)
}
