package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

// sicken makes one edge at a time faulty, for a few seconds each, until ctx ends. Faults
// are shorter than a lease, so a living worker never loses a lease to one.
func sicken(ctx context.Context, j *journal, edges []*edge, rng *rand.Rand) error {
	for ctx.Err() == nil {
		sleep(ctx, time.Duration(rng.IntN(1500))*time.Millisecond)
		heal, err := edges[rng.IntN(len(edges))].spoil(j, randomToxic(rng))
		if err != nil {
			return err
		}
		sleep(ctx, time.Duration(500+rng.IntN(5000))*time.Millisecond)
		heal()
	}
	return nil
}

// troubleBucket makes the bucket fail from time to time.
func troubleBucket(ctx context.Context, f *bucketFront, rng *rand.Rand) {
	defer f.sick.Store(0)
	for ctx.Err() == nil {
		f.sick.Store(int64(1 + rng.IntN(3)))
		sleep(ctx, time.Duration(5+rng.IntN(10))*time.Second)
		f.sick.Store(int64(20 + rng.IntN(60)))
		sleep(ctx, time.Duration(1+rng.IntN(5))*time.Second)
	}
}

// troubleRedis kills Redis repeatedly and makes it lose data: the end of its file, or
// everything. On return Redis is running.
func troubleRedis(ctx context.Context, j *journal, r *redisServer, rng *rand.Rand) error {
	for {
		sleep(ctx, time.Duration(6+rng.IntN(12))*time.Second)
		if ctx.Err() != nil {
			return nil
		}
		if n := rng.IntN(100); n < 20 {
			if err := wipe(ctx, j, r); err != nil {
				return err
			}
			continue
		} else if err := restart(j, r, rng, n); err != nil {
			return err
		}
	}
}

// wipe deletes all data of a running Redis, the only Redis fault without a restart. Tasks
// accepted shortly before or after the wipe count as lost with it.
func wipe(ctx context.Context, j *journal, r *redisServer) error {
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	defer client.Close()
	end := j.begin("redis forgets", -1, "FLUSHALL")
	defer end()
	j.fault("redis wiped", "FLUSHALL")
	if err := client.FlushAll(ctx).Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("wipe redis: %w", err)
	}
	return nil
}

func restart(j *journal, r *redisServer, rng *rand.Rand, n int) error {
	defer j.begin("redis down", -1, "")()
	r.kill()
	down := time.Duration(rng.IntN(3000)) * time.Millisecond
	switch {
	case n < 35:
		end := j.begin("redis forgets", -1, "without AOF")
		defer end()
		j.fault("redis restarted without AOF", down.String())
		if err := r.forget(); err != nil {
			return err
		}
	case n < 70:
		end := j.begin("redis forgets", -1, "AOF tail")
		defer end()
		cut, err := r.cut(func(size int64) int64 { return rng.Int64N(min(size, 64<<10) + 1) })
		if err != nil {
			return err
		}
		j.fault("redis restarted, AOF tail cut", fmt.Sprintf("%d bytes, down %s", cut, down))
	default:
		j.fault("redis restarted", down.String())
	}
	time.Sleep(down)
	return r.start()
}
