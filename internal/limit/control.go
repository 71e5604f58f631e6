package limit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// State is a gate as Redis has it.
type State struct {
	Name        string  // a model, "KIND:total" or Account
	Pace        Pace    // Source is "catalogue", "settings" or "set" (by hand)
	Factor      float64 // learned part of the pace, 1 when nothing was learned
	InFlight    int
	Width       int // calls that may be in flight, 0 when the API has not asked for fewer
	Interactive int // callers waiting
	Bulk        int
	Closed      time.Duration // from now; 0 when it is open
	Held        bool          // until a person opens it
	Probing     bool          // one call is finding out whether it may open
	Why         string        // it is closed
	Turn        time.Duration // from now until the next free slot; 0 when it is free
	Calls       int           // let through since the gate was first used
	Throttled   int           // answers that said too many requests
	Busy        int           // answers that said no capacity
}

// Interval is the time between two calls at the present pace; 0 when it is closed.
func (s State) Interval() time.Duration {
	perMinute := float64(s.Pace.PerMinute) * s.Factor
	if perMinute <= 0 {
		return 0
	}
	return time.Duration(float64(time.Minute) / perMinute)
}

// Word is the state in one word: held, closed, probing, learned, narrow or open.
func (s State) Word() string {
	switch {
	case s.Held:
		return "held"
	case s.Closed > 0 || s.Pace.PerMinute <= 0 && s.Name != Account:
		return "closed"
	case s.Probing:
		return "probing"
	case s.Width > 0:
		return "narrow"
	case s.Factor < 1:
		return "learned"
	}
	return "open"
}

// Room is how many more callers may wait at the gate without one of them having to
// wait longer than Patience: 0 while it is closed.
func (s State) Room() int {
	interval := s.Interval()
	patient := patience(interval)
	if s.Held || interval == 0 || s.Closed > time.Second || s.Turn > patient {
		return 0
	}
	if s.Width > 0 {
		return max(0, 2*s.Width-s.InFlight-s.Interactive-s.Bulk)
	}
	most := max(1, int(patient/max(interval, time.Millisecond)))
	return max(0, most-s.Interactive-s.Bulk)
}

// States gives the named gates, or all that were ever used, in order of name.
func (g *Gate) States(ctx context.Context, names ...string) ([]State, error) {
	if len(names) == 0 {
		all, err := g.cfg.Redis.SMembers(ctx, index).Result()
		if err != nil {
			return nil, fmt.Errorf("list the gates: %w", err)
		}
		names = all
	}
	now, err := g.cfg.Redis.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("read the clock of redis: %w", err)
	}
	replies := make([]*redis.MapStringStringCmd, len(names))
	pipe := g.cfg.Redis.Pipeline()
	for i, name := range names {
		replies[i] = pipe.HGetAll(ctx, Key(name))
	}
	if _, err := pipe.Exec(ctx); err != nil && len(names) > 0 {
		return nil, fmt.Errorf("read the gates: %w", err)
	}
	states := make([]State, len(names))
	for i, name := range names {
		states[i] = stateOf(name, replies[i].Val(), now)
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return states, nil
}

func stateOf(name string, fields map[string]string, now time.Time) State {
	number := func(field string) int { n, _ := strconv.Atoi(fields[field]); return n }
	decimal := func(field string, without float64) float64 {
		if x, err := strconv.ParseFloat(fields[field], 64); err == nil {
			return x
		}
		return without
	}
	from := func(field string) time.Duration {
		if fields[field] == "" {
			return 0
		}
		return max(0, time.UnixMicro(int64(number(field))).Sub(now))
	}
	s := State{
		Name: name, Pace: Pace{number("pace"), fields["source"]}, Factor: decimal("factor", 1), Width: int(decimal("width", 0)),
		Closed: from("closed"), Held: fields["hold"] != "", Probing: fields["probe"] != "", Why: fields["why"], Turn: from("next"),
		Calls: number("calls"), Throttled: number("throttled"), Busy: number("busy"),
	}
	if set, ok := fields["set"]; ok {
		s.Pace.Source = "set"
		s.Pace.PerMinute, _ = strconv.Atoi(set)
	}
	if s.Pace.PerMinute <= 0 && name != Account {
		s.Why = "its pace is set to 0"
	}
	for field, value := range fields {
		if !strings.HasPrefix(field, "p:") {
			continue
		}
		var at int64
		var inFlight, web, batch int
		if n, _ := fmt.Sscan(value, &at, &inFlight, &web, &batch); n == 4 && now.Sub(time.UnixMicro(at)) < 3*beat {
			s.InFlight, s.Interactive, s.Bulk = s.InFlight+inFlight, s.Interactive+web, s.Bulk+batch
		}
	}
	return s
}

// Set changes the pace of a gate for the whole fleet, until Reset. 0 closes it.
func (g *Gate) Set(ctx context.Context, name string, perMinute int) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HSet(ctx, Key(name), "set", perMinute)
		pipe.HDel(ctx, Key(name), "next", "factor", "ceiling")
	})
}

// Reset brings a gate back to the pace of the catalogue or the settings.
func (g *Gate) Reset(ctx context.Context, name string) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HDel(ctx, Key(name), "set", "next", "factor", "ceiling")
	})
}

// Open ends a closure at once, whatever its reason, and forgets what was learned.
func (g *Gate) Open(ctx context.Context, name string) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HDel(ctx, Key(name), "hold", "closed", "why", "probe", "fails", "auth", "factor", "ceiling", "width", "width_from", "next")
	})
}

func (g *Gate) change(ctx context.Context, name string, how func(redis.Pipeliner)) error {
	pipe := g.cfg.Redis.Pipeline()
	how(pipe)
	pipe.SAdd(ctx, index, name)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("change the gate of %s: %w", name, err)
	}
	return nil
}
