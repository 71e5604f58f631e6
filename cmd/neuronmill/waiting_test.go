package main

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// office is a Redis and a bucket that several commands share.
type office struct {
	t     *testing.T
	flags []string
}

func newOffice(t *testing.T) *office {
	server := miniredis.RunT(t)
	return &office{t, []string{"--redis-url", "redis://" + server.Addr(), "--data-dir", t.TempDir()}}
}

func (o *office) run(args ...string) (code int, stdout, stderr string) {
	o.t.Helper()
	var out, errs safeBuffer
	code = run(o.t.Context(), append(args, o.flags...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// worker runs a worker in this process until the test ends.
func (o *office) worker(args ...string) {
	ctx, stop := context.WithCancel(o.t.Context())
	done := make(chan int, 1)
	var out, errs safeBuffer
	go func() {
		done <- run(ctx, append(append([]string{"worker"}, args...), o.flags...), strings.NewReader(""), &out, &errs)
	}()
	o.t.Cleanup(func() {
		stop()
		if code := <-done; code != 0 {
			o.t.Errorf("the worker ended with %d: %s", code, errs.String())
		}
	})
	require.Eventually(o.t, func() bool {
		_, stdout, _ := o.run("workers")
		return strings.Contains(stdout, "running")
	}, 30*time.Second, 50*time.Millisecond)
}

// says waits until a command prints a text.
func (o *office) says(want string, args ...string) string {
	o.t.Helper()
	var stdout string
	require.EventuallyWithT(o.t, func(c *assert.CollectT) {
		_, stdout, _ = o.run(args...)
		require.Contains(c, stdout, want)
	}, time.Minute, 50*time.Millisecond)
	return stdout
}

func TestRunEndsAtItsDeadlineAlsoWithoutAWorkerAndSaysWhatItWaitedFor(t *testing.T) {
	o := newOffice(t)
	began := time.Now()
	code, _, stderr := o.run("run", "text", "hi", "--deadline", "1s")
	require.Equal(t, 1, code)
	require.Less(t, time.Since(began), time.Minute)
	require.Regexp(t, `unfinished: t_\w+: its deadline has passed; it was waiting: no worker runs; start one: neuronmill worker`, stderr)
	require.Contains(t, stderr, "0 done, waiting: no worker runs", "the progress says so meanwhile")
	code, _, stderr = o.run("task", "wait", "t_00000000000000000000000000000000")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "task not found")
}

func TestNoWorkerIsToldFromBusyOnes(t *testing.T) {
	o := newOffice(t)
	o.says("warn  workers  none runs, so tasks wait", "doctor")
	ai := httptest.NewServer(workersaitest.New(workersaitest.Options{Latency: time.Hour}))
	defer ai.Close()
	defer ai.CloseClientConnections()
	t.Setenv("NEURONMILL_EMULATOR_URL", ai.URL+"/client/v4")
	enqueue := func(args ...string) string {
		code, stdout, stderr := o.run(append([]string{"enqueue"}, args...)...)
		require.Zero(t, code, stderr)
		return strings.TrimSpace(stdout)
	}
	first := enqueue("translation", "one", "--target-lang", "es")
	o.says("waiting on  no worker runs; start one: neuronmill worker", "task", "get", first)
	_, stdout, _ := o.run("workers")
	require.Equal(t, "no worker runs; start one: neuronmill worker\n", stdout)

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var out, errs safeBuffer
		run(ctx, append([]string{"worker", "--kinds", "translation", "--concurrency", "1"}, o.flags...), strings.NewReader(""), &out, &errs)
	}()
	defer func() { stop(); ai.CloseClientConnections(); <-done }()
	o.says("running", "workers") // and has created its Workers AI client
	t.Setenv("NEURONMILL_EMULATOR_URL", "")
	o.says("waiting on  a call under way", "task", "get", first)
	second := enqueue("translation", "two", "--target-lang", "es")
	third := enqueue("translation", "three", "--target-lang", "es")
	o.says("waiting on  a free worker: all 1 slots for interactive translation tasks are busy", "task", "get", second)
	o.says("are busy, behind one other", "task", "get", third)
	picture := enqueue("image", "a mill")
	o.says("waiting on  no worker takes image tasks; start one: neuronmill worker --kinds image", "task", "get", picture)
	o.says("all 1 slots for interactive translation tasks are busy", "doctor") // by the next heartbeat
	o.says("ok    workers  1 running, 1 of 2 slots busy", "doctor")
	o.says("warn  workers  none takes transcription, image, embedding, text tasks", "doctor")

	_, stdout, _ = o.run("workers", "--json")
	var w monitor.Worker
	require.NoError(t, json.Unmarshal([]byte(stdout), &w), stdout)
	require.Equal(t, "running", w.Status)
	require.Positive(t, w.PID)
	require.Len(t, w.Queues, 2)
	require.Equal(t, monitor.WorkerQueue{Kind: "translation", Lane: "interactive", Slots: 1, Busy: 1}, w.Queues[0])

	code, stdout, _ := o.run("task", "cancel", picture)
	require.Zero(t, code)
	require.Contains(t, stdout, "ends once a worker runs: no worker takes image tasks")
}

func TestACancelledTaskThatWaitsShowsThatItIsCancelling(t *testing.T) {
	o := newOffice(t)
	for _, accept := range []string{"store", "redis"} {
		_, stdout, _ := o.run("enqueue", "text", "later", "--delay", "1h", "--accept", accept)
		id := strings.TrimSpace(stdout)
		o.says("scheduled", "task", "get", id)
		code, _, stderr := o.run("task", "cancel", id)
		require.Zero(t, code, stderr)
		_, stdout, _ = o.run("task", "get", id)
		require.Regexp(t, `state +cancelling`, stdout)
		_, stdout, _ = o.run("task", "list")
		require.Regexp(t, id+`.* cancelling `, stdout)
	}
}

func TestTheBeginningOfAnIDIsEnough(t *testing.T) {
	o := newOffice(t)
	for _, accept := range []string{"store", "redis"} {
		_, stdout, stderr := o.run("enqueue", "text", "one", "two", "--accept", accept)
		ids := strings.Fields(stdout)
		require.Len(t, ids, 2, stderr)
		short := append([]string{}, ids...)
		shortIDs(short)
		require.LessOrEqual(t, len(short[0]), 20)
		for i, s := range short {
			code, stdout, stderr := o.run("task", "get", s)
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, ids[i])
		}
		code, _, stderr := o.run("task", "cancel", ids[0][:8])
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "is the beginning of several ids")
	}
	for _, empty := range []string{"", " "} {
		code, _, stderr := o.run("task", "wait", empty)
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "an id is empty")
	}
	code, _, stderr := o.run("task", "get", "t_ffffff")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "t_ffffff: task not found")
}

