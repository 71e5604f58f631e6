package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

// sicken makes one edge at a time bad, a few seconds each, until ctx ends. Gaps are
// shorter than a lease, so a worker that is alive never loses one to them.
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

// troubleBucket lets the bucket have bad times.
func troubleBucket(ctx context.Context, f *bucketFront, rng *rand.Rand) {
	defer f.sick.Store(0)
	for ctx.Err() == nil {
		f.sick.Store(int64(1 + rng.IntN(3)))
		sleep(ctx, time.Duration(5+rng.IntN(10))*time.Second)
		f.sick.Store(int64(20 + rng.IntN(60)))
		sleep(ctx, time.Duration(1+rng.IntN(5))*time.Second)
	}
}

// troubleRedis kills Redis again and again, and lets it forget: the end of its file, or
// all. It leaves a Redis that runs.
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

// wipe is the one fault of Redis that leaves it running. What is lost with it counts
// as lost for a moment around it.
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
