package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/neuronmill/neuronmill/internal/embedded"
	"github.com/neuronmill/neuronmill/tasks"
)

// openEmbedded joins the Redis of the data folder and starts one if none runs.
func openEmbedded(ctx context.Context, dataDir string, log *slog.Logger) (*Redis, error) {
	session, err := embedded.Join(ctx, dataDir, log)
	if err != nil {
		return nil, err
	}
	log.Debug("embedded redis joined", "redis", session.Description)
	return &Redis{UniversalClient: session.Client, Description: session.Description, InMemory: session.Memory, stop: session.Close, empty: session.Empty}, nil
}

// rebuildPatience is how long a command waits for the rebuild of its queue. After that the
// rebuild continues in the background.
const rebuildPatience = 10 * time.Second

// rebuild fills the queue of a Redis in memory from the pending records of earlier
// commands in the bucket. No other process uses that Redis yet, so even the newest records
// are requeued. A large queue is filled in the background; stop ends that and waits for it.
func rebuild(ctx context.Context, client *tasks.Client, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err := client.Recover(ctx, tasks.Recovery{})
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Warn("the queue in memory was not wholly rebuilt from the bucket; a worker tries again", "tasks", n.Returned, "error", err)
		case n.Returned > 0:
			log.Info("the queue in memory was rebuilt from the bucket", "tasks", n.Returned)
		}
	}()
	select {
	case <-done:
	case <-time.After(rebuildPatience):
		log.Info("the queue in memory is being rebuilt from the bucket; not all tasks show yet")
	}
	return func() {
		cancel()
		<-done
	}
}