func TestResultsOfManyTasksComeInTheOrderOfTheIDs(t *testing.T) {
	o := newOffice(t)
	o.worker()
	_, ids, stderr := o.run("enqueue", "translation", "one", "two", "three", "--target-lang", "es")
	require.Len(t, strings.Fields(ids), 3, stderr)
	many := func(stdin string, args ...string) (int, string, string) {
		var out, errs safeBuffer
		code := run(t.Context(), append(args, o.flags...), strings.NewReader(stdin), &out, &errs)
		return code, out.String(), errs.String()
	}
	lines := "\n" + strings.ReplaceAll(ids, "\n", "\tsome key\n") // the format in which enqueue prints rows with keys
	for _, verb := range []string{"wait", "result"} {
		code, stdout, stderr := many(lines, "task", verb, "-")
		require.Zero(t, code, stderr)
		var got []string
		for line := range strings.Lines(stdout) {
			var r struct{ ID string }
			require.NoError(t, json.Unmarshal([]byte(line), &r))
			got = append(got, r.ID)
		}
		require.Equal(t, strings.Fields(ids), got)
	}
	code, stdout, stderr := many("t_none\n"+ids, "task", "result", "-")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "line 1: t_none: task not found")
	require.Equal(t, 3, strings.Count(stdout, "\n"), "the others go on")

	code, stdout, _ = o.run(append([]string{"task", "wait"}, strings.Fields(ids)...)...)
	require.Zero(t, code)
	require.Equal(t, 3, strings.Count(stdout, "\n"))
	code, stdout, _ = o.run("task", "wait", strings.Fields(ids)[0])
	require.Zero(t, code)
	require.Contains(t, stdout, "\n  \"id\": ", "one alone is indented")
}

func TestAStartInTheFutureHolds(t *testing.T) {
	o := newOffice(t)
	start := time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second).Format(time.RFC3339)
	code, stdout, stderr := o.run("enqueue", "text", "later", "--start", start)
	require.Zero(t, code, stderr)
	o.says("scheduled", "task", "get", strings.TrimSpace(stdout))
	o.says("next run    "+start, "task", "get", strings.TrimSpace(stdout))
	code, _, stderr = o.run("enqueue", "text", "later", "--start", time.Now().AddDate(1, 0, 0).Format(time.RFC3339))
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "start: is more than 90 days ahead")
}

func TestRunNamesTheTasksThatAnInterruptLeavesBehind(t *testing.T) {
	o := newOffice(t)
	var out, errs safeBuffer
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"run", "text", "one", "two"}, o.flags...), strings.NewReader(""), &out, &errs)
	}()
	list := o.says("pending", "task", "list")
	require.Eventually(t, func() bool {
		_, list, _ = o.run("task", "list")
		return strings.Count(list, "t_") == 2
	}, time.Minute, 20*time.Millisecond)
	interrupt()
	require.Equal(t, 1, <-done)
	require.Equal(t, 2, strings.Count(errs.String(), "unfinished: t_"), errs.String())
	require.Contains(t, errs.String(), "0 completed, 0 failed, 0 refused, 2 unfinished")
	require.Contains(t, errs.String(), "interrupted: unfinished tasks stay in the queue")
}
