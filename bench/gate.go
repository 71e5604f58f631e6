package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// gateCell is a number of processes that wait at one gate.
type gateCell struct {
	PerMinute int     `json:"per_minute"`
	Waiting   int     `json:"waiting"` // processes, each with four bulk callers
	Real      int     `json:"real"`    // processes of the operating system that they are in
	Used      float64 `json:"used"`    // of the limit
	Calls     int     `json:"calls"`
	Refused   int     `json:"refused"`  // of these, answered 429
	Commands  float64 `json:"commands"` // of Redis, a call
	CPU       float64 `json:"cpu"`      // of a core, in Redis

	p pace
}

type gateFigures struct {
	Seconds float64    `json:"seconds"` // that were measured
	Cells   []gateCell `json:"cells"`
}

// Before processes stood in line, each of them asked for each slot: commands a call and
// Redis' part of a core, by processes that wait at 3,000 a minute. The CPU figures are of
// a quiet machine.
var gateBefore = map[int][2]string{1: {"10", "1 %"}, 8: {"45", "3 %"}, 64: {"300", "-"}, 128: {"520", "56 %"}}

// callersEach is how many bulk callers a waiting process has.
const callersEach = 4

func measureGate(l *lab) (figures, error) {
	// Whole windows of the emulator, so that a burst or a gap at an end cannot hide.
	last, cells := 60*time.Second, []gateCell{
		{Waiting: 1, Real: 1, p: fast}, {Waiting: 8, Real: 8, p: fast}, {Waiting: 64, Real: 8, p: fast}, {Waiting: 128, Real: 8, p: fast},
		{Waiting: 8, Real: 8, p: middle}, {Waiting: 128, Real: 8, p: middle},
	}
	if l.quick {
		last, cells = 15*time.Second, []gateCell{{Waiting: 1, Real: 1, p: fast}, {Waiting: 8, Real: 4, p: fast}, {Waiting: 128, Real: 4, p: fast}}
	}
	f := &gateFigures{Seconds: last.Seconds()}
	for _, c := range cells {
		if err := l.gate(&c, last); err != nil {
			return nil, err
		}
		l.say("gate: %3d waiting at %d a minute: %.1f %% used, %d of %d refused, %.1f Redis commands a call, Redis %.1f %% of a core",
			c.Waiting, c.PerMinute, 100*c.Used, c.Refused, c.Calls, c.Commands, 100*c.CPU)
		f.Cells = append(f.Cells, c)
	}
	return f, nil
}

