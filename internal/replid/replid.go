// Package replid reads the replication id of Redis, for failover detection. A server that
// restarts, or is promoted from a replica, has a new replication id (INFO replication,
// https://redis.io/docs/latest/commands/info/). It may lack the last writes of its
// predecessor.
package replid

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Section is the section of INFO that contains the id.
const Section = "replication"

// size is the number of characters that are kept of an id; they suffice to tell ids apart.
const size = 12

// of returns the id in the output of INFO; empty when it is missing.
func of(info string) string {
	_, rest, _ := strings.Cut(info, "master_replid:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id[:min(len(id), size)]
}

// Ask returns the id of a server. For a cluster it returns a digest of the ids of all
// masters. It returns an empty text when a server refuses to tell its id.
func Ask(ctx context.Context, r redis.UniversalClient) (string, error) {
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
	return hex.EncodeToString(sum[:])[:size], nil
}

func ask(ctx context.Context, r redis.Cmdable) (string, error) {
	info, err := r.Info(ctx, Section).Result()
	if _, no := errors.AsType[redis.Error](err); no {
		return "", nil
	}
	return of(info), err
}
