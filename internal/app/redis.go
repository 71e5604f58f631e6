package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is an opened Redis.
type Redis struct {
	redis.UniversalClient
	Description string // for people; holds no password
	stop        func() error
}

// Close closes the client and stops what was started for it.
func (r *Redis) Close() error {
	err := r.UniversalClient.Close()
	if r.stop != nil {
		err = errors.Join(err, r.stop())
	}
	return err
}

// OpenRedis connects to what the URL names, and checks that it can carry the queue.
func OpenRedis(ctx context.Context, s Settings, log *slog.Logger) (*Redis, error) {
	if strings.HasPrefix(s.RedisURL, "embedded:") {
		return openEmbedded(ctx, s.DataDir, log)
	}
	r, err := dial(s.RedisURL)
	if err != nil {
		return nil, err
	}
	if err := CheckRedis(ctx, r.UniversalClient, log); err != nil {
		r.Close()
		return nil, fmt.Errorf("redis at %s: %w", r.Description, err)
	}
	return r, nil
}

func dial(raw string) (*Redis, error) {
	scheme, _, _ := strings.Cut(raw, ":")
	wrong := errors.New("NEURONMILL_REDIS_URL is not valid: it is redis://host:6379/0, rediss://..., redis-sentinel://h1:26379,h2:26379/master, redis-cluster://h1:6379,h2:6379, or embedded: for one of our own")
	switch scheme {
	case "redis", "rediss", "unix":
		o, err := redis.ParseURL(raw)
		if err != nil {
			return nil, wrong // the library's own text may hold the password
		}
		return &Redis{UniversalClient: redis.NewClient(o), Description: o.Addr}, nil
	case "redis-cluster", "redis-sentinel":
		o, err := manyHosts(raw)
		if err != nil {
			return nil, wrong
		}
		if scheme == "redis-cluster" {
			return &Redis{UniversalClient: redis.NewClusterClient(o.Cluster()), Description: strings.Join(o.Addrs, ",")}, nil
		}
		if o.MasterName == "" {
			return nil, wrong
		}
		return &Redis{UniversalClient: redis.NewFailoverClient(o.Failover()), Description: o.MasterName + " at " + strings.Join(o.Addrs, ",")}, nil
	}
	return nil, wrong
}

// manyHosts reads a URL with several hosts, which net/url does not allow.
func manyHosts(raw string) (*redis.UniversalOptions, error) {
	scheme, rest, _ := strings.Cut(raw, "://")
	rest, query, _ := strings.Cut(rest, "?")
	login, hosts, ok := cutLast(rest, "@")
	if !ok {
		login, hosts = "", rest
	}
	hosts, master, _ := strings.Cut(hosts, "/")
	u, err := url.Parse(scheme + "://" + login + "@host")
	values, err2 := url.ParseQuery(query)
	if err := errors.Join(err, err2); err != nil || hosts == "" {
		return nil, errors.New("not a list of hosts")
	}
	password, _ := u.User.Password()
	db, _ := strconv.Atoi(values.Get("db"))
	return &redis.UniversalOptions{
		Addrs: strings.Split(hosts, ","), Username: u.User.Username(), Password: password, MasterName: master, DB: db,
	}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// CheckRedis reports why a Redis cannot carry the queue, and what to do about it. What
// a managed service does not tell is a warning.
func CheckRedis(ctx context.Context, client redis.UniversalClient, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		if redis.HasErrorPrefix(err, "NOAUTH") || redis.HasErrorPrefix(err, "WRONGPASS") {
			return errors.New("it wants another password: put user and password into the URL")
		}
		return fmt.Errorf("it cannot be reached; start it or mend NEURONMILL_REDIS_URL: %w", err)
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
