package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// OpenStore opens the bucket. The text is a description for people.
func OpenStore(ctx context.Context, s Settings) (storage.Store, string, error) {
	raw := s.Store()
	if dir, ok := strings.CutPrefix(raw, "file:"); ok {
		dir = strings.TrimPrefix(dir, "//")
		store, err := fsstore.Open(dir)
		return store, "folder " + dir, err
	}
	if !strings.HasPrefix(raw, "s3://") {
		return nil, "", errors.New("NEURONMILL_STORE_URL is not valid: it is file:/path or s3://bucket/prefix?endpoint=URL&region=auto&path_style=true")
	}
	config, err := s3store.ParseURL(raw)
	if err != nil {
		return nil, "", err
	}
	store, err := s3store.Open(ctx, config)
	return store, config.String(), err
}

// Emulated is the note that commands print when the emulator answers.
const Emulated = "the emulator answers: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN to use a real account"

// OpenAI makes the client of Workers AI. When no account is set, the note names the server
// that answers instead.
func OpenAI(s Settings) (client *workersai.Client, note string) {
	switch {
	case s.AccountID != "":
		return &workersai.Client{BaseURL: s.BaseURL, AccountID: s.AccountID, Token: string(s.Token), Gateway: s.Gateway}, ""
	case s.BaseURL != "":
		return &workersai.Client{BaseURL: s.BaseURL, AccountID: "none", Token: "none", Gateway: s.Gateway}, "no account is set: " + s.BaseURL + " answers"
	case s.Emulator != "":
		token := cmp.Or(string(s.EmulatorToken), "none")
		return &workersai.Client{BaseURL: s.Emulator, AccountID: "emulator", Token: token}, Emulated
	}
	return workersaitest.New(workersaitest.Options{Limits: s.Limits}).Client(), Emulated
}

// Stack holds the opened Redis and bucket, and the producer's client on them.
type Stack struct {
	Redis  *Redis
	Store  storage.Store
	Bucket string // describes Store
	Client *tasks.Client

	stopRebuild func() // nil without a rebuild of the queue
}

// Open opens Redis and the bucket. The caller closes the Stack.
func Open(ctx context.Context, s Settings, allowUnknown bool, log *slog.Logger) (*Stack, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	store, bucket, err := OpenStore(ctx, s)
	if err != nil {
		return nil, err
	}
	r, err := OpenRedis(ctx, s, log)
	if err != nil {
		return nil, err
	}
	client := tasks.NewClient(tasks.Config{Redis: r.UniversalClient, Store: store, AllowUnknownModel: allowUnknown, WebhookNetworks: s.WebhookAllow})
	stack := &Stack{Redis: r, Store: store, Bucket: bucket, Client: client}
	if r.empty {
		stack.stopRebuild = rebuild(ctx, client, log)
	}
	return stack, nil
}

// Close closes what Open opened.
func (s *Stack) Close() error {
	if s.stopRebuild != nil {
		s.stopRebuild()
	}
	return s.Redis.Close()
}

// Monitor returns what reads the state of the running system.
func (s *Stack) Monitor() *monitor.Monitor { return &monitor.Monitor{Redis: s.Redis.UniversalClient} }

// Gate returns the client of the fleet's gates.
func (s *Stack) Gate(settings Settings, bulkShare float64, log *slog.Logger) *gate.Gate {
	return gate.New(gate.Config{
		Redis: s.Redis.UniversalClient, Pace: settings.Limits.Pace, Total: settings.Limits.Total, BulkShare: bulkShare, Log: log,
	})
}

// Index returns the index of ended tasks.
func (s *Stack) Index() *index.Index { return &index.Index{Redis: s.Redis.UniversalClient} }

// Usage returns the ledger of what tasks have cost.
func (s *Stack) Usage() *usage.Ledger { return &usage.Ledger{Redis: s.Redis.UniversalClient} }

// Caps returns the caps on the cost of a day.
func (s *Stack) Caps() *budget.Caps {
	return &budget.Caps{Redis: s.Redis.UniversalClient, Store: s.Store}
}

// RebuildUsage counts the usage of a day again from the bucket; see usage.Ledger.Rebuild.
func (s *Stack) RebuildUsage(ctx context.Context, date string, progress func(usage.Rebuilt)) (usage.Rebuilt, error) {
	return s.Usage().Rebuild(ctx, s.Store, BatchCosts(s.Store), date, progress)
}

// BatchCosts returns what reads the costs of the batches in a bucket.
func BatchCosts(store storage.Store) usage.BatchCosts {
	return func(ctx context.Context, tenant string, since time.Time, yield func([]usage.BatchCost, func(tasks.Origin) bool)) error {
		return batch.New(batch.Config{Store: store, Tenant: tenant}).Costs(ctx, since, func(shard batch.ShardCosts) error {
			var costs []usage.BatchCost
			for _, c := range shard.Costs {
				sum := usage.Sum{MicroNeurons: c.MicroNeurons, Tasks: c.Tasks, Calls: c.Calls, Unsettled: c.Unsettled}
				costs = append(costs, usage.BatchCost{Day: c.Day, Model: c.Model, Origin: tasks.Origin{Key: shard.Key, Batch: shard.Batch}, Sum: sum})
			}
			if len(costs) > 0 { // shards of earlier versions have none
				yield(costs, shard.Holds)
			}
			return nil
		})
	}
}

// Webhooks returns the queue of webhooks.
func (s *Stack) Webhooks() *webhook.Queue { return &webhook.Queue{Redis: s.Redis.UniversalClient} }

// Worker makes a worker on the stack. The options have whatever the settings lack: kinds,
// concurrency, bulk share.
func (s *Stack) Worker(settings Settings, ai *workersai.Client, o worker.Config, log *slog.Logger) (*worker.Worker, error) {
	o.Redis, o.Store, o.AI, o.Limits, o.Log = s.Redis.UniversalClient, s.Store, ai, settings.Limits, log
	o.WebhookSecret, o.WebhookNetworks, o.PublicURL = string(settings.WebhookSecret), settings.WebhookAllow, settings.PublicURL
	return worker.New(o)
}
