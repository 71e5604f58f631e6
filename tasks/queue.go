package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"
)

// asynq v0.26 enqueues one task a round trip; these scripts do what its client does,
// many at a time, and take a task that is queued already for success: it is our own,
// sent again. A test holds the stored bytes against those of asynq's own client. The
// field "turn" is ours: what is needed to know of a waiting task without decoding it.
var (
	pushNow = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 1 then return 0 end
redis.call("HSET", KEYS[1], "msg", ARGV[1], "state", "pending", "pending_since", ARGV[3], "turn", ARGV[4])
redis.call("LPUSH", KEYS[2], ARGV[2])
redis.call("SADD", KEYS[3], ARGV[5])
redis.call("ZADD", KEYS[4], ARGV[6], ARGV[2])
return 1`)
	pushLater = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 1 then return 0 end
redis.call("HSET", KEYS[1], "msg", ARGV[1], "state", "scheduled", "turn", ARGV[4])
redis.call("ZADD", KEYS[2], ARGV[3], ARGV[2])
redis.call("SADD", KEYS[3], ARGV[5])
redis.call("ZADD", KEYS[4], ARGV[6], ARGV[2])
return 1`)
)

const (
	neverArchive = 1 << 20   // asynq's retries; the counters that decide are ours
	leaseOnly    = 24 * 3600 // seconds; time limits are ours, a dead worker is known by its lease
)

// queueAll enqueues tasks in one round trip; one error slot for each. A Redis that has
// not seen the scripts gets them with the tasks in a second one.
func (c *Client) queueAll(ctx context.Context, tasks []Task) []error {
	errs := c.pushAll(ctx, tasks, (*redis.Script).EvalSha)
	var unseen []int
	for i, err := range errs {
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			unseen = append(unseen, i)
		}
	}
	if len(unseen) == 0 {
		return errs
	}
	again := make([]Task, len(unseen))
	for j, i := range unseen {
		again[j] = tasks[i]
	}
	for j, err := range c.pushAll(ctx, again, (*redis.Script).Eval) {
		errs[unseen[j]] = err
	}
	return errs
}

// runScript is a way to run a script in a pipeline.
type runScript func(s *redis.Script, ctx context.Context, pipe redis.Scripter, keys []string, args ...any) *redis.Cmd

func (c *Client) pushAll(ctx context.Context, tasks []Task, run runScript) []error {
	errs := make([]error, len(tasks))
	replies := make([]*redis.Cmd, len(tasks))
	pipe := c.cfg.Redis.Pipeline()
	now := time.Now()
	known := map[string]bool{}
	for i, t := range tasks {
		message, err := encode(t)
		if err != nil {
			errs[i] = err
			continue
		}
		queue := Queue(t.Kind, t.Lane)
		if !known[queue] {
			known[queue] = true
			pipe.SAdd(ctx, "asynq:queues", queue)
		}
		script, list, when := pushNow, "pending", now.UnixNano()
		if t.StartAt.After(now) {
			script, list, when = pushLater, "scheduled", t.StartAt.Unix()
		}
		prefix := "asynq:{" + queue + "}:"
		keys := []string{prefix + "t:" + t.ID, prefix + list, ModelsKey(queue), DeadlinesKey(queue)}
		replies[i] = run(script, ctx, pipe, keys, message, t.ID, when, turn(t), t.Model, t.Deadline.Unix())
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, r := range replies {
		if r != nil {
			errs[i] = r.Err()
		}
	}
	return errs
}

// server is the Redis that takes a client's tasks. One that was replaced since the last
// look does no harm: a task that names another than is there is looked for in the bucket.
type server struct {
	turn chan struct{} // holds one: who looks, or reads
	name string
	due  time.Time // for another look
}

func newServer() server { return server{turn: make(chan struct{}, 1)} }

const (
	lookEvery = time.Minute
	lookAgain = 5 * time.Second // after one that failed
)

// known gives the name, and asks for it when that is due; empty where it is not told.
func (s *server) known(ctx context.Context, r redis.UniversalClient) string {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ""
	}
	if time.Now().Before(s.due) {
		return s.name
	}
	ctx, cancel := context.WithTimeout(ctx, oneAnswer/2)
	defer cancel()
	name, err := replid.Ask(ctx, r)
	if err != nil {
		s.due = time.Now().Add(lookAgain)
		return s.name
	}
	s.name, s.due = name, time.Now().Add(lookEvery)
	return s.name
}

// turn is when a task was accepted (microseconds), when it is given up (seconds), and
// the model it waits for.
func turn(t Task) string {
	return fmt.Sprintf("%d %d %s", t.CreatedAt.UnixMicro(), t.Deadline.Unix(), t.Model)
}

// refused reports whether Redis itself said no: the script has not run.
func refused(err error) bool {
	var no redis.Error
	return errors.As(err, &no)
}

// encode writes a task as asynq's TaskMessage (internal/proto/asynq.proto of v0.26).
func encode(t Task) ([]byte, error) {
	payload, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode the task: %w", err)
	}
	var b []byte
	text := func(field protowire.Number, v string) {
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendString(b, v)
	}
	number := func(field protowire.Number, v uint64) {
		b = protowire.AppendTag(b, field, protowire.VarintType)
		b = protowire.AppendVarint(b, v)
	}
	text(1, string(t.Kind))
	text(2, string(payload))
	text(3, t.ID)
	text(4, Queue(t.Kind, t.Lane))
	number(5, neverArchive)
	number(8, leaseOnly)
	return b, nil
}

// Decode reads the task out of a queued one's payload, strictly: a task of another
// version or without what every task has cannot be run.
func Decode(payload []byte) (Task, error) {
	var t Task
	if err := json.Unmarshal(payload, &t); err != nil {
		return Task{}, fmt.Errorf("decode the task: %w", err)
	}
	_, known := SpecOf(t.Kind)
	switch {
	case t.Version != 1:
		return t, fmt.Errorf("decode the task: version %d is not understood", t.Version)
	case !known:
		return t, fmt.Errorf("decode the task: kind %s is unknown", quote(string(t.Kind)))
	case t.ID == "" || t.Tenant == "" || t.Model == "" || t.Deadline.IsZero():
		return t, errors.New("decode the task: it lacks its id, tenant, model or deadline")
	}
	return t, nil
}

// DecodeMessage reads a task out of asynq's own message, as encode writes it. The
// payload comes too when the message can be read and the task in it cannot.
func DecodeMessage(message []byte) (t Task, payload []byte, err error) {
	damaged := errors.New("decode the queued message: it is damaged")
	for rest := message; len(rest) > 0; {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return Task{}, nil, damaged
		}
		size := protowire.ConsumeFieldValue(field, kind, rest[n:])
		if size < 0 {
			return Task{}, nil, damaged
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(rest[n:])
			if field == 2 {
				payload = value
			} else if !utf8.Valid(value) && field < 15 {
				return Task{}, nil, damaged // asynq would refuse to read it
			}
		}
		rest = rest[n+size:]
	}
	if payload == nil {
		return Task{}, nil, damaged
	}
	t, err = Decode(payload)
	return t, payload, err
}
