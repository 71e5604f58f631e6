package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// outside reads Redis and the bucket directly, without the code under test.
type outside struct {
	redis *redis.Client
	store storage.Store
	read  map[string]bool         // keys of results already read
	ends  map[string]tasks.Result // by task id

	forgotten func(*order) bool // whether a task may be lost because Redis lost memory
}

// readResults reads the new results.
func (o *outside) readResults(ctx context.Context) error {
	for info, err := range o.store.List(ctx, "default/tasks/", "") {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(info.Key, "/result.json") || o.read[info.Key] {
			continue
		}
		body, err := o.store.Get(ctx, info.Key)
		if err != nil {
			return err
		}
		document, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			return err
		}
		var r tasks.Result
		if err := json.Unmarshal(document, &r); err != nil {
			return fmt.Errorf("%s is not whole: %w", info.Key, err)
		}
		o.read[info.Key], o.ends[r.ID] = true, r
	}
	return nil
}

// restless describes the work that is left. It returns "" when the system is idle.
func (o *outside) restless(ctx context.Context, orders []*order) (string, error) {
	var left []string
	for _, q := range tasks.Queues() {
		prefix := "asynq:{" + q + "}:"
		pipe := o.redis.Pipeline()
		lengths := map[string]*redis.IntCmd{
			"pending": pipe.LLen(ctx, prefix+"pending"), "active": pipe.LLen(ctx, prefix+"active"),
			"retry": pipe.ZCard(ctx, prefix+"retry"), "scheduled": pipe.ZCard(ctx, prefix+"scheduled"),
			"archived": pipe.ZCard(ctx, prefix+"archived"), "lease": pipe.ZCard(ctx, prefix+"lease"),
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return "", err
		}
		for _, state := range []string{"pending", "active", "retry", "scheduled", "archived", "lease"} {
			if n := lengths[state].Val(); n > 0 {
				left = append(left, fmt.Sprintf("%d %s in %s", n, state, q))
			}
		}
	}
	records := 0
	for _, err := range o.store.List(ctx, "default/pending/", "") {
		if err != nil {
			return "", err
		}
		records++
	}
	if records > 0 {
		left = append(left, fmt.Sprintf("%d pending records", records))
	}
	keys, err := o.endless(ctx)
	if err != nil {
		return "", err
	}
	if len(keys) > 0 {
		left = append(left, fmt.Sprintf("%d keys of tasks", len(keys)))
	}
	if err := o.readResults(ctx); err != nil {
		return "", err
	}
	missing := 0
	for _, order := range orders {
		if _, ended := o.ends[order.ID]; order.Outcome == "accepted" && !ended && !o.forgotten(order) {
			missing++
		}
	}
	if missing > 0 {
		left = append(left, fmt.Sprintf("%d results missing", missing))
	}
	return strings.Join(left, ", "), nil
}

// endless returns the keys of tasks in Redis that do not expire.
func (o *outside) endless(ctx context.Context) ([]string, error) {
	var endless []string
	keys := o.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		if !strings.Contains(key, "}:t:") && !strings.HasPrefix(key, "neuronmill:task:") && !strings.HasPrefix(key, "neuronmill:parked:") {
			continue
		}
		ttl, err := o.redis.TTL(ctx, key).Result()
		if err != nil {
			return nil, err
		}
		if ttl == -1 {
			endless = append(endless, key)
		}
	}
	return endless, keys.Err()
}

// wait returns once the system is idle. After the time limit it returns an error that
// names the work left.
func (o *outside) wait(ctx context.Context, orders []*order, most time.Duration, progress func(string)) (took time.Duration, left string) {
	start := time.Now()
	for {
		now, err := o.restless(ctx, orders)
		if err != nil {
			now = err.Error()
		}
		took = time.Since(start)
		if now == "" || took > most || ctx.Err() != nil {
			return took, now
		}
		progress(now)
		sleep(ctx, 2*time.Second)
	}
}
