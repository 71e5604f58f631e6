package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/metrics"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/observe"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Config has the settings of a Worker. Redis, Store and AI are required.
type Config struct {
	// Redis has the queues and the gates: version 6.2 or newer. The worker adds hooks to
	// the client, and the caller closes it after Run has returned. Its pool should have a
	// connection for every four Calls.
	Redis redis.UniversalClient
	// Store is the bucket for results. It needs create-only writes.
	Store storage.Store
	// AI has the account and its token.
	AI *workersai.Client

	Kinds []tasks.Kind // which tasks to take; none means all kinds
	// Concurrency is the number of tasks of each kind and lane that run at once; 0 means 16.
	Concurrency int
	// Limits are the account's requests a minute, by kind ("embedding"), by model id, or
	// over all models of a kind ("embedding:total"). The catalogue has the others. All
	// workers on one Redis must have the same limits.
	Limits map[string]int
	// BulkShare is the part of a model's pace that bulk tasks get even when interactive
	// ones would take all of it, at most 0.5. 0 means 0.05; negative means none.
	BulkShare float64
	// Poll is for a Redis without pub/sub: the interval at which an idle worker polls for
	// interactive tasks, and at five times the interval for bulk ones. 0 means that the
	// worker waits for announcements, which is faster and costs less.
	Poll time.Duration
	Log  *slog.Logger // nil means the default logger
	// Fetch downloads audio at a URL. Nil means a client that only connects to public
	// addresses.
	Fetch *http.Client
	// Observer gets the events of this worker's tasks, for metrics or a ledger. A slow one
	// delays no task and loses events beyond 4,096. Nil means none.
	Observer tasks.Observer
	// Metrics gets this worker's metrics; docs/metrics.md lists them. Workers that share a
	// registerer share their counters. Nil means none.
	Metrics prometheus.Registerer
	// WebhookSecret signs webhooks: at least 32 characters, or several secrets with spaces
	// between, the newest first. Receivers get keys that derive from it. All workers must
	// have the same. While it is empty, webhooks wait in Redis for up to 7 days.
	WebhookSecret string
	// WebhookNetworks are networks, private ones too, that webhooks may reach beside public
	// addresses, at any port and also over plain HTTP; none by default. Link-local addresses
	// and metadata services of clouds are never reached. Producers need the same networks in
	// [tasks.Config].
	WebhookNetworks []netip.Prefix
	// PublicURL begins the links in webhooks: "https://mill.example". Empty means links
	// without a host.
	PublicURL string
}

// The defaults and bounds of a Config.
const (
	concurrency     = 16
	mostConcurrency = 10_000
	bulkShare       = 0.05
	mostBulkShare   = 0.5
)

// Validate reports all missing and invalid settings.
func (c Config) Validate() error {
	var errs []error
	invalid := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	invalid(c.Redis == nil, "setting Redis is missing")
	invalid(c.Store == nil, "setting Store is missing")
	invalid(c.AI == nil, "setting AI is missing")
	for _, k := range c.Kinds {
		_, ok := tasks.SpecOf(k)
		invalid(!ok, "setting Kinds: there is no kind %q", k)
	}
	invalid(c.Concurrency < 0 || c.Concurrency > mostConcurrency, "setting Concurrency %d is out of range, 1 to %d", c.Concurrency, mostConcurrency)
	if err := limits.Limits(c.Limits).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("setting Limits: %w", err))
	}
	invalid(!(c.BulkShare <= mostBulkShare), "setting BulkShare %v is out of range, at most %v", c.BulkShare, mostBulkShare)
	if _, err := webhook.ParseSecrets(c.WebhookSecret); err != nil {
		errs = append(errs, fmt.Errorf("setting WebhookSecret: %w", err))
	}
	if err := fetch.Networks(c.WebhookNetworks).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("setting WebhookNetworks: %w", err))
	}
	invalid(c.Poll < 0, "setting Poll %s is negative", c.Poll)
	return errors.Join(errs...)
}

