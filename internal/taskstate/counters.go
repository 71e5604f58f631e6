package taskstate

import (
	"context"
	_ "embed" // the scripts
	"slices"
	"strconv"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed count_call.lua
	countCallLua string
	//go:embed uncount_call.lua
	uncountCallLua string
	//go:embed count_first.lua
	countFirstLua string
	//go:embed count_failure.lua
	countFailureLua string

	countCall    = redis.NewScript(countCallLua)
	uncountCall  = redis.NewScript(uncountCallLua)
	countFirst   = redis.NewScript(countFirstLua)
	countFailure = redis.NewScript(countFailureLua)
)

// Counters are a task's attempts, calls and costs over all its runs. Only the task's owner
// writes them, as whole values rather than increments: a repeated write, or a lost reply,
// does no harm.
type Counters struct {
	Attempts  int    // runs that sent a call, or failed before it with an error that counts
	Calls     int    // calls sent
	Settled   int    // calls that the API refused: nothing was billed
	Unpaid    int    // refunded attempts
	Crashes   int    // workers that died while they ran it
	Unusable  int    // paid answers that could not be used
	Cancelled bool   // its cancellation was requested
	Ended     bool   // it has its result
	Neurons   string // prices of calls by number, encoded by the engine; empty for none
	Failure   string // failure that could not be stored yet, as JSON; empty for none
}

// CounterFields are the fields of a record that CountersOf reads, in its order.
var CounterFields = []string{"attempts", "calls", "settled", "unpaid", "crashes", "cancelled", "ended", "unusable", "neurons", "failure"}

// CountersOf decodes the values of CounterFields. Missing values count as absent fields.
func CountersOf(values []any) Counters {
	values = append(slices.Clone(values), make([]any, len(CounterFields))...)
	text := func(i int) string {
		s, _ := values[i].(string)
		return s
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(text(i))
		return n
	}
	return Counters{
		Attempts: number(0), Calls: number(1), Settled: number(2), Unpaid: number(3), Crashes: number(4),
		Cancelled: values[5] != nil, Ended: values[6] != nil, Unusable: number(7), Neurons: text(8), Failure: text(9),
	}
}

// fields returns the fields and values that a release writes.
func (c Counters) fields() []any {
	fields := []any{"attempts", c.Attempts, "calls", c.Calls, "settled", c.Settled, "unpaid", c.Unpaid}
	if c.Unusable > 0 {
		fields = append(fields, "unusable", c.Unusable)
	}
	if c.Neurons != "" {
		fields = append(fields, "neurons", c.Neurons)
	}
	if c.Failure != "" {
		fields = append(fields, "failure", c.Failure)
	}
	return fields
}

// Peek reads the counters of a task, whoever owns it.
func Peek(ctx context.Context, r redis.UniversalClient, id string) (Counters, error) {
	values, err := r.HMGet(ctx, LiveKey(id), CounterFields...).Result()
	if err != nil {
		return Counters{}, err
	}
	return CountersOf(values), nil
}

// Call is the next call of a task: the values of its counters with that call.
type Call struct {
	Task
	Calls, Attempts int
	Settled, Unpaid int // written only if the record has no counters
}

// Counted is the outcome of counting a call.
type Counted struct {
	Refused bool // another process owns the task or has ended it
	Err     error
}

// Count counts one call of each task in one round trip, before the call is sent.
func (o Owner) Count(ctx context.Context, calls []Call) []Counted {
	out := make([]Counted, len(calls))
	for i, reply := range o.all(ctx, countCall, calls, func(c Call) []any {
		return []any{o.ID, c.Calls, c.Attempts, c.Expires.Unix(), o.Memory, c.Settled, c.Unpaid}
	}) {
		n, err := reply.Int()
		out[i] = Counted{Refused: err == nil && n == 0, Err: err}
	}
	return out
}

// Uncount restores the counters from before calls that were not sent.
func (o Owner) Uncount(ctx context.Context, calls []Call) []error {
	out := make([]error, len(calls))
	for i, reply := range o.all(ctx, uncountCall, calls, func(c Call) []any { return []any{o.ID, c.Calls, c.Attempts} }) {
		out[i] = reply.Err()
	}
	return out
}

func (o Owner) all(ctx context.Context, s *redis.Script, calls []Call, args func(Call) []any) []*redis.Cmd {
	return script.All(ctx, o.Redis, len(calls), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		return run(s, ctx, pipe, []string{LiveKey(calls[i].ID)}, args(calls[i])...)
	})
}

// CountFirst claims a task without an earlier run and counts its first call in one step.
// also adds further commands to the round trip. run is a random name of this run: Redis
// counts a repeated request with the same name once. isNew is false when the task has an
// earlier run, another owner, or is cancelled.
func (o Owner) CountFirst(ctx context.Context, t Task, run string, also func(redis.Pipeliner)) (isNew bool, err error) {
	n, err := o.runWith(ctx, countFirst, t, also, o.ID, t.Expires.Unix(), run, o.Memory).Int()
	return n == 1, err
}

// runWith runs a script on the record of a task, and further commands in the same round trip.
func (o Owner) runWith(ctx context.Context, s *redis.Script, t Task, also func(redis.Pipeliner), args ...any) *redis.Cmd {
	keys := []string{LiveKey(t.ID)}
	pipe := o.Redis.Pipeline()
	reply := s.EvalSha(ctx, pipe, keys, args...)
	also(pipe)
	_, _ = pipe.Exec(ctx) // each command has its own error
	if redis.HasErrorPrefix(reply.Err(), "NOSCRIPT") {
		reply = s.Eval(ctx, o.Redis, keys, args...)
	}
	return reply
}

// CountFailure counts an attempt that failed before it sent a call, and returns the
// attempts.
func (o Owner) CountFailure(ctx context.Context, t Task) (int, error) {
	return countFailure.Run(ctx, o.Redis, []string{LiveKey(t.ID)}, t.Expires.Unix()).Int()
}
