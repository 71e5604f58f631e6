// Command producer is a minimal backend: it enqueues a translation, waits for its result
// and prints it. It requires Redis and a worker:
//
//	neuronmill worker --redis-url redis://127.0.0.1:6379/0
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer rdb.Close()
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	text, err := translate(context.Background(), client, "order-7", "Good morning")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
}

// translate returns the same translation for each call with the same order, and pays
// once.
func translate(ctx context.Context, client *tasks.Client, order, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := tasks.Do(ctx, client, tasks.Translation{Text: text, TargetLang: "es"},
		tasks.WithIdempotencyKey(order), tasks.WithTimeToLive(time.Minute))
	return output.TranslatedText, err // the error is the *tasks.TaskError of a failed task
}
