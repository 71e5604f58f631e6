package tasks_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// A web backend enqueues, answers its own caller, and asks for the result later. Its
// Redis is the one that the workers have.
func ExampleClient_Enqueue() {
	ctx, rdb, done := exampleWorker()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: rdb})
	accepted, err := client.Enqueue(ctx, tasks.Translation{Text: "Good morning", TargetLang: "es"},
		tasks.WithIdempotencyKey("order-7"), // safe to repeat
		tasks.WithTimeToLive(time.Minute),   // not worth having later
		tasks.WithMetadata(map[string]string{"customer": "42"}))
	if err != nil {
		fmt.Println("never runs:", err)
		return
	}
	result, err := client.Wait(ctx, accepted.ID)
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
	ctx, rdb, done := exampleWorker()
	defer done()

	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: storage.NewMemory()})
	requests := []tasks.Request{
		{Payload: tasks.Embedding{Texts: []string{"red apples"}}, Options: []tasks.Option{tasks.WithLane(tasks.Bulk)}},
		{Payload: tasks.Image{Prompt: "a mill", Width: 512}},
	}
	accepted, errs := client.EnqueueMany(ctx, requests)
	fmt.Println(accepted[0].Kind, accepted[0].Durability, errs[0])
	fmt.Println(errs[1])
	// Output:
	// embedding store <nil>
	// width: @cf/black-forest-labs/flux-1-schnell does not take it
}

// exampleWorker stands for what a deployment has elsewhere: Redis and a worker.
func exampleWorker() (context.Context, *redis.Client, func()) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	server := miniredis.NewMiniRedis()
	rdb := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
	})
	worker, err := handlers.NewWorker(handlers.Config{
		Redis: rdb, Store: storage.NewMemory(), AI: workersaitest.New(workersaitest.Options{}).Client(),
		Gate: limit.New(limit.Config{Redis: rdb, Pace: func(string, string) limit.Pace { return limit.Pace{PerMinute: 3000} }}), Kinds: []tasks.Kind{tasks.KindTranslation},
	})
	if err != nil {
		panic(err)
	}
	stopped := make(chan error, 1)
	working, stop := context.WithCancel(ctx)
	go func() { stopped <- worker.Run(working) }()
	return ctx, rdb, func() {
		stop()
		<-stopped
		cancel()
		server.Close()
	}
}