// Calls returns the most calls of Workers AI that such a worker has under way at once.
func (c Config) Calls() int {
	kinds := len(c.Kinds)
	if kinds == 0 {
		kinds = len(tasks.Specs)
	}
	return kinds * 2 * c.concurrency()
}

func (c Config) concurrency() int {
	if c.Concurrency == 0 {
		return concurrency
	}
	return c.Concurrency
}

func (c Config) bulkShare() float64 {
	if c.BulkShare == 0 {
		return bulkShare
	}
	return max(c.BulkShare, 0)
}

// Worker runs tasks. New makes one.
type Worker struct {
	config   engine.Config
	observer tasks.Observer
	metrics  *metrics.Metrics // nil for none
	webhooks *webhook.Sender
	log      *slog.Logger
}

// New makes a worker, which starts with Run. There is nothing to close. The error is that
// of Config.Validate.
func New(c Config) (*Worker, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	signers, err := webhook.ParseSecrets(c.WebhookSecret)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	webhooks := &webhook.Sender{Queue: &webhook.Queue{Redis: c.Redis, BaseURL: c.PublicURL}, Signers: signers, Networks: c.WebhookNetworks, Log: c.Log}
	paces := limits.Limits(c.Limits)
	w := &Worker{observer: c.Observer, webhooks: webhooks, log: c.Log, config: engine.Config{
		Handlers: handlers.All(c.Fetch), Redis: c.Redis, Store: c.Store, AI: c.AI, Kinds: c.Kinds, Concurrency: c.concurrency(), Poll: c.Poll, Log: c.Log,
		Gate: gate.New(gate.Config{Redis: c.Redis, Pace: paces.Pace, Total: paces.Total, BulkShare: c.bulkShare(), Log: c.Log}),
	}}
	if c.Metrics == nil {
		return w, nil
	}
	if w.metrics, err = metrics.Of(c.Metrics); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return w, nil
}

// measure connects the metrics to the parts of the worker, and returns their observer.
func (w *Worker) measure(hooks *engine.Hooks) tasks.Observer {
	if w.metrics == nil {
		return nil
	}
	w.metrics.ReadFleet(&monitor.Monitor{Redis: w.config.Redis}, w.config.Gate)
	w.metrics.WatchRedis(w.config.Redis)
	w.webhooks.OnTry = func(s webhook.State) { w.metrics.Webhook(string(s)) }
	hooks.Bucket = w.metrics.Bucket
	return w.metrics.Observe
}

// Run runs tasks until ctx ends. Then it starts no more calls, waits until the calls under
// way have ended and their answers are stored, and returns nil. That may take minutes. A
// process that ends earlier loses answers that are paid for, but no task.
//
// Run returns an error if it cannot start. It wraps [errors.ErrUnsupported] if the bucket
// has no create-only writes. Run may be called once.
func (w *Worker) Run(ctx context.Context) error {
	config := w.config
	ended := &index.Index{Redis: config.Redis}
	toIndex, stopIndex := ended.Observer(w.log)
	defer stopIndex()
	past := &history.History{Redis: config.Redis}
	toHistory, stopHistory := past.Observer(w.log)
	defer stopHistory()
	toUser, stopUser := observe.Async(w.observer, w.log)
	defer stopUser()
	live := events.NewWriter(config.Redis, w.log)
	defer live.Close()
	ledger := &usage.Ledger{Redis: config.Redis}
	config.Hooks = engine.Hooks{Live: live, Announce: w.webhooks.Queue.Add, Settle: ledger.Add}
	config.Hooks.Observer = tasks.Observers(toIndex, toHistory, live.Observe, toUser, w.measure(&config.Hooks))
	calls := &history.Sampler{History: past, Gate: config.Gate}
	config.Jobs = []maintenance.Job{
		{Name: "webhooks", Every: webhook.SendEvery, Run: w.webhooks.Run},
		{Name: "history of calls", Every: history.SampleEvery, Run: calls.Sample},
	}
	defer w.webhooks.Wait()
	inner, err := engine.NewWorker(config)
	if err != nil {
		return err
	}
	return inner.Run(ctx)
}
