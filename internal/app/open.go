package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// OpenStore opens the bucket; the text describes it to people.
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

// Emulated is what every command says when no account answers.
const Emulated = "the emulator answers: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN to use a real account"

// OpenAI makes the client of Workers AI; the note says who answers when no account is
// set.
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

// Stack is everything that was opened.
type Stack struct {
	Redis  *Redis
	Store  storage.Store
	Bucket string // describes Store
	Client *tasks.Client
}

// Open opens Redis and the bucket. Close ends it.
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
	client := tasks.NewClient(tasks.Config{Redis: r, Store: store, AllowUnknownModel: allowUnknown})
	return &Stack{Redis: r, Store: store, Bucket: bucket, Client: client}, nil
}

// Close closes what Open opened.
func (s *Stack) Close() error { return s.Redis.Close() }

// Gate is the way to the gates of the fleet.
func (s *Stack) Gate(settings Settings, bulkShare float64, log *slog.Logger) *limit.Gate {
	return limit.New(limit.Config{
		Redis: s.Redis.UniversalClient, Pace: settings.Limits.Pace, Total: settings.Limits.Total, BulkShare: bulkShare, Log: log,
	})
}

// WorkerOptions are what a worker is asked for beyond the settings.
type WorkerOptions struct {
	Kinds       []tasks.Kind // none means all
	Concurrency int          // 0 means the default
	BulkShare   float64      // see limit.Config
}

// Worker makes a worker on the stack.
func (s *Stack) Worker(settings Settings, ai *workersai.Client, o WorkerOptions, log *slog.Logger) (*handlers.Worker, error) {
	return handlers.NewWorker(handlers.Config{
		Redis: s.Redis.UniversalClient, Store: s.Store, AI: ai, Gate: s.Gate(settings, o.BulkShare, log),
		Kinds: o.Kinds, Concurrency: o.Concurrency, Log: log,
	})
}
