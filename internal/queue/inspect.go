package queue

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Ref names a task that a queue may hold.
type Ref struct{ Queue, ID string }

// Inspected is a task as its queue holds it, with its record of the same moment. State is
// empty when the queue has no such task.
type Inspected struct {
	Ref
	State     string // pending, scheduled, active, retry or archived
	Tombstone bool   // the task has ended
	Message   []byte
	LastError string    // why it is retried
	NextRun   time.Time // start of a scheduled task, time of a retry; zero otherwise
	Record    []any     // the fields of the record, nil for a missing one
}

// inspectTries is how often a cluster is read until two reads in a row are equal.
const inspectTries = 5

// Inspect reads tasks and the given fields of their records, all in one step. A cluster has
// no such step for keys of several nodes, so it is read until nothing changes.
func Inspect(ctx context.Context, r redis.UniversalClient, refs []Ref, record func(id string) string, fields ...string) ([]Inspected, error) {
	_, cluster := r.(*redis.ClusterClient)
	last, err := inspectOnce(ctx, r, cluster, refs, record, fields)
	for try := 1; cluster && err == nil && try < inspectTries; try++ {
		before := last
		last, err = inspectOnce(ctx, r, cluster, refs, record, fields)
		if reflect.DeepEqual(before, last) {
			break
		}
	}
	return last, err
}

func inspectOnce(ctx context.Context, r redis.UniversalClient, cluster bool, refs []Ref, record func(string) string, fields []string) ([]Inspected, error) {
	type look struct {
		task, record *redis.SliceCmd
		start, retry *redis.FloatCmd
	}
	pipe := r.TxPipeline()
	if cluster {
		pipe = r.Pipeline()
	}
	looks := make([]look, len(refs))
	for i, ref := range refs {
		looks[i] = look{
			task:   pipe.HMGet(ctx, taskKey(ref.Queue, ref.ID), "state", "msg", "ended"),
			start:  pipe.ZScore(ctx, scheduledKey(ref.Queue), ref.ID),
			retry:  pipe.ZScore(ctx, retryKey(ref.Queue), ref.ID),
			record: pipe.HMGet(ctx, record(ref.ID), fields...),
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("look at tasks: %w", err)
	}
	all := make([]Inspected, len(refs))
	for i, l := range looks {
		if err := errors.Join(l.task.Err(), l.record.Err()); err != nil {
			return nil, fmt.Errorf("look at %s: %w", refs[i].ID, err)
		}
		had := l.task.Val()
		state, _ := had[0].(string)
		message, _ := had[1].(string)
		all[i] = Inspected{Ref: refs[i], State: state, Tombstone: had[2] != nil, Message: []byte(message), LastError: lastError([]byte(message)), Record: l.record.Val()}
		switch state {
		case "scheduled":
			all[i].NextRun = time.Unix(int64(l.start.Val()), 0)
		case "retry":
			all[i].NextRun = time.Unix(int64(l.retry.Val()), 0)
		}
	}
	return all, nil
}

// IDs reads the ids of tasks of a queue by state in one step, at most limit of each state.
// It skips the first ones of the first state.
func IDs(ctx context.Context, r redis.UniversalClient, queue string, states []string, skip, limit int) ([][]string, error) {
	replies := make([]*redis.StringSliceCmd, len(states))
	pipe := r.TxPipeline()
	for i, state := range states {
		from, to := int64(0), int64(limit-1)
		if i == 0 {
			from, to = int64(skip), int64(skip+limit-1)
		}
		switch state {
		case "active":
			replies[i] = pipe.LRange(ctx, activeKey(queue), -to-1, -from-1)
		case "pending":
			replies[i] = pipe.LRange(ctx, pendingKey(queue), -to-1, -from-1)
		case "retry":
			replies[i] = pipe.ZRange(ctx, retryKey(queue), from, to)
		case "scheduled":
			replies[i] = pipe.ZRange(ctx, scheduledKey(queue), from, to)
		default:
			replies[i] = pipe.ZRange(ctx, archivedKey(queue), from, to)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("list the tasks of %s: %w", queue, err)
	}
	all := make([][]string, len(states))
	for i, reply := range replies {
		all[i] = reply.Val()
		if states[i] == "active" || states[i] == "pending" { // workers take from the right end
			slices.Reverse(all[i])
		}
	}
	return all, nil
}
