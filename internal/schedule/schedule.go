// Package schedule enqueues tasks by the clock. A slot is one point in time of a schedule,
// a run what became of it.
//
// Each slot fires once, with any number of schedulers. A scheduler claims a slot by
// creating its run in the bucket, create-only. It then enqueues the task under an id made
// of the schedule's name and the slot's time, and stores the id in the run. A scheduler
// that finds a claim without a task, because its owner died, continues it: the same id
// gives the same task. Neither Redis nor the results need to remember what has fired.
//
// Load reads schedules of a file, Stored keeps schedules in the bucket, New makes the
// Service that runs both.
//
// Objects of a tenant:
//
//	schedules/<name>.json                    a stored definition, create-only
//	schedules/<name>.state                   whether it is paused
//	schedule-runs/<name>/<inverted slot>.json  a run; the latest 100 are kept
package schedule

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"
)

// Config has the settings of a Scheduler.
type Config struct {
	Redis redis.UniversalClient // the caller's to close, as is Store
	Store storage.Store         // the bucket of the workers
	// Entries are the schedules of a file. They run as the tenant "default", beside the
	// stored schedules of all tenants.
	Entries []Entry
	// CatchUp is the greatest age of a missed slot of Entries that still fires, for entries
	// without a policy of their own. Zero skips missed slots.
	CatchUp time.Duration
	// Poll is how often the scheduler asks Redis whether stored schedules have changed. Zero
	// means two seconds.
	Poll time.Duration
	Now  func() time.Time // the clock; nil means time.Now
	Log  *slog.Logger     // nil means the default logger
}

// Scheduler is a Service that enqueues the task of each due slot.
type Scheduler struct {
	cfg    Config
	owner  string
	atOnce *semaphore.Weighted

	clients map[string]*tasks.Client // by tenant
	stored  map[string]*followed     // by tenant and name
	seen    map[string]string        // versions of the tenants' schedules
	running sync.WaitGroup
}

const (
	poll      = 2 * time.Second
	listEvery = 5 * time.Minute // how often the bucket is listed, in case an announcement was lost
	// checkClock is the longest sleep of a runner, in polls: a minute. The clock may be
	// changed meanwhile.
	checkClock = 30
)

// New makes a scheduler; Run starts it.
func New(c Config) *Scheduler {
	c.Poll = cmp.Or(c.Poll, poll)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Scheduler{
		cfg: c, owner: uuid.NewString(), atOnce: semaphore.NewWeighted(slotsAtOnce),
		clients: map[string]*tasks.Client{}, stored: map[string]*followed{}, seen: map[string]string{},
	}
}

// Run enqueues until ctx ends and returns nil. A slot that could not be enqueued is tried
// again until the next slot of its schedule is due.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.running.Wait()
	for _, e := range s.cfg.Entries {
		if e.Missed == "" && e.MissedWithin == "" {
			e.Missed, e.reach = MissedSkip, onTime
			if s.cfg.CatchUp > 0 {
				e.Missed, e.reach = MissedAll, s.cfg.CatchUp
			}
		}
		s.begin(ctx, objects.DefaultTenant, e)
	}
	s.follow(ctx)
	return nil
}

// begin starts the runner of a schedule. The channel is closed when it has ended.
func (s *Scheduler) begin(ctx context.Context, tenant string, e Entry) <-chan struct{} {
	r := &runner{
		dispatcher: s.dispatcher(tenant),
		entry:      e, atOnce: s.atOnce, longest: checkClock * s.cfg.Poll,
	}
	ended := make(chan struct{})
	s.running.Go(func() {
		defer close(ended)
		r.run(ctx)
	})
	return ended
}

func (s *Scheduler) dispatcher(tenant string) *dispatcher {
	client := s.client(tenant)
	return &dispatcher{
		store: s.cfg.Store, client: client, tenant: tenant, owner: s.owner, now: s.cfg.Now, log: s.cfg.Log,
		batches: batch.New(batch.Config{Client: client, Store: s.cfg.Store, Redis: s.cfg.Redis, Tenant: tenant, Log: s.cfg.Log}),
	}
}

// client returns the producer's client of a tenant. Models were checked when a schedule
// was accepted.
func (s *Scheduler) client(tenant string) *tasks.Client {
	c, ok := s.clients[tenant]
	if !ok {
		c = tasks.NewClient(tasks.Config{Redis: s.cfg.Redis, Store: s.cfg.Store, Tenant: tenant, AllowUnknownModel: true})
		s.clients[tenant] = c
	}
	return c
}
