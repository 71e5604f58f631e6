package gate

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
	RateFactor  float64 // learned part of the pace, 1 when nothing was learned
	InFlight    int
	Concurrency int // calls that may be in flight, 0 when the API has not asked for fewer
	Interactive int // callers waiting
	Bulk        int
	MaxWaiting  map[string]int // callers of a lane that the workers let wait; 0 when none has said so
	Closed      time.Duration  // from now; 0 when it is open
	Refused     bool           // the account is refused; Closed is the time to the next probe
	Probing     bool           // one call is finding out whether it may open
	Why         string         // it is closed
	NextSlot    time.Duration  // from now until the next free slot; 0 when it is free
	Calls       int            // let through since the gate was first used
	Throttled   int            // answers that said too many requests
	Busy        int            // answers that said no capacity
}

// Interval is the time between two calls at the present pace; 0 when it is closed.
func (s State) Interval() time.Duration {
	perMinute := float64(s.Pace.PerMinute) * s.RateFactor
	if perMinute <= 0 {
		return 0
	}
	return time.Duration(float64(time.Minute) / perMinute)
}

// Word is the state in one word: held, closed, probing, learned, narrow or open.
func (s State) Word() string {
	switch {
	case s.Refused:
		return "held"
	case s.Closed > 0 || s.Pace.PerMinute <= 0 && s.Name != Account:
		return "closed"
	case s.Probing:
		return "probing"
	case s.Concurrency > 0:
		return "narrow"
	case s.RateFactor < 1:
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
	if s.Pace.Source == "" && !s.Refused && s.Closed == 0 {
		return 1 // the gate was never used
	}
	if interval == 0 || s.Closed > time.Second || s.NextSlot > patience(interval) {
		return 0
	}
	if s.Refused {
		return max(0, 1-s.Interactive-s.Bulk-s.InFlight) // its probe
	}
	most := max(1, int(refill/interval))
	if s.Concurrency > 0 {
		most = min(most, max(1, 2*s.Concurrency-s.InFlight))
	}
	waiting, free := s.Interactive, most-s.Interactive
	if lane == bulk {
		waiting, free = s.Bulk, max(1, most-s.Interactive)-s.Bulk
	}
	if seats := s.MaxWaiting[lane]; seats > 0 {
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
		states[i] = stateOf(name, replies[i].Val(), now, g.tablePace(name))
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return states, nil
}

// PaceOf is the pace of a model of a kind in this process' settings and catalogue.
func (g *Gate) PaceOf(model, kind string) Pace { return g.cfg.Pace(model, kind) }

// tablePace is the pace of a gate in this process' settings and catalogue.
func (g *Gate) tablePace(name string) Pace {
	if kind, total := strings.CutSuffix(name, TotalOf("")); total {
		if g.cfg.Total == nil || g.cfg.Total(kind) == 0 {
			return Pace{}
		}
		return g.pace(name, kind)
	}
	if name == Account || g.cfg.Pace == nil {
		return Pace{}
	}
	return g.cfg.Pace(name, "")
}

// stateOf reads a gate's hash. table is the pace to show where no worker has told one yet.
func stateOf(name string, fields map[string]string, now time.Time, table Pace) State {
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
		return time.UnixMicro(int64(number(field))).Sub(now)
	}
	s := State{
		Name: name, Pace: Pace{number("pace"), fields["source"]}, RateFactor: decimal("factor", 1), Concurrency: int(decimal("width", 0)),
		Closed: max(0, from("closed")), Refused: fields["hold"] != "", Probing: fields["probe"] != "", Why: fields["why"], NextSlot: max(0, from("next")),
		Calls: number("calls"), Throttled: number("throttled"), Busy: number("busy"), MaxWaiting: map[string]int{},
	}
	if set, ok := fields["set"]; ok {
		s.Pace.Source = "set"
		s.Pace.PerMinute, _ = strconv.Atoi(set)
	}
	if _, told := fields["pace"]; !told && s.Pace.Source == "" {
		s.Pace = table
	}
	if s.Refused && fields["closed"] == "" { // written by an earlier version
		s.Closed = max(0, from("hold")+time.Minute)
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
		if n < 4 || now.Sub(time.UnixMicro(at)) >= stale {
			continue
		}
		s.InFlight, s.Interactive, s.Bulk = s.InFlight+f.inFlight, s.Interactive+f.interactive, s.Bulk+f.bulk
		s.MaxWaiting[interactive] += f.seats
		s.MaxWaiting[bulk] += f.bulkSeats
	}
	return s
}

// Set changes the pace of a gate for the whole fleet, until Reset. 0 closes it.
func (g *Gate) Set(ctx context.Context, name string, perMinute int) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HSet(ctx, Key(name), "set", perMinute)
		pipe.HDel(ctx, Key(name), "next", "kept", "factor", "ceiling")
	})
}

// Reset brings a gate back to the pace of the catalogue or the settings.
func (g *Gate) Reset(ctx context.Context, name string) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HDel(ctx, Key(name), "set", "next", "kept", "factor", "ceiling")
	})
}

// Open ends any closure at once and resets the learned rate and concurrency.
func (g *Gate) Open(ctx context.Context, name string) error {
	return g.change(ctx, name, func(pipe redis.Pipeliner) {
		pipe.HDel(ctx, Key(name), "hold", "closed", "why", "probe", "fails", "auth", "factor", "ceiling", "width", "width_from", "next", "credit", "kept")
	})
}

// change changes a gate and makes all waiting callers ask again; slots reserved at the old
// pace are void.
func (g *Gate) change(ctx context.Context, name string, how func(redis.Pipeliner)) error {
	pipe := g.cfg.Redis.Pipeline()
	how(pipe)
	pipe.HIncrBy(ctx, Key(name), "era", 1)
	pipe.SAdd(ctx, index, name)
	pipe.Publish(ctx, newsName, name)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("change the gate of %s: %w", name, err)
	}
	return nil
}
