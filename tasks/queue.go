package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/redis/go-redis/v9"
)

// queueAll enqueues tasks.
func (c *Client) queueAll(ctx context.Context, tasks []Task) []queue.Pushed {
	if len(tasks) == 0 {
		return nil
	}
	out := make([]queue.Pushed, len(tasks))
	entries := make([]queue.Entry, 0, len(tasks))
	var valid []int
	for i, t := range tasks {
		message, err := encode(t)
		if err != nil {
			out[i].Err = err
			continue
		}
		valid = append(valid, i)
		entries = append(entries, queue.Entry{
			Queue: Queue(t.Kind, t.Lane), ID: t.ID, Model: t.Model, Message: message,
			Accepted: t.CreatedAt, Expires: t.Deadline, StartAt: t.StartAt,
		})
	}
	for k, p := range queue.Push(ctx, c.cfg.Redis, entries) {
		out[valid[k]] = p
	}
	return out
}

// server caches the name of the Redis that a client enqueues to. An outdated name is
// harmless: the worker then checks the bucket for the task's result.
type server struct {
	turn chan struct{} // a lock with support for contexts
	name string
	due  time.Time // when to ask again
}

func newServer() server { return server{turn: make(chan struct{}, 1)} }

const (
	lookEvery = time.Minute
	lookAgain = 5 * time.Second // after a failure
)

// known returns the name, and asks Redis for it when that is due. It returns "" if Redis
// does not report one.
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
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	name, err := replid.Ask(ctx, r)
	if err != nil {
		s.due = time.Now().Add(lookAgain)
		return s.name
	}
	s.name, s.due = name, time.Now().Add(lookEvery)
	return s.name
}

// encode encodes a task as its queue holds it.
func encode(t Task) ([]byte, error) {
	payload, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode the task: %w", err)
	}
	return queue.EncodeMessage(Queue(t.Kind, t.Lane), t.ID, string(t.Kind), payload), nil
}

// ErrNewerTask: a newer version of this module wrote the task, with a message version or
// a kind that this version does not know. The task is not damaged: a newer worker can run
// it.
var ErrNewerTask = errors.New("a newer version of neuronmill wrote it")

// taskID matches valid ids. They become part of object keys and Redis keys.
var taskID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Tombstone returns a message that replaces a task that ended while it was in the list of
// pending tasks. Removing the id from a long list would cost Redis a search. The worker
// that receives a tombstone acknowledges it. Workers of earlier versions do so when they
// find the task's result.
func Tombstone(t Task) ([]byte, error) {
	return encode(Task{
		Version: 1, ID: t.ID, Tenant: t.Tenant, Kind: t.Kind, Lane: t.Lane, Model: t.Model, Digest: t.Digest,
		CreatedAt: t.CreatedAt, Deadline: t.Deadline, Ended: true,
	})
}

// Decode reads a task from the payload of a queued one and checks it as a producer's
// client does. A writer to Redis must not reach other API paths with the worker's token,
// or another tenant's objects. With ErrNewerTask, the id, tenant and deadline of the task
// are valid.
func Decode(payload []byte) (Task, error) {
	var t Task
	if err := json.Unmarshal(payload, &t); err != nil {
		if newer, ok := decodeNewer(payload); ok {
			return newer, fmt.Errorf("decode the task: version %d: %w", newer.Version, ErrNewerTask)
		}
		return Task{}, fmt.Errorf("decode the task: %w", err)
	}
	_, known := SpecOf(t.Kind)
	switch {
	case t.ID == "" || t.Tenant == "" || t.Deadline.IsZero():
		return t, errors.New("decode the task: it lacks its id, tenant or deadline")
	case !taskID.MatchString(t.ID):
		return t, fmt.Errorf("decode the task: %s is not a valid id", quote(t.ID))
	case !tenantName.MatchString(t.Tenant):
		return t, fmt.Errorf("decode the task: %s is not a valid tenant", quote(t.Tenant))
	case t.Version > 1:
		return t, fmt.Errorf("decode the task: version %d: %w", t.Version, ErrNewerTask)
	case t.Version != 1:
		return t, fmt.Errorf("decode the task: there is no version %d", t.Version)
	case !known:
		return t, fmt.Errorf("decode the task: kind %s: %w", quote(string(t.Kind)), ErrNewerTask)
	case t.Lane != "" && t.Lane != Interactive && t.Lane != Bulk:
		return t, fmt.Errorf("decode the task: %s is not a valid lane", quote(string(t.Lane)))
	case !validModel(t.Model):
		return t, fmt.Errorf("decode the task: %s is not a valid model", quote(t.Model))
	case t.InputKey != "" && !t.ownsInput():
		return t, errors.New("decode the task: its input key is not its own")
	}
	return t, nil
}

// decodeNewer distinguishes a task of a newer version from a damaged one. It reads the
// version, and the deadline until which a newer worker may run the task.
func decodeNewer(payload []byte) (Task, bool) {
	var t struct {
		Version  int       `json:"v"`
		ID       string    `json:"id"`
		Tenant   string    `json:"tenant"`
		Deadline time.Time `json:"deadline"`
	}
	err := json.Unmarshal(payload, &t)
	ok := err == nil && t.Version > 1 && taskID.MatchString(t.ID) && tenantName.MatchString(t.Tenant) && !t.Deadline.IsZero()
	return Task{Version: t.Version, ID: t.ID, Tenant: t.Tenant, Deadline: t.Deadline}, ok
}

// DecodeMessage reads a task from its message in the queue. It also returns the payload if
// only the task inside it is unreadable.
func DecodeMessage(message []byte) (t Task, payload []byte, err error) {
	payload, err = queue.Payload(message)
	if err != nil {
		return Task{}, nil, err
	}
	t, err = Decode(payload)
	return t, payload, err
}
