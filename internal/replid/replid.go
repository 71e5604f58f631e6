// Package replid names the memory of a Redis, to notice that it was lost. The name has two
// parts. The replication id changes when a server restarts or is promoted from a replica
// (INFO replication, https://redis.io/docs/latest/commands/info/): it may lack the last
// writes of its predecessor. A mark, a key with a random value, is gone after FLUSHALL,
// which keeps the replication id.
package replid

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

const (
	// Section is the section of INFO that contains the replication id.
	Section = "replication"
	// MarkKey is the key of the mark. The first process that asks for a name creates it.
	MarkKey = "neuronmill:memory"
)

// part is the length of each part of a name in characters; they suffice to tell names apart.
const part = 6

// HasMark reports whether a name has the given mark, the value of MarkKey.
func HasMark(name, mark string) bool { return mark != "" && strings.HasSuffix(name, mark) }

// Ask returns the name of the memory of a Redis. It returns an empty text when a server
// refuses to tell its id or, as a replica, to write the mark.
func Ask(ctx context.Context, r redis.UniversalClient) (string, error) {
	id, err := askAll(ctx, r)
	if id == "" || err != nil {
		return "", err
	}
	mark, err := askMark(ctx, r)
	if mark == "" || err != nil {
		return "", err
	}
	return id + mark, nil
}

// askMark reads the mark, and creates it if it is missing.
func askMark(ctx context.Context, r redis.UniversalClient) (string, error) {
	mark, err := r.Get(ctx, MarkKey).Result()
	if errors.Is(err, redis.Nil) {
		if err = r.SetNX(ctx, MarkKey, rand.Text()[:part], 0).Err(); err == nil {
			mark, err = r.Get(ctx, MarkKey).Result()
		}
	}
	if redis.HasErrorPrefix(err, "READONLY") || redis.HasErrorPrefix(err, "NOPERM") {
		return "", nil
	}
	return mark, err
}

// of returns the replication id in the output of INFO; empty when it is missing.
func of(info string) string {
	_, rest, _ := strings.Cut(info, "master_replid:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id[:min(len(id), part)]
}

// askAll returns the replication id of a server, or a digest of those of all masters of a
// cluster.
func askAll(ctx context.Context, r redis.UniversalClient) (string, error) {
	cluster, ok := r.(*redis.ClusterClient)
	if !ok {
		return ask(ctx, r)
	}
	var (
		mu  sync.Mutex
		ids []string
	)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		id, err := ask(ctx, master)
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
		return err
	})
	if err != nil || slices.Contains(ids, "") {
		return "", err
	}
	slices.Sort(ids)
	sum := sha256.Sum256([]byte(strings.Join(ids, " ")))
	return hex.EncodeToString(sum[:])[:part], nil
}

func ask(ctx context.Context, r redis.Cmdable) (string, error) {
	info, err := r.Info(ctx, Section).Result()
	if _, no := errors.AsType[redis.Error](err); no {
		return "", nil
	}
	return of(info), err
}
