// Package events carries the progress of followed tasks: waits, partial text and the end. A
// followed task has a short stream of numbered events in Redis.
//
// A Writer runs in each worker. It writes events only while a task has followers, so an
// unfollowed task costs one command per batch of ended tasks. Up to 64 KiB of text is kept
// in memory meanwhile, so that a late follower gets the text from its beginning.
//
// A Hub runs in each process that serves followers. It has one subscription for all of them,
// and marks the tasks that they follow. Any replica can resume after the number of an event.
package events

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Type is the type of an event.
type Type string

// The types of events. Done is the last one.
const (
	Queued   Type = "queued"   // the task waits for a worker, or for its start
	Waiting  Type = "waiting"  // it waits at its gate, or is retried later
	Running  Type = "running"  // a call is under way; the text starts over
	Text     Type = "text"     // a further part of the text
	Progress Type = "progress" // parts of the work that are done
	Done     Type = "done"     // it has ended
)

// Event is one event of a task, as JSON.
type Event struct {
	N       int       `json:"-"` // number within the task, from 1
	Type    Type      `json:"type"`
	Time    time.Time `json:"time"`
	Attempt int       `json:"attempt,omitempty"`
	// Reason and Until describe the wait of a task. Until is zero if the end is unknown.
	Reason string    `json:"reason,omitempty"`
	Until  time.Time `json:"until,omitzero"`
	// Text continues the text of the attempt. Offset is its position there in bytes: a
	// reader with another number of bytes has missed a part.
	Text   string `json:"text,omitempty"`
	Offset int    `json:"offset,omitempty"`
	// Cut means that the text is too long to follow: the rest is in the result only.
	Cut bool `json:"cut,omitempty"`
	// Part of Parts are done.
	Part  int `json:"part,omitempty"`
	Parts int `json:"parts,omitempty"`
	// Status and Code are those of the result.
	Status tasks.Status `json:"status,omitempty"`
	Code   string       `json:"code,omitempty"`
}

// The bounds of a task's events.
const (
	Most    = 512              // events in the stream; the oldest give way
	KeptFor = 15 * time.Minute // after the last event
	MaxText = 64 << 10         // bytes of text that can be followed
)

// The keys in Redis. FollowedKey is a sorted set of the followed tasks by the Unix time until
// which the mark holds. Channel gets each event as "TASK NUMBER JSON".
const (
	FollowedKey = "neuronmill:followed"
	Channel     = "neuronmill:events"
)

// StreamKey returns the key of a task's stream. An entry 0-NUMBER has the fields "type" and
// "data", the JSON of the event.
func StreamKey(task string) string { return "neuronmill:events:{" + task + "}" }

// ID returns the id of a task's event: "TASK-NUMBER".
func ID(task string, n int) string { return task + "-" + strconv.Itoa(n) }

// ParseID returns the number in an event's id. It returns 0 and false if the id is not one of
// the task.
func ParseID(task, id string) (n int, ok bool) {
	text, ok := strings.CutPrefix(id, task+"-")
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 1 || strconv.Itoa(n) != text {
		return 0, false
	}
	return n, true
}

//go:embed append.lua
var appendLua string

var appendScript = redis.NewScript(appendLua)

// appendCall is a call of the script, to be run in a pipeline or alone.
func appendCall(ctx context.Context, run func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd, to redis.Scripter, task string, onlyFirst bool, events []Event) *redis.Cmd {
	first := 0
	if onlyFirst {
		first = 1
	}
	args := []any{task, Channel, Most, KeptFor.Milliseconds(), first}
	for _, e := range events {
		data, err := json.Marshal(e)
		if err != nil {
			continue // it has strings and numbers only
		}
		args = append(args, string(e.Type), data)
	}
	return run(ctx, to, []string{StreamKey(task)}, args...)
}

// appendTo appends events to the stream of a task. After the last event nothing is added.
// With onlyFirst nothing is added to a stream that has events.
func appendTo(ctx context.Context, r redis.UniversalClient, task string, onlyFirst bool, events ...Event) error {
	if err := appendCall(ctx, appendScript.Run, r, task, onlyFirst, events).Err(); err != nil {
		return fmt.Errorf("write the events of %s: %w", task, err)
	}
	return nil
}

// read returns a task's events after a number.
func read(ctx context.Context, r redis.UniversalClient, task string, after int) ([]Event, error) {
	entries, err := r.XRange(ctx, StreamKey(task), fmt.Sprintf("0-%d", after+1), "+").Result()
	if err != nil {
		return nil, fmt.Errorf("read the events of %s: %w", task, err)
	}
	var list []Event
	for _, entry := range entries {
		data, _ := entry.Values["data"].(string)
		_, number, _ := strings.Cut(entry.ID, "-")
		if e, ok := decode(number, data); ok {
			list = append(list, e)
		}
	}
	return list, nil
}

func decode(number, data string) (Event, bool) {
	n, err := strconv.Atoi(number)
	var e Event
	if err != nil || json.Unmarshal([]byte(data), &e) != nil {
		return Event{}, false
	}
	e.N = n
	return e, true
}

// FromResult returns the last event of an ended task.
func FromResult(r *tasks.Result) Event {
	e := Event{Type: Done, Time: r.FinishedAt, Attempt: r.Attempts, Status: r.Status}
	if r.Error != nil {
		e.Code = r.Error.Code
	}
	return e
}
