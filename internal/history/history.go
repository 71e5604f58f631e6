// Package history counts what happened in each minute and hour: calls of the fleet, and
// ended tasks and their price by tenant. Charts read it, so that they need no scan. Redis
// alone has it; losing it costs the charts their past and nothing else.
package history

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Fleet is the name under which the calls of all tenants are counted. No tenant can have
// it.
const Fleet = "*"

// The bounds of what Redis keeps of a tenant. A hash has at most 120 short fields, so Redis
// stores it compactly.
const (
	MinutesFor = 2 * time.Hour       // a minute is kept at least
	HoursFor   = 31 * 24 * time.Hour // an hour is kept at least
	perKey     = 20 * time.Minute    // minutes in one hash
	day        = 24 * time.Hour      // hours in one hash
	flushEvery = 2 * time.Second     // counts are written
	mostMinute = int64(time.Hour / time.Minute)
)

// Counts are what happened within a span of time.
type Counts struct {
	Calls     int     // calls sent; counted for Fleet only
	Throttled int     // answers that said too many requests or no capacity; for Fleet only
	Completed int     // tasks
	Failed    int     // tasks
	Neurons   float64 // price of the ended tasks
}

// Add adds other counts.
func (c *Counts) Add(o Counts) {
	c.Calls += o.Calls
	c.Throttled += o.Throttled
	c.Completed += o.Completed
	c.Failed += o.Failed
	c.Neurons += o.Neurons
}

// letters are the names of the counters in the fields of a hash.
const letters = "ctdfn"

func (c *Counts) values() [len(letters)]int64 {
	return [len(letters)]int64{int64(c.Calls), int64(c.Throttled), int64(c.Completed), int64(c.Failed), int64(c.Neurons * 1000)}
}

func (c *Counts) set(letter byte, n int64) {
	switch letter {
	case 'c':
		c.Calls = int(n)
	case 't':
		c.Throttled = int(n)
	case 'd':
		c.Completed = int(n)
	case 'f':
		c.Failed = int(n)
	case 'n':
		c.Neurons = float64(n) / 1000
	}
}

// History reads and writes the counts.
type History struct {
	Redis redis.UniversalClient // the caller closes it
}

func minuteKey(tenant string, at time.Time) string {
	return fmt.Sprintf("neuronmill:history:{%s}:m%d", tenant, at.Truncate(perKey).Unix())
}

func hourKey(tenant string, at time.Time) string {
	return fmt.Sprintf("neuronmill:history:{%s}:h%d", tenant, at.UTC().Truncate(day).Unix())
}

// Add counts something that happened at a time.
func (h *History) Add(ctx context.Context, tenant string, at time.Time, c Counts) error {
	pipe := h.Redis.Pipeline()
	minutes, hours := minuteKey(tenant, at), hourKey(tenant, at)
	for i, n := range c.values() {
		if n != 0 {
			pipe.HIncrBy(ctx, minutes, strconv.Itoa(at.Minute())+letters[i:i+1], n)
			pipe.HIncrBy(ctx, hours, strconv.Itoa(at.UTC().Hour())+letters[i:i+1], n)
		}
	}
	pipe.Expire(ctx, minutes, MinutesFor+perKey)
	pipe.Expire(ctx, hours, HoursFor+day)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("count in the history: %w", err)
	}
	return nil
}

// Span is the counts of a minute or an hour.
type Span struct {
	At time.Time // its beginning
	Counts
}

// Minutes returns the counts of the last n minutes, oldest first, at most 60. The last one
// is the minute of now and is not over.
func (h *History) Minutes(ctx context.Context, tenant string, now time.Time, n int) ([]Span, error) {
	return h.read(ctx, now, min(n, int(mostMinute)), time.Minute, func(at time.Time) (string, int) { return minuteKey(tenant, at), at.Minute() })
}

// Hours returns the counts of the last n hours, oldest first, at most those of 31 days. The
// last one is the hour of now and is not over.
func (h *History) Hours(ctx context.Context, tenant string, now time.Time, n int) ([]Span, error) {
	return h.read(ctx, now, min(n, int(HoursFor/time.Hour)), time.Hour, func(at time.Time) (string, int) { return hourKey(tenant, at), at.UTC().Hour() })
}

func (h *History) read(ctx context.Context, now time.Time, n int, unit time.Duration, place func(time.Time) (string, int)) ([]Span, error) {
	pipe := h.Redis.Pipeline()
	replies := map[string]*redis.MapStringStringCmd{}
	spans := make([]Span, n)
	for i := range spans {
		spans[i].At = now.Truncate(unit).Add(time.Duration(i-n+1) * unit)
		if key, _ := place(spans[i].At); replies[key] == nil {
			replies[key] = pipe.HGetAll(ctx, key)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	for i := range spans {
		key, number := place(spans[i].At)
		fields := replies[key].Val()
		for l := range letters {
			count, _ := strconv.ParseInt(fields[strconv.Itoa(number)+letters[l:l+1]], 10, 64)
			spans[i].set(letters[l], count)
		}
	}
	return spans, nil
}
