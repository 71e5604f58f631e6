package main

import (
	"cmp"
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
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

type doctorCmd struct {
	CreateBucket bool          `help:"Make the bucket when it is missing."`
	Wait         time.Duration `placeholder:"60s" help:"Check again so long while something is wrong."`
	Fleet        bool          `help:"Say instead how the fleet is: what waits, why, until when, and what to do."`
}

// Help is shown by --help.
func (doctorCmd) Help() string {
	return examples("neuronmill doctor", "neuronmill doctor --create-bucket --wait 60s", "neuronmill doctor --fleet") + `
With --wait it checks again while something is not there yet; a wrong token, key or setting ends it at once.

A line a check: ok, warn or FAIL, with how to mend it. The exit code is 1 when something fails; warnings do not change it.
The account is asked for a model that does not exist, which costs nothing.

With --fleet the first line is the verdict, the others are what tasks wait for. The exit code is 1 when a person must act. Over
HTTP the same is at /v1/health/report.`
}

// Run runs all checks, also those that depend on a failed one.
func (c *doctorCmd) Run(g *globals) error {
	if c.Fleet {
		return fleetReport(g)
	}
	r := &report{w: g.stdout}
	for end := time.Now().Add(c.Wait); ; {
		r.begin()
		checkRedis(g, r)
		c.checkBucket(g, r)
		checkAccount(g, r)
		switch {
		case !r.failed:
			return nil
		case r.permanent || !time.Now().Before(end):
			return &app.Exit{Code: app.ExitFailed}
		}
		select {
		case <-g.ctx.Done():
			return &app.Exit{Code: app.ExitFailed}
		case <-time.After(2 * time.Second):
		}
	}
}

// fleetReport prints the state of the fleet.
func fleetReport(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	r, err := stack.Monitor().Report(g.ctx, stack.Gate(g.settings, 0, g.log))
	if err != nil {
		return err
	}
	fmt.Fprint(g.stdout, r.Text())
	if !r.Healthy {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

// report prints one line per check. When the checks are repeated, it prints only new
// lines.
type report struct {
	w         io.Writer
	failed    bool // a check of this round failed
	permanent bool // one of these failures needs a person

	printed, before map[string]bool // lines of this round and of the previous one
}

// begin starts a round of checks.
func (r *report) begin() {
	r.failed, r.permanent = false, false
	r.printed, r.before = map[string]bool{}, r.printed
}

func (r *report) ok(what, text string) { r.line("ok", what, text) }

func (r *report) warn(what string, err error) { r.line("warn", what, err.Error()) }

func (r *report) fail(what string, err error) {
	r.failed = true
	r.permanent = r.permanent || permanent(err)
	r.line("FAIL", what, err.Error())
}

// permanent reports whether a failed check will fail until a person changes a setting or
// a permission, so that waiting is useless.
func permanent(err error) bool {
	for _, lasting := range []error{storage.ErrDenied, storage.ErrNoBucket, errors.ErrUnsupported} {
		if errors.Is(err, lasting) {
			return true
		}
	}
	if exit, ok := errors.AsType[*app.Exit](err); ok && exit.Code == app.ExitUsage {
		return true
	}
	if api, ok := errors.AsType[*workersai.Error](err); ok {
		return api.Class() == workersai.Auth || api.Class() == workersai.Permanent
	}
	for _, refusal := range []string{"WRONGPASS", "NOAUTH", "NOPERM"} {
		if strings.Contains(err.Error(), refusal) {
			return true
		}
	}
	return false
}

// line prints one check. On a terminal it wraps long text onto the lines below.
func (r *report) line(word, what, text string) {
	head := fmt.Sprintf("%-5s %-8s ", word, what)
	line := head + text
	if r.printed != nil {
		r.printed[line] = true
	}
	if r.before[line] {
		return
	}
	if width := terminalWidth(r.w); width > 2*len(head) {
		text = wrap(text, width-len(head), strings.Repeat(" ", len(head)))
	}
	fmt.Fprintln(r.w, head+text)
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
	checkWorkers(g, r, server)
}

// checkWorkers reports whether workers run, and which tasks no worker has capacity for.
func checkWorkers(g *globals, r *report, server *app.Redis) {
	workers, err := (&monitor.Monitor{Redis: server}).Workers(g.ctx)
	switch {
	case err != nil:
		r.fail("workers", err)
		return
	case len(workers) == 0 && strings.HasPrefix(g.settings.RedisURL, "embedded:"):
		r.ok("workers", "none runs; run and demo bring their own")
		return
	case len(workers) == 0:
		r.warn("workers", errors.New("none runs, so tasks wait: start one with neuronmill worker"))
		return
	}
	slots, busy := 0, 0
	for _, w := range workers {
		s, b := w.Slots()
		slots, busy = slots+s, busy+b
	}
	r.ok("workers", fmt.Sprintf("%d running, %d of %d slots busy", len(workers), busy, slots))
	var none []string
	for _, spec := range tasks.Specs {
		if monitor.Missing(workers, spec.Kind, tasks.Interactive) != "" {
			none = append(none, string(spec.Kind))
			continue
		}
		for _, lane := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			if all, busy := monitor.SlotsOf(workers, spec.Kind, lane); busy >= all {
				r.warn("workers", fmt.Errorf("all %d slots for %s %s tasks are busy: more of them wait for a free one", all, lane, spec.Kind))
			}
		}
	}
	if len(none) > 0 {
		r.warn("workers", fmt.Errorf("none takes %s tasks: start one with neuronmill worker", strings.Join(none, ", ")))
	}
}

// durable returns an error with the reason if the data of a Redis would not survive its
// restart.
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

// mostSkew is the largest tolerated clock error of a worker: leases last 30 s.
const mostSkew = 10 * time.Second

// clockSkew returns how far this machine's clock is ahead of Redis's.
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

// checkStore checks create-only writes, then puts, gets, lists and deletes a small
// object.
func checkStore(ctx context.Context, s storage.Store) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := storage.Preflight(ctx, s); err != nil {
		return err
	}
	const text = "neuronmill doctor"
	key := objects.DefaultTenant + "/doctor/" + uuid.NewString()
	if err := s.Put(ctx, key, strings.NewReader(text), "text/plain"); err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, s.Delete(ctx, key)) }()
	body, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	defer body.Close()
	if back, err := io.ReadAll(body); err != nil || string(back) != text {
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

// mendAccount returns the fix for an error of the probe.
func mendAccount(err error) string {
	api, ok := errors.AsType[*workersai.Error](err)
	switch {
	case !ok:
		return "something else answers: check CLOUDFLARE_BASE_URL"
	case api.Code == 9106 || api.Code == 10000 && api.Status == http.StatusUnauthorized:
		return "the token is not accepted for this account: make one with the permission Workers AI Read and Edit, and check CLOUDFLARE_API_TOKEN and CLOUDFLARE_ACCOUNT_ID"
	case api.Code == 10000:
		return "the token may not use this account: check CLOUDFLARE_ACCOUNT_ID, and that the token has the permission Workers AI Read and Edit"
	case api.Code == 7003 || api.Code == 7000:
		return "the account id or the address is wrong: check CLOUDFLARE_ACCOUNT_ID, 32 hexadecimal digits, and CLOUDFLARE_BASE_URL"
	case api.Code == 2001:
		return "there is no such AI Gateway: check CLOUDFLARE_AI_GATEWAY"
	case api.Status/100 == 3:
		return "the address leads elsewhere: check CLOUDFLARE_BASE_URL and any proxy"
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