// gate lets processes wait at one gate for a while.
func (l *lab) gate(c *gateCell, last time.Duration) error {
	c.PerMinute = c.p.PerMinute
	s, err := l.open(workersaitest.Options{
		Latency: 20 * time.Millisecond, Window: "sliding", PerWindow: c.p.Window, Limits: map[string]int{"translation": c.p.perWindow()},
	})
	if err != nil {
		return err
	}
	defer s.close()
	for i := range c.Real {
		gates := c.Waiting / c.Real
		if i < c.Waiting%c.Real {
			gates++
		}
		cmd := exec.Command(l.self, "waiters", "--redis", "127.0.0.1:"+s.port, "--api", s.url, "--gates", strconv.Itoa(gates),
			"--per-minute", strconv.Itoa(c.PerMinute))
		if err := s.launch(cmd, "waiters"); err != nil {
			return err
		}
	}
	if err := s.until("the first call", time.Minute, func() (bool, error) { return len(s.api.Requests()) > 0, s.alive() }); err != nil {
		return err
	}
	if err := l.sleep(warmUp); err != nil {
		return err
	}
	before, err := s.redisUse()
	if err != nil {
		return err
	}
	from := time.Now()
	if err := l.sleep(last); err != nil {
		return err
	}
	use, err := s.redisUse()
	if err != nil {
		return err
	}
	to := time.Now()
	use = use.since(before)
	if err := l.sleep(max(time.Second, 2*c.p.interval())); err != nil { // until the call after the end has come
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	seen := limitCell{PerMinute: c.PerMinute, p: c.p}
	seen.judge(s.api.Requests(), from, to, time.Now())
	c.Used, c.Calls, c.Refused = seen.Used, seen.Calls, seen.Refused
	c.Commands = float64(use.commands) / float64(max(c.Calls, 1))
	c.CPU = use.cpu.Seconds() / to.Sub(from).Seconds()
	return nil
}

// Section implements figures.
func (f *gateFigures) Section() report.Section {
	t := report.Table{Head: []string{"a minute", "waiting processes", "used", "429", "Redis commands a call", "before", "Redis, of a core", "before"}}
	least, most, refused := 2.0, gateCell{}, 0
	busiest := 0.0
	for _, c := range f.Cells {
		before := [2]string{"-", "-"}
		if c.PerMinute == fast.PerMinute {
			before = gateBefore[c.Waiting]
			least = min(least, c.Used)
			if c.Commands > most.Commands {
				most = c
			}
		}
		refused += c.Refused
		busiest = max(busiest, c.CPU)
		t.Rows = append(t.Rows, []string{
			fmt.Sprint(c.PerMinute), fmt.Sprintf("%d in %d", c.Waiting, c.Real), percent(c.Used), fmt.Sprintf("%d of %d", c.Refused, c.Calls),
			fmt.Sprintf("%.1f", c.Commands), before[0], percent(c.CPU), before[1],
		})
	}
	return report.Section{
		Title: "What it costs to wait at a gate",
		About: fmt.Sprintf(`Processes wait at the gate of one model, each with %d bulk callers that call again and again; the emulator answers after 20 ms and refuses what
exceeds the limit in its sliding window. "128 in 8" are 128 waiting processes in 8 of the operating system, each with a name, a connection pool and a
subscription of its own. Commands are all that Redis ran in %.0f s, those in scripts included, for each call that was made.
"Before" are the figures of the gate at which every process asked for every slot.`, callersEach, f.Seconds),
		Tables: []report.Table{t},
		Checks: []report.Check{
			{What: "Redis commands a call at 3,000 a minute", Target: "at most 12, however many processes wait", Pass: most.Commands <= 12,
				Got: fmt.Sprintf("%.1f with %d", most.Commands, most.Waiting)},
			{What: "Redis CPU", Target: "at most 5 % of a core", Pass: busiest <= 0.05, Loaded: true, Got: percent(busiest)},
			{What: "limit used at 3,000 a minute", Target: "at least 99 %", Pass: least >= 0.9895, Loaded: true, Got: percent(least)},
			{What: "calls answered 429", Target: "0", Pass: refused == 0, Got: fmt.Sprint(refused)},
		},
	}
}

// waitersCmd is a process that waits at a gate as several would.
type waitersCmd struct {
	Redis     string
	API       string
	Gates     int
	PerMinute int
}

// Run calls until the process is stopped.
func (c *waitersCmd) Run(ctx context.Context) error {
	redis.SetLogger(quietRedis{})
	var all errgroup.Group
	for range c.Gates {
		rdb := redis.NewClient(&redis.Options{Addr: c.Redis})
		defer rdb.Close()
		g := gate.New(gate.Config{
			Redis: rdb, BulkShare: 0.05, Log: slog.New(slog.DiscardHandler),
			Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: c.PerMinute, Source: "settings"} },
		})
		all.Go(func() error { return g.Run(ctx) })
		for range callersEach {
			all.Go(func() error { return c.call(ctx, g) })
		}
	}
	return all.Wait()
}

func (c *waitersCmd) call(ctx context.Context, g *gate.Gate) error {
	model := catalogue.Default(string(tasks.KindTranslation)).ID
	url := c.API + "/accounts/0123456789abcdef0123456789abcdef/ai/run/" + model
	for ctx.Err() == nil {
		permit, err := g.Acquire(ctx, gate.Request{Model: model, Kind: string(tasks.KindTranslation), Lane: string(tasks.Bulk), Patience: time.Hour})
		if err != nil {
			continue
		}
		outcome := gate.Ended // 429s are counted by the emulator; here they must not slow the fleet down
		if post(context.WithoutCancel(ctx), url) == nil {
			outcome = gate.Passed
		}
		_, _ = permit.Release(context.WithoutCancel(ctx), outcome, 0)
	}
	return nil
}

func post(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"text": "Good morning", "target_lang": "es"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer bench")
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// quietRedis keeps the client's own log out of the measurement.
type quietRedis struct{}

func (quietRedis) Printf(context.Context, string, ...any) {}
