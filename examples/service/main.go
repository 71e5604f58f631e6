// Command service is a backend and its worker in one program: it greets a customer in
// their language, and a worker in the same process does the translation. It requires Redis
// and an account:
//
//	CLOUDFLARE_ACCOUNT_ID=... CLOUDFLARE_API_TOKEN=... service Ada es
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: service NAME LANGUAGE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name, language string) (err error) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer rdb.Close()
	store, err := fsstore.Open("bucket")
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		Redis: rdb,
		Store: store,
		AI:    &workersai.Client{AccountID: os.Getenv("CLOUDFLARE_ACCOUNT_ID"), Token: os.Getenv("CLOUDFLARE_API_TOKEN")},
		Kinds: []tasks.Kind{tasks.KindTranslation},
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer stop() // nothing else runs the tasks
		ended <- w.Run(ctx)
	}()
	defer func() {
		stop() // the worker ends once its calls have ended
		err = errors.Join(err, <-ended)
	}()

	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	receipt, err := greet(ctx, client, name, language)
	if err != nil {
		return err
	}
	result, err := client.Wait(ctx, receipt.ID)
	if err != nil {
		return err
	}
	output, err := tasks.OutputOf[tasks.TranslationOutput](result)
	if err != nil {
		return err
	}
	fmt.Println(output.TranslatedText)
	return nil
}

// greet enqueues a greeting, once for each customer.
func greet(ctx context.Context, client *tasks.Client, name, language string) (tasks.Receipt, error) {
	return client.Enqueue(ctx, tasks.Translation{Text: "Good morning, " + name, TargetLang: language},
		tasks.WithIdempotencyKey("greeting/"+name), tasks.WithTimeToLive(time.Hour))
}
