// Package taskstest lets a test run the tasks of the code under test, without a server, an
// account or a port. A [Queue] is a Redis, a bucket and an emulator of Workers AI, all in
// the memory of the test.
//
// # Enqueue, require, work
//
// Give Queue.Client to the code under test. [RequireEnqueued] checks what that code has
// enqueued, and [Queue.Work] runs the tasks:
//
//	q := taskstest.New(t)
//	welcome(ctx, q.Client, "Ada") // enqueues a translation
//	task := taskstest.RequireEnqueued(t, q, tasks.Translation{TargetLang: "es"})
//	q.Work(t)
//	result, err := q.Client.Result(ctx, task.ID)
//
// Code that waits for its tasks, with [tasks.Do] for example, needs a worker meanwhile:
// call [Queue.Start] first.
//
// # Answers and failures
//
// Queue.Emulator answers deterministically, and logs each call. Its Fault method makes
// calls fail, hang or give unusual answers. Retries then take their usual time, unless the
// test runs in a bubble of [testing/synctest], where no time is lost. Everything here
// works in a bubble.
//
// [tasks.Do]: https://pkg.go.dev/github.com/neuronmill/neuronmill/tasks#Do
package taskstest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// Queue is a whole system in memory. It ends with the test.
type Queue struct {
	Client   *tasks.Client         // a producer with Redis and Store
	Redis    *redis.Client         // for code that makes a client of its own
	Store    *storage.Memory       // the bucket
	Emulator *workersaitest.Server // answers instead of Workers AI, without limits

	server *redistest.Server
}

// New makes an empty Queue. No worker runs yet.
func New(t testing.TB) *Queue {
	server := redistest.New(t)
	q := &Queue{
		Redis: server.Client(nil), Store: storage.NewMemory(), Emulator: workersaitest.New(workersaitest.Options{NoLimits: true}),
		server: server,
	}
	q.Client = tasks.NewClient(tasks.Config{Redis: q.Redis, Store: q.Store})
	return q
}

// perMinute is the pace of each kind: high enough that a test never waits for it.
const perMinute = 60_000

// Start runs a worker of all kinds until the test ends.
func (q *Queue) Start(t testing.TB) {
	t.Helper()
	_, stop := q.start(t)
	t.Cleanup(stop)
}

// start runs a worker until stop is called. The channel closes when the worker has ended.
func (q *Queue) start(t testing.TB) (ended <-chan struct{}, stop func()) {
	t.Helper()
	limits := map[string]int{}
	for _, s := range tasks.Specs {
		limits[string(s.Kind)] = perMinute
	}
	w, err := worker.New(worker.Config{
		Redis: q.server.Client(nil), Store: q.Store, AI: q.Emulator.Client(), Limits: limits,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var failure error
	go func() {
		defer close(done)
		failure = w.Run(ctx)
	}()
	return done, func() {
		cancel()
		<-done
		if failure != nil {
			t.Error(failure)
		}
	}
}

// workLimit is the longest duration of Work.
const workLimit = time.Hour

// Work runs a worker until every task has ended, completed or failed. Tasks with a later
// start stay in the queue. The test fails if a task has not ended after an hour.
func (q *Queue) Work(t testing.TB) {
	t.Helper()
	ended, stop := q.start(t)
	defer stop()
	timeout := time.After(workLimit)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if q.due(t) == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-ended:
			t.Fatal("the worker ended before the tasks")
		case <-timeout:
			t.Fatalf("tasks have not ended:\n%s", q.describe(t, q.Waiting(t)))
		}
	}
}

// due returns how many tasks a worker may run now. It counts by the deadlines of tasks that
// have not ended, since a task that moves between two lists may be missing in both.
func (q *Queue) due(t testing.TB) int {
	t.Helper()
	due := 0
	for _, name := range tasks.Queues() {
		n, err := q.Redis.ZCard(t.Context(), queue.DeadlinesKey(name)).Result()
		if err != nil {
			t.Fatal(err)
		}
		due += int(n)
	}
	for _, info := range q.Waiting(t) {
		if info.State == "scheduled" && info.StartAt.After(time.Now()) {
			due--
		}
	}
	return due
}

// listed is the most tasks that Waiting returns.
const listed = 100_000

// Waiting returns the tasks that have not ended, also those with a later start.
func (q *Queue) Waiting(t testing.TB) []tasks.Info {
	t.Helper()
	list, err := q.Client.List(t.Context(), tasks.ListFilter{Limit: listed})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// RequireEnqueued returns a task that has not ended and whose payload is like want. A
// field that is zero in want matches every value. The test fails if there is no such task.
func RequireEnqueued(t testing.TB, q *Queue, want tasks.Payload) tasks.Info {
	t.Helper()
	like := settled(reflect.Indirect(reflect.ValueOf(want)))
	waiting := q.Waiting(t)
	for _, info := range waiting {
		payload, err := info.Input(t.Context(), q.Store)
		if err == nil && matches(reflect.ValueOf(payload), like) {
			return info
		}
	}
	document, _ := json.Marshal(want)
	t.Fatalf("no %s task like %s is enqueued; there are:\n%s", want.Kind(), document, q.describe(t, waiting))
	return tasks.Info{}
}

// settled returns the payload as it is after its way through JSON.
func settled(payload reflect.Value) reflect.Value {
	into := reflect.New(payload.Type())
	document, err := json.Marshal(payload.Interface())
	if err != nil || json.Unmarshal(document, into.Interface()) != nil {
		return payload
	}
	return into.Elem()
}

// matches reports whether all fields of want that are not zero are the same in got.
func matches(got, want reflect.Value) bool {
	switch {
	case got.Type() != want.Type():
		return false
	case want.IsZero():
		return true
	case want.Kind() != reflect.Struct:
		return reflect.DeepEqual(got.Interface(), want.Interface())
	}
	for i := range want.NumField() {
		if want.Type().Field(i).IsExported() && !matches(got.Field(i), want.Field(i)) {
			return false
		}
	}
	return true
}

// describe lists tasks for a person.
func (q *Queue) describe(t testing.TB, list []tasks.Info) string {
	if len(list) == 0 {
		return "  none"
	}
	var b strings.Builder
	for _, info := range list {
		payload := info.Payload
		if p, err := info.Input(t.Context(), q.Store); err == nil {
			payload, _ = json.Marshal(p)
		}
		fmt.Fprintf(&b, "  %s %s %s %s %.200s %s\n", info.ID, info.Kind, info.Lane, info.State, payload, info.LastError)
	}
	return strings.TrimRight(b.String(), "\n")
}
