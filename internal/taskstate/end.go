package taskstate

import (
	"context"
	_ "embed" // the scripts
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed finish.lua
	finishLua string
	//go:embed note_reasons.lua
	noteReasonsLua string

	finish      = redis.NewScript(finishLua)
	noteReasons = redis.NewScript(noteReasonsLua)
)

// End is what Finish writes about an ended task.
type End struct {
	Status    string
	InRecord  []byte // document for producers of earlier versions; nil for none
	Published []byte // document for a producer without a Store; nil for none
}

// Finish adds the end of a task to a pipeline. done returns the outcome once the pipeline
// has run.
func Finish(ctx context.Context, r redis.UniversalClient, pipe redis.Pipeliner, id string, e End) (done func() error) {
	keys := []string{LiveKey(id), PublishedKey(id)}
	args := []any{int(LiveTTL.Seconds()), e.Status, e.InRecord, e.Published, int(PublishedFor.Seconds())}
	reply := finish.EvalSha(ctx, pipe, keys, args...)
	return func() error {
		if redis.HasErrorPrefix(reply.Err(), "NOSCRIPT") {
			reply = finish.Eval(ctx, r, keys, args...)
		}
		return reply.Err()
	}
}

// Reasons say why a task has not ended yet.
type Reasons struct {
	Waits string // its last wait
	Last  string // the last error answer of the API
}

// NoteReasons writes why a task is retried; empty reasons keep their old value. It returns
// true once, when the retries have lasted for a minute.
func NoteReasons(ctx context.Context, r redis.UniversalClient, t Task, why Reasons) (long bool, err error) {
	n, err := noteReasons.Run(ctx, r, []string{LiveKey(t.ID)}, why.Waits, why.Last, time.Now().Unix(), t.Expires.Unix()).Int()
	return n == 1, err
}

// ReasonsOf reads what NoteReasons wrote.
func ReasonsOf(ctx context.Context, r redis.UniversalClient, id string) (why Reasons, err error) {
	values, err := r.HMGet(ctx, LiveKey(id), "waits", "last").Result()
	if err != nil {
		return why, err
	}
	why.Waits, _ = values[0].(string)
	why.Last, _ = values[1].(string)
	return why, nil
}
