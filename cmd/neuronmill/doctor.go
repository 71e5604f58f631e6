package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

type doctorCmd struct {
	CreateBucket bool          `help:"Make the bucket when it is missing."`
	Wait         time.Duration `placeholder:"60s" help:"Check again so long while something is wrong."`
}

// Help is shown by --help.
func (doctorCmd) Help() string {
	return `A line a check: ok, warn or FAIL, with how to mend it. The exit code is 1 when something fails; warnings do not change
it. The account is asked for a model that does not exist, which costs nothing.

  neuronmill doctor
  neuronmill doctor --create-bucket --wait 60s`
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
	r := &report{w: g.stdout}
	checkRedis(g, r)
	c.checkBucket(g, r)
	checkAccount(g, r)
	if r.failed {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

// report prints a line a check.
type report struct {
	w      io.Writer
	failed bool
}

func (r *report) ok(what, text string) { fmt.Fprintf(r.w, "ok    %-8s %s\n", what, text) }

func (r *report) warn(what string, err error) { fmt.Fprintf(r.w, "warn  %-8s %v\n", what, err) }

func (r *report) fail(what string, err error) {
	r.failed = true
	fmt.Fprintf(r.w, "FAIL  %-8s %v\n", what, err)
}

func checkRedis(g *globals, r *report) {
	server, err := app.OpenRedis(g.ctx, g.settings, g.log)
	if err != nil {
		r.fail("redis", err)
		return
	}
	defer server.Close()
	r.ok("redis", server.Description)
	if strings.HasPrefix(g.settings.RedisURL, "embedded:") {
		r.warn("redis", errors.New("it is embedded, for one machine: a fleet needs NEURONMILL_REDIS_URL"))
	} else if err := durable(g.ctx, server); err != nil {
		r.warn("redis", err)
	}
	skew, err := clockSkew(g.ctx, server)
	switch {
	case err != nil:
		r.fail("clock", err)
	case skew.Abs() > mostSkew:
		r.fail("clock", fmt.Errorf("it is %s off that of redis, so deadlines and leases are misread: set both by NTP", skew.Round(time.Second)))
	case skew.Abs() > time.Second:
		r.warn("clock", fmt.Errorf("it is %s off that of redis: set both by NTP", skew.Round(time.Millisecond)))
	default:
		r.ok("clock", skew.Round(time.Millisecond).String()+" off that of redis")
	}
}

// durable says why what waits in a Redis would not outlive its restart.
func durable(ctx context.Context, client redis.UniversalClient) error {
	info, err := client.InfoMap(ctx, "persistence").Result()
	switch on := info["Persistence"]["aof_enabled"]; {
	case err != nil || on == "":
		return errors.New("it does not tell whether it writes an AOF; without one a restart loses what waits, until workers put it back from the bucket")
	case on == "0":
		return errors.New("it writes no AOF, so a restart loses what waits, until workers put it back from the bucket: CONFIG SET appendonly yes")
	case info["Persistence"]["aof_last_write_status"] == "err":
		return errors.New("it failed to write its AOF: look at its log and its disk")
	}
	return nil
}

// mostSkew is how far the clock of a worker may be off: leases last 30 s.
const mostSkew = 10 * time.Second

// clockSkew is how far this clock is ahead of that of Redis.
func clockSkew(ctx context.Context, client redis.UniversalClient) (time.Duration, error) {
	before := time.Now()
	theirs, err := client.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("ask redis for the time: %w", err)
	}
	return before.Add(time.Since(before) / 2).Sub(theirs), nil
}

func (c *doctorCmd) checkBucket(g *globals, r *report) {
	store, bucket, err := app.OpenStore(g.ctx, g.settings)
	if maker, ok := store.(interface{ CreateBucket(context.Context) error }); ok && err == nil && c.CreateBucket {
		err = maker.CreateBucket(g.ctx)
	}
	if err == nil {
		err = checkStore(g.ctx, store)
	}
	if err != nil {
		r.fail("bucket", err)
		return
	}
	r.ok("bucket", bucket+": put, get, list, delete; create-only puts hold")
}

// checkStore writes, reads, lists and deletes a small object, and sees that a second
// creator loses.
func checkStore(ctx context.Context, s storage.Store) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	const first = "first"
	key := "default/doctor/" + uuid.NewString()
	if err := s.Create(ctx, key, strings.NewReader(first), "text/plain"); err != nil {
		return err
	}
	defer func() {
		if gone := s.Delete(ctx, key); gone != nil && err == nil {
			err = gone
		}
	}()
	switch err := s.Create(ctx, key, strings.NewReader("second"), "text/plain"); {
	case err == nil:
		return errors.New("it takes a second create-only put (If-None-Match: *), so results could be written twice: use a store that refuses it")
	case !errors.Is(err, storage.ErrExists):
		return fmt.Errorf("a second create-only put (If-None-Match: *) is not answered with 412: %w", err)
	}
	body, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != first {
		return errors.Join(errors.New("it gives back another object than was put: something between changes bodies, or reads from a copy that lags"), err)
	}
	for info, err := range s.List(ctx, key, "") {
		if err != nil {
			return err
		}
		if info.Key == key {
			return nil
		}
	}
	return errors.New("its listing does not show what was put: the credentials need ListBucket, and the service must list at once")
}

func checkAccount(g *globals, r *report) {
	ai, note := app.OpenAI(g.settings)
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	err := ai.Probe(ctx)
	switch {
	case err != nil:
		r.fail("account", fmt.Errorf("%s (%w)", mendAccount(err), err))
	case note != "":
		r.warn("account", errors.New(note))
	default:
		r.ok("account", "account and token are accepted")
	}
}

// mendAccount is what to do about an answer to the probe.
func mendAccount(err error) string {
	api, ok := errors.AsType[*workersai.Error](err)
	switch {
	case !ok:
		return "what answers is not Workers AI: check CLOUDFLARE_BASE_URL"
	case api.Code == 9106 || api.Code == 10000 && api.Status == http.StatusUnauthorized:
		return "the token is not accepted for this account: make one with the permission Workers AI Read and Edit, and check CLOUDFLARE_API_TOKEN and CLOUDFLARE_ACCOUNT_ID"
	case api.Code == 10000:
		return "the token may not use this account: check CLOUDFLARE_ACCOUNT_ID, and that the token has the permission Workers AI Read and Edit"
	case api.Code == 7003 || api.Code == 7000:
		return "the account id or the address is wrong: check CLOUDFLARE_ACCOUNT_ID, 32 hexadecimal digits, and CLOUDFLARE_BASE_URL"
	case api.Code == 2001:
		return "there is no such AI Gateway: check CLOUDFLARE_AI_GATEWAY"
	case api.Class() == workersai.Auth:
		return "the account may not use Workers AI: look at its plan and at accepted licences in the dashboard"
	case api.Class() == workersai.Throttled || api.Class() == workersai.Quota:
		return "the account is spent or throttled for now: wait, and look at its usage in the dashboard"
	case api.Status == 0:
		text := "the API cannot be reached: check the network, a proxy (HTTPS_PROXY) and CLOUDFLARE_BASE_URL"
		if dial, ok := errors.AsType[*net.OpError](err); ok {
			text += ": " + dial.Error()
		}
		return text
	}
	return "the API is not well, or something else answers: check CLOUDFLARE_BASE_URL and try again"
}
