package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/storage"
)

type doctorCmd struct {
	CreateBucket bool          `help:"Make the bucket when it is missing."`
	Wait         time.Duration `placeholder:"60s" help:"Check again so long while something is wrong."`
}

// Run checks everything, also what stands behind a thing that is broken.
func (c *doctorCmd) Run(g *globals) error {
	for end := time.Now().Add(c.Wait); ; {
		err := c.check(g)
		if err == nil || !time.Now().Before(end) {
			return err
		}
		select {
		case <-g.ctx.Done():
			return err
		case <-time.After(2 * time.Second):
		}
	}
}

func (c *doctorCmd) check(g *globals) error {
	sick := 0
	tell := func(what string, err error, well string) {
		if err != nil {
			sick++
			fmt.Fprintf(g.stdout, "FAIL  %-8s %v\n", what, err)
			return
		}
		fmt.Fprintf(g.stdout, "ok    %-8s %s\n", what, well)
	}
	r, err := app.OpenRedis(g.ctx, g.settings, g.log)
	if err != nil {
		tell("redis", err, "")
	} else {
		defer r.Close()
		tell("redis", nil, r.Description)
		skew, err := clockSkew(g.ctx, r)
		tell("clock", err, fmt.Sprintf("%s off that of redis", skew.Round(time.Millisecond)))
	}
	store, bucket, err := app.OpenStore(g.ctx, g.settings)
	if maker, ok := store.(interface{ CreateBucket(context.Context) error }); ok && err == nil && c.CreateBucket {
		err = maker.CreateBucket(g.ctx)
	}
	if err == nil {
		err = checkStore(g.ctx, store)
	}
	tell("bucket", err, bucket+", create-only puts hold")
	ai, note := app.OpenAI(g.settings)
	if note == "" {
		note = "account and token are accepted"
	}
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	err = ai.Probe(ctx)
	if err != nil {
		err = fmt.Errorf("%w; check CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_API_TOKEN (permission Workers AI Read and Edit), CLOUDFLARE_BASE_URL and CLOUDFLARE_AI_GATEWAY", err)
	}
	tell("account", err, note)
	if sick > 0 {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

// clockSkew is how far this clock is from that of Redis; too far is an error, because
// deadlines and leases are written by one machine and read by another.
func clockSkew(ctx context.Context, r *app.Redis) (time.Duration, error) {
	before := time.Now()
	theirs, err := r.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("ask redis for the time: %w", err)
	}
	skew := before.Add(time.Since(before) / 2).Sub(theirs)
	if skew.Abs() > 10*time.Second {
		return skew, fmt.Errorf("it is %s off that of redis: set both by NTP", skew.Round(time.Second))
	}
	return skew, nil
}

// checkStore writes, reads, lists and deletes a small object, and sees that a second
// creator loses.
func checkStore(ctx context.Context, s storage.Store) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	key := "default/doctor/" + uuid.NewString()
	if err := s.Create(ctx, key, strings.NewReader("first"), "text/plain"); err != nil {
		return err
	}
	defer func() { _ = s.Delete(ctx, key) }()
	err := s.Create(ctx, key, strings.NewReader("second"), "text/plain")
	if !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("it does not refuse a second create-only put (If-None-Match: *), so results could be written twice: use a store that does (got %w)", err)
	}
	info, err := s.Head(ctx, key)
	if err != nil {
		return err
	}
	if info.Size != int64(len("first")) {
		return errors.New("it gives back another object than was put")
	}
	for _, err := range s.List(ctx, "default/doctor/", "") {
		return err
	}
	return errors.New("it does not list what was put")
}
