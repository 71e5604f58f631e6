package budget

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed reserve.lua
	reserveLua string
	//go:embed settle.lua
	settleLua string
	//go:embed seed.lua
	seedLua string

	reserve = redis.NewScript(reserveLua)
	settle  = redis.NewScript(settleLua)
	seed    = redis.NewScript(seedLua)
)

// keptFor is how long Redis keeps the sums of a day after its last call.
const keptFor = 3 * 24 * time.Hour

// The keys of a day. One hash tag keeps them on one node of a cluster.
func sumsKey(day string) string  { return "neuronmill:budget:{" + day + "}" }
func callsKey(day string) string { return sumsKey(day) + ":calls" }

func dayOf(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// NextDay returns when the budget of the next day begins.
func NextDay(at time.Time) time.Time { return at.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1) }

// Payer is on whose account a call is sent.
type Payer struct {
	Tenant string
	Key    string // may be empty
	Bulk   bool
	Free   bool // the call may spend the free allocation only
}

// Plan is the reservation of a call: the sums that it adds to, and the caps that limit it. The
// zero value reserves nothing.
type Plan struct {
	sums []string
	caps []Cap
}

// PlanOf returns the plan of a call under the caps.
func PlanOf(caps []Cap, p Payer) Plan {
	var plan Plan
	if p.Free && !slices.ContainsFunc(caps, func(c Cap) bool { return c.Scope == Free }) {
		caps = append(slices.Clone(caps), FreeCap)
	}
	for _, c := range caps {
		switch {
		case c.Scope == Tenant && c.Name != p.Tenant, c.Scope == Key && c.Name != p.Key:
			continue
		case c.Scope == Bulk && !p.Bulk, c.Scope == Free && !p.Free: // the cap needs the sum of these calls too
		default:
			plan.caps = append(plan.caps, c)
		}
		if !slices.Contains(plan.sums, c.sum()) {
			plan.sums = append(plan.sums, c.sum())
		}
	}
	return plan
}

// Caps returns the caps that limit the call.
func (p Plan) Caps() []Cap { return p.caps }

// Empty reports whether a call needs no reservation.
func (p Plan) Empty() bool { return len(p.sums) == 0 }

// String identifies a plan: calls of equal plans are under the same caps.
func (p Plan) String() string {
	names := make([]string, len(p.caps))
	for i, c := range p.caps {
		names[i] = c.String()
	}
	return strings.Join(append(names, p.sums...), ",")
}

// ExceededError refuses a call that might exceed a cap.
type ExceededError struct {
	Cap      Cap
	Needs    float64 // highest price of the call
	Spent    float64 // neurons of the day, without calls under way
	Reserved float64 // for calls under way
	Day      string
	Until    time.Time // when it may try again
}

// reasonBegins begins the text of every ExceededError.
const reasonBegins = "budget of "

// IsReason reports whether a text is that of an ExceededError.
func IsReason(text string) bool { return strings.HasPrefix(text, reasonBegins) }

func (e *ExceededError) Error() string {
	return fmt.Sprintf("%s%s: %.6g of %.6g neurons are spent on %s UTC, %.4g are reserved, and the call may cost %.4g",
		reasonBegins, e.Cap, e.Spent, e.Cap.Neurons, e.Day, e.Reserved, e.Needs)
}

// Fits reports whether a call of another price may be sent, as far as is known.
func (e *ExceededError) Fits(needs float64) bool {
	return micro(e.Spent)+micro(e.Reserved)+micro(needs) <= micro(e.Cap.Neurons)
}

// For returns the refusal of another price under the same cap.
func (e *ExceededError) For(needs float64, now time.Time) *ExceededError {
	o := *e
	o.Needs, o.Until = needs, now.Add(underWay)
	if o.Final() {
		o.Until = NextDay(now)
	}
	return &o
}

// Final reports whether the call cannot be sent today, whatever becomes of the calls under
// way.
func (e *ExceededError) Final() bool { return micro(e.Spent)+micro(e.Needs) > micro(e.Cap.Neurons) }

// Never reports whether the call cannot be sent on any day.
func (e *ExceededError) Never() bool { return micro(e.Needs) > micro(e.Cap.Neurons) }

// micro returns millionths of neurons, of which sums are exact.
func micro(neurons float64) int64 { return int64(math.Round(neurons * 1e6)) }

// Reservation is the price that a call has reserved.
type Reservation struct {
	redis redis.UniversalClient
	id    string
	day   string
	sums  []string
}

// Reserve reserves the highest price of a call right before it is sent. The error is an
// ExceededError when a cap refuses it. id must be new for each call; a repeated command of
// one call reserves once.
func Reserve(ctx context.Context, r redis.UniversalClient, p Plan, id string, most float64) (*Reservation, error) {
	now := time.Now()
	one := &Reservation{redis: r, id: id, day: dayOf(now), sums: p.sums}
	args := []any{id, micro(most), int(keptFor.Seconds()), len(p.sums)}
	for _, s := range p.sums {
		args = append(args, s)
	}
	for _, c := range p.caps {
		args = append(args, c.sum(), micro(c.Neurons))
	}
	reply, err := reserve.Run(ctx, r, one.keys(), args...).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("reserve the price of a call: %w", err)
	}
	if reply[0] == 0 {
		return one, nil
	}
	refused := &ExceededError{Cap: p.caps[reply[0]-1], Spent: float64(reply[1]) / 1e6, Reserved: float64(reply[2]) / 1e6, Day: one.day}
	return nil, refused.For(most, now)
}

// underWay is when a call may try again for which calls under way have reserved too much.
const underWay = 10 * time.Second

func (r *Reservation) keys() []string { return []string{sumsKey(r.day), callsKey(r.day)} }

// Settle replaces the reservation by the price of the call: 0 if it was not sent or not
// billed, less than 0 if the price is not known. On an error it stays reserved.
func (r *Reservation) Settle(ctx context.Context, price float64) error {
	if r == nil {
		return nil
	}
	args := []any{r.id, micro(price)}
	if price < 0 {
		args[1] = -1
	}
	for _, s := range r.sums {
		args = append(args, s)
	}
	if err := settle.Run(ctx, r.redis, r.keys(), args...).Err(); err != nil {
		return fmt.Errorf("settle the price of a call: %w", err)
	}
	return nil
}

// Spent returns the neurons spent today under each cap, and those that calls under way have
// reserved, in the order of the caps.
func Spent(ctx context.Context, r redis.UniversalClient, caps []Cap, now time.Time) (spent, reserved []float64, err error) {
	fields, err := r.HGetAll(ctx, sumsKey(dayOf(now))).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("read what was spent: %w", err)
	}
	number := func(field string) float64 {
		n, _ := strconv.ParseInt(fields[field], 10, 64)
		return float64(n) / 1e6
	}
	for _, c := range caps {
		spent, reserved = append(spent, number("s "+c.sum())), append(reserved, number("r "+c.sum()))
	}
	return spent, reserved, nil
}

// Seed counts the neurons of today from before there was a cap.
func Seed(ctx context.Context, r redis.UniversalClient, c Cap, neurons float64, now time.Time) error {
	if err := seed.Run(ctx, r, []string{sumsKey(dayOf(now))}, c.sum(), micro(neurons), int(keptFor.Seconds())).Err(); err != nil {
		return fmt.Errorf("count what was spent before: %w", err)
	}
	return nil
}
