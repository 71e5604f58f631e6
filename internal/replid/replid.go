// Package replid tells one life of a Redis from another. A server that starts anew, or
// takes another's place, gives itself a new replication id (INFO replication,
// https://redis.io/docs/latest/commands/info/), and may lack the last moments of the
// one before.
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

// Section is what to ask INFO for.
const Section = "replication"

// size is enough of an id to tell two apart.
const size = 12

// of finds the id in the answer; empty when it is not there.
func of(info string) string {
	_, rest, _ := strings.Cut(info, "master_replid:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id[:min(len(id), size)]
}

// Ask gives the id of a server, or one that changes with that of any master of a cluster;
// empty where that is not told.
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
