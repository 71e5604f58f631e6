package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// Do is the shortest way to an output: it enqueues a task and waits for it.
func ExampleDo() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis})
	output, err := tasks.Do(s.ctx, client, tasks.Translation{Text: "Good morning", TargetLang: "es"})
	fmt.Println(output.TranslatedText, err)
	// Output: [es] buenos días <nil>
}

// A web backend enqueues a task, answers its own caller, and asks for the result later.
// It uses the same Redis as the workers.
func ExampleClient_Enqueue() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis})
	receipt, err := client.Enqueue(s.ctx, tasks.Translation{Text: "Good morning", TargetLang: "es"},
		tasks.WithIdempotencyKey("order-7"), // safe to repeat
		tasks.WithTimeToLive(time.Minute),   // useless later
		tasks.WithMetadata(map[string]string{"customer": "42"}))
	if err != nil {
		fmt.Println("never runs:", err)
		return
	}
	result, err := client.Wait(s.ctx, receipt.ID)
	if err != nil {
		fmt.Println("not known yet:", err)
		return
	}
	output, err := tasks.OutputOf[tasks.TranslationOutput](result)
	fmt.Println(output.TranslatedText, err, result.Metadata["customer"])
	// Output: [es] buenos días <nil> 42
}

// Many tasks go to Redis in few round trips; each has its own receipt or error.
func ExampleClient_EnqueueMany() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis, Store: s.store})
	requests := []tasks.Request{
		{Payload: tasks.Embedding{Texts: []string{"red apples"}}, Options: []tasks.Option{tasks.WithLane(tasks.Bulk)}},
		{Payload: tasks.Image{Prompt: "a mill", Width: 512}},
	}
	outcomes := client.EnqueueMany(s.ctx, requests)
	fmt.Println(outcomes[0].Kind, outcomes[0].Durability, outcomes[0].Err)
	fmt.Println(outcomes[1].Err)
	// Output:
	// embedding store <nil>
	// width: @cf/black-forest-labs/flux-1-schnell does not take it
}

// A failed task ends with a result too. Its error has a stable code.
func ExampleTaskError() {
	s, done := exampleSystem()
	defer done()
	s.emulator.Fault(workersaitest.Fault{Kind: "text", Code: 5028})

	client := tasks.NewClient(tasks.Config{Redis: s.redis})
	_, err := tasks.Do(s.ctx, client, tasks.Text{Prompt: "Name three rivers"})
	var failure *tasks.TaskError
	if errors.As(err, &failure) && failure.Code == tasks.CodeModelGone {
		fmt.Println("take another model")
	}
	// Output: take another model
}

// A waiting task ends at once when it is cancelled, a running one before its next call.
func ExampleClient_Cancel() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis, Store: s.store})
	receipt, err := client.Enqueue(s.ctx, tasks.Text{Prompt: "Name three rivers"}, tasks.WithDelay(time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := client.Cancel(s.ctx, receipt.ID); err != nil {
		fmt.Println(err)
		return
	}
	result, err := client.Wait(s.ctx, receipt.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(result.Status, result.Error.Code)
	// Output: failed cancelled
}

// Get describes a task, whether it waits, runs or has ended.
func ExampleClient_Get() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis, Store: s.store})
	receipt, err := client.Enqueue(s.ctx, tasks.Text{Prompt: "Name three rivers"}, tasks.WithDelay(time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := client.Get(s.ctx, receipt.ID)
	fmt.Println(task.Kind, task.State, time.Until(task.NextRun) > 59*time.Minute, err)
	_, err = client.Get(s.ctx, "t_unknown")
	fmt.Println(errors.Is(err, tasks.ErrNotFound))
	// Output:
	// text scheduled true <nil>
	// true
}

// List finds the tasks that have not ended.
func ExampleClient_List() {
	s, done := exampleSystem()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: s.redis})
	for _, prompt := range []string{"Name three rivers", "Name three lakes"} {
		if _, err := client.Enqueue(s.ctx, tasks.Text{Prompt: prompt}, tasks.WithDelay(time.Hour)); err != nil {
			fmt.Println(err)
		}
	}
	list, err := client.List(s.ctx, tasks.ListFilter{Kind: tasks.KindText, State: "scheduled"})
	fmt.Println(len(list), err)
	// Output: 2 <nil>
}

// A failed task stays in the list of dead letters until someone retries or drops it.
func ExampleClient_DeadLetters() {
	s, done := exampleSystem()
	defer done()
	s.emulator.Fault(workersaitest.Fault{Kind: "text", Code: 5028})

	client := tasks.NewClient(tasks.Config{Redis: s.redis, Store: s.store})
	_, err := tasks.Do(s.ctx, client, tasks.Text{Prompt: "Name three rivers"})
	fmt.Println(tasks.CodeOf(err))

	s.emulator.Heal()
	for dead, err := range client.DeadLetters(s.ctx, tasks.DeadLetterFilter{Code: tasks.CodeModelGone}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		again, err := client.Retry(s.ctx, dead.ID)
		if err != nil {
			fmt.Println(err)
			return
		}
		result, err := client.Wait(s.ctx, again.ID)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(result.Status, result.Metadata["retry_of"] == dead.ID)
	}
	// Output:
	// model_gone
	// completed true
}

// Check reports all problems of a task without enqueuing it.
func ExampleCheck() {
	err := tasks.Check(tasks.Translation{Text: " ", TargetLang: "tlh"}, tasks.WithLane("slow"))
	if problems, ok := errors.AsType[tasks.ValidationError](err); ok {
		for _, p := range problems {
			fmt.Println(p.Field)
		}
	}
	// Output:
	// text
	// target_lang
	// lane
}

// Parse reads a payload from JSON, as every interface does.
func ExampleParse() {
	payload, err := tasks.Parse(tasks.KindText, []byte(`{"prompt": "Name three rivers", "max_tokens": 100}`))
	fmt.Println(payload.Kind(), err)
	_, err = tasks.Parse(tasks.KindText, []byte(`{"promt": "Name three rivers"}`))
	fmt.Println(err)
	// Output:
	// text <nil>
	// promt: no such field; did you mean prompt?
}

// Programs compare codes instead of texts. Codes explains each of them.
func ExampleCodeOf() {
	err := tasks.Check(tasks.Text{})
	for _, c := range tasks.Codes {
		if c.Code == tasks.CodeOf(err) {
			fmt.Println(c.Code)
			fmt.Println(c.Advice)
		}
	}
	// Output:
	// payload_invalid
	// Correct the fields and enqueue the task again.
}

// system has the parts that a deployment has elsewhere.
type system struct {
	ctx      context.Context //nolint:containedctx // of one example
	redis    *redis.Client
	store    *storage.Memory
	emulator *workersaitest.Server
}

// exampleSystem starts a Redis, a bucket and a worker that calls the emulator.
func exampleSystem() (*system, func()) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	server := miniredis.NewMiniRedis()
	s := &system{ctx: ctx, store: storage.NewMemory(), emulator: workersaitest.New(workersaitest.Options{})}
	s.redis = redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
	})
	w, err := worker.New(worker.Config{Redis: s.redis, Store: s.store, AI: s.emulator.Client(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	stopped := make(chan error, 1)
	working, stop := context.WithCancel(ctx)
	go func() { stopped <- w.Run(working) }()
	return s, func() {
		stop()
		<-stopped
		cancel()
		server.Close()
	}
}
