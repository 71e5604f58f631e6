package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// A program runs a worker beside its own code until its context ends.
func ExampleWorker_Run() {
	server, err := miniredis.Run() // a deployment has a Redis elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	store := storage.NewMemory() // a deployment has s3store or fsstore

	w, err := worker.New(worker.Config{
		Redis:  rdb,
		Store:  store,
		AI:     workersaitest.New(workersaitest.Options{}).Client(), // &workersai.Client{AccountID: ..., Token: ...}
		Kinds:  []tasks.Kind{tasks.KindTranslation, tasks.KindText},
		Limits: map[string]int{"translation": 700}, // requests a minute of this account
		Log:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	output, err := tasks.Do(ctx, client, tasks.Translation{Text: "Good morning", TargetLang: "es"})
	fmt.Println(output.TranslatedText, err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// [es] buenos días <nil>
	// <nil>
}

// Validate reports all wrong settings at once.
func ExampleConfig_Validate() {
	c := worker.Config{
		AI:     &workersai.Client{AccountID: "...", Token: "..."},
		Limits: map[string]int{"poem": 3},
	}
	fmt.Println(c.Validate())
	// Output:
	// setting Redis is missing
	// setting Store is missing
	// setting Limits: limits: "poem" is neither a kind, KIND:total nor a model
}
