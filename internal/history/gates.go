package history

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/redis/go-redis/v9"
)

// The keys of gates share a slot of a Redis Cluster.
const (
	closedKey   = "neuronmill:history:{*}:closed"   // hash: gate to its present closure, as JSON
	closuresKey = "neuronmill:history:{*}:closures" // list: closures that are over, the latest first
)

// MostClosures is how many closures that are over are kept, for HoursFor.
const MostClosures = 500

// mostWhy is the bound of Closure.Why in bytes.
const mostWhy = 200

func gateKey(name string, at time.Time) string {
	return fmt.Sprintf("neuronmill:history:{*}:gate:%s:m%d", name, at.Truncate(perKey).Unix())
}

// GateSpan is what happened at a gate within a minute.
type GateSpan struct {
	At        time.Time // its beginning
	Calls     int       // calls sent
	Throttled int       // answers that said too many requests or no capacity
	Pace      int       // calls a minute that the gate allowed last; -1 when that is not known
}

// Closure is a time in which a gate let no call through, to within SampleEvery. Shorter ones
// may be missing.
type Closure struct {
	Gate  string    `json:"gate"`
	Why   string    `json:"why"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until,omitzero"` // zero while the gate is closed
}

// gateSample is what one sample adds to the minute of a gate.
type gateSample struct {
	name             string
	calls, throttled int
	pace             int // -1: it has not changed
}

// allowed is the calls a minute that a gate lets through now.
func allowed(s gate.State) int { return int(float64(s.Pace.PerMinute) * s.RateFactor) }

// isClosed reports whether a gate lets no call through but a probe.
func isClosed(s gate.State) bool {
	return s.Refused || s.Closed > 0 || s.Probing || s.Pace.Source != "" && s.Pace.PerMinute <= 0
}

// addGates adds samples of gates to a minute, and the closures that began or ended.
func (h *History) addGates(ctx context.Context, at time.Time, samples []gateSample, began, ended []Closure) error {
	pipe := h.Redis.Pipeline()
	for _, s := range samples {
		key, minute := gateKey(s.name, at), strconv.Itoa(at.Minute())
		if s.calls > 0 {
			pipe.HIncrBy(ctx, key, minute+"c", int64(s.calls))
		}
		if s.throttled > 0 {
			pipe.HIncrBy(ctx, key, minute+"t", int64(s.throttled))
		}
		if s.pace >= 0 {
			pipe.HSet(ctx, key, minute+"p", s.pace)
		}
		pipe.Expire(ctx, key, MinutesFor+perKey)
	}
	for _, c := range began {
		text, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("encode a closure: %w", err)
		}
		pipe.HSet(ctx, closedKey, c.Gate, text)
		pipe.Expire(ctx, closedKey, HoursFor)
	}
	for _, c := range ended {
		text, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("encode a closure: %w", err)
		}
		pipe.LPush(ctx, closuresKey, text)
		pipe.LTrim(ctx, closuresKey, 0, MostClosures-1)
		pipe.Expire(ctx, closuresKey, HoursFor)
		pipe.HDel(ctx, closedKey, c.Gate)
	}
	if pipe.Len() == 0 {
		return nil
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("write the history of gates: %w", err)
	}
	return nil
}

// closed returns the closures that are not over, by gate.
func (h *History) closed(ctx context.Context) (map[string]Closure, error) {
	texts, err := h.Redis.HGetAll(ctx, closedKey).Result()
	if err != nil {
		return nil, fmt.Errorf("read the closed gates: %w", err)
	}
	closed := map[string]Closure{}
	for name, text := range texts {
		var c Closure
		if json.Unmarshal([]byte(text), &c) == nil && c.Gate == name {
			closed[name] = c
		}
	}
	return closed, nil
}

// Closures returns the closures of all gates that ended after since or are not over, the
// latest first.
func (h *History) Closures(ctx context.Context, since time.Time) ([]Closure, error) {
	closed, err := h.closed(ctx)
	if err != nil {
		return nil, err
	}
	texts, err := h.Redis.LRange(ctx, closuresKey, 0, MostClosures-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read the closures of gates: %w", err)
	}
	var all []Closure
	for _, c := range closed {
		all = append(all, c)
	}
	for _, text := range texts {
		var c Closure
		if json.Unmarshal([]byte(text), &c) == nil && c.Until.After(since) {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b Closure) int { return b.From.Compare(a.From) })
	return all, nil
}

// GateMinutes returns the last n minutes of gates, by name, oldest first; at most 60. The last
// one is the minute of now and is not over.
func (h *History) GateMinutes(ctx context.Context, names []string, now time.Time, n int) (map[string][]GateSpan, error) {
	n = min(n, int(mostMinute))
	first := now.Truncate(time.Minute).Add(time.Duration(1-n) * time.Minute)
	pipe := h.Redis.Pipeline()
	replies := map[string]*redis.MapStringStringCmd{}
	for _, name := range names {
		for at := first; !at.After(now); at = at.Add(time.Minute) {
			if key := gateKey(name, at); replies[key] == nil {
				replies[key] = pipe.HGetAll(ctx, key)
			}
		}
	}
	if len(replies) == 0 {
		return map[string][]GateSpan{}, nil
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read the history of gates: %w", err)
	}
	all := make(map[string][]GateSpan, len(names))
	for _, name := range names {
		spans, pace := make([]GateSpan, n), -1
		for i := range spans {
			at := first.Add(time.Duration(i) * time.Minute)
			fields, minute := replies[gateKey(name, at)].Val(), strconv.Itoa(at.Minute())
			if p, err := strconv.Atoi(fields[minute+"p"]); err == nil {
				pace = p
			}
			calls, _ := strconv.Atoi(fields[minute+"c"])
			throttled, _ := strconv.Atoi(fields[minute+"t"])
			spans[i] = GateSpan{At: at, Calls: calls, Throttled: throttled, Pace: pace}
		}
		all[name] = spans
	}
	return all, nil
}
