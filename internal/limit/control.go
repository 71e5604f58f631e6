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
	Seats       map[string]int // callers of a lane that the workers let wait; 0 when none has said so
	Closed      time.Duration  // from now; 0 when it is open
	Held        bool           // until a person opens it
	Probing     bool           // one call is finding out whether it may open
	Why         string         // it is closed
	Turn        time.Duration  // from now until the next free slot; 0 when it is free
	Calls       int            // let through since the gate was first used
	Throttled   int            // answers that said too many requests
	Busy        int            // answers that said no capacity
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

// refill is how much of the pace is worth having at the gate. It covers the time that
// parked tasks need to come back; more would only be parked again.
const refill = time.Second

// Room is how many more callers of a lane the gate is worth bringing back for: 0 while
// it is closed. One of bulk may always wait, so that it can have its share.
func (s State) Room(lane string) int {
	interval := s.Interval()
	if s.Pace.Source == "" && !s.Held && s.Closed == 0 {
		return 1 // nobody has asked it yet
	}
	if s.Held || interval == 0 || s.Closed > time.Second || s.Turn > patience(interval) {
		return 0
	}
	most := max(1, int(refill/interval))
	if s.Width > 0 {
		most = min(most, max(1, 2*s.Width-s.InFlight))
	}
	waiting, free := s.Interactive, most-s.Interactive
	if lane == bulk {
		waiting, free = s.Bulk, max(1, most-s.Interactive)-s.Bulk
	}
	if seats := s.Seats[lane]; seats > 0 {
		free = min(free, seats-waiting)
	}
	return max(0, free)
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
		Calls: number("calls"), Throttled: number("throttled"), Busy: number("busy"), Seats: map[string]int{},
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
		var f figures
		n, _ := fmt.Sscan(value, &at, &f.inFlight, &f.interactive, &f.bulk, &f.seats, &f.bulkSeats)
		if n < 4 || now.Sub(time.UnixMicro(at)) >= 3*beat {
			continue
		}
		s.InFlight, s.Interactive, s.Bulk = s.InFlight+f.inFlight, s.Interactive+f.interactive, s.Bulk+f.bulk
		s.Seats[interactive] += f.seats
		s.Seats[bulk] += f.bulkSeats
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
