package schedule_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// The schedules of the year. Together they have some 780 slots.
var yearly = []schedule.Definition{
	{Name: "nightly", Cron: "30 2 * * *", TimeZone: "Europe/Berlin", Kind: tasks.KindText, Payload: map[string]any{"prompt": "Sum up {{date -1d}}"}, Missed: schedule.MissedAll, MissedWithin: "480h"},
	{Name: "noon", Cron: "0 12 * * *", Kind: tasks.KindText, Payload: map[string]any{"prompt": "Look at {{slot}}"}, Missed: schedule.MissedAll, MissedWithin: "480h"},
	{Name: "weekly", Cron: "0 9 * * 1", TimeZone: "America/New_York", Kind: tasks.KindText, Payload: map[string]any{"prompt": "Plan the week"}, Missed: schedule.MissedAll, MissedWithin: "480h"},
}

const (
	keptResults = 7 * 24 * time.Hour   // a lifecycle rule deletes results that are older
	wrongClock  = -10 * 24 * time.Hour // of a machine that forgot the time
	year        = 365 * 24 * time.Hour
)

// TestAYearOfSchedulesFiresEachSlotOnce runs three schedulers for a year. They die at
// random, often in the middle of a slot, and one often comes back with a wrong clock. Redis is
// wiped each day and results are deleted after a week, so nothing but the runs in the
// bucket knows the slots that have fired.
func TestAYearOfSchedulesFiresEachSlotOnce(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		server, store := redistest.New(t), storage.NewMemory()
		memory := server.Client(nil)
		stored := schedule.NewStored(schedule.StoredConfig{
			Client: tasks.NewClient(tasks.Config{Redis: memory, Store: store}), Store: store, Redis: memory, Log: slog.New(slog.DiscardHandler),
		})
		want := map[string]string{} // the slot by the id of its task
		begin := time.Now()
		end := begin.Add(year)
		for _, d := range yearly {
			_, err := stored.Add(t.Context(), d)
			require.NoError(t, err)
			e, err := d.Check()
			require.NoError(t, err)
			for slot := e.Next(begin); !slot.After(end); slot = e.Next(slot) {
				receipt, err := tasks.NewClient(tasks.Config{Redis: memory, Store: store}).ReceiptOf(tasks.Request{
					Payload: tasks.Text{Prompt: "x"}, Options: []tasks.Option{tasks.WithScheduleSlot(d.Name, slot)},
				})
				require.NoError(t, err)
				want[receipt.ID] = d.Name + " " + slot.UTC().Format(time.RFC3339)
			}
		}
		require.Greater(t, len(want), 770)

		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for n := range 3 {
			f := &fleetMember{server: server, store: store, random: rand.New(rand.NewPCG(uint64(n), 2026)), until: end.Add(-24 * time.Hour), forgetful: n == 0}
			all.Go(func() { f.live(ctx) })
		}
		w := &idleWorker{store: store, ran: map[string]int{}, done: map[string]time.Time{}}
		for time.Now().Before(end) {
			time.Sleep(3 * time.Hour)
			w.work(t)
			if hour := time.Now().UTC().Hour(); hour < 3 {
				require.NoError(t, memory.FlushAll(t.Context()).Err())
			}
		}
		time.Sleep(time.Minute)
		stop()
		all.Wait()
		w.work(t)
		for id, slot := range want {
			if w.ran[id] != 1 {
				t.Errorf("%s ran %d times", slot, w.ran[id])
			}
		}
		for id := range w.ran {
			if want[id] == "" {
				t.Errorf("%s ran, and belongs to no slot", id)
			}
		}
	})
}

// fleetMember is a machine that runs one scheduler after another.
type fleetMember struct {
	server *redistest.Server
	store  storage.Store
	random *rand.Rand
	until  time.Time // no scheduler dies from then on
	// forgetful machines start with a wrong clock half of the time.
	forgetful bool
}

func (f *fleetMember) live(ctx context.Context) {
	for ctx.Err() == nil {
		f.life(ctx)
		pause := time.Duration(f.random.Int64N(int64(12 * time.Hour)))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// life runs a scheduler until it dies.
func (f *fleetMember) life(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &process{Store: f.store, die: cancel, random: rand.New(rand.NewPCG(f.random.Uint64(), 1))}
	now := time.Now
	if time.Now().Before(f.until) {
		p.danger = 10
		timer := time.AfterFunc(min(time.Duration(f.random.Int64N(int64(10*24*time.Hour))), time.Until(f.until)), p.kill)
		defer timer.Stop()
		if f.forgetful && f.random.IntN(2) == 0 {
			now = func() time.Time { return time.Now().Add(wrongClock) }
		}
	}
	client := f.server.Client(nil)
	client.AddHook(p)
	s := schedule.New(schedule.Config{Redis: client, Store: p, Poll: 24 * time.Hour, Now: now, Log: slog.New(slog.DiscardHandler)})
	_ = s.Run(ctx) // it returns nil
}

// process is the bucket as a scheduler sees it that may die at any write. A dead one
// reaches neither bucket nor Redis.
type process struct {
	storage.Store
	die    func()
	random *rand.Rand
	danger int // one write of so many kills the process; 0 means none

	mu   sync.Mutex
	dead bool
}

var errDead = errors.New("the process is dead")

func (p *process) kill() {
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.die()
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *process) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *process) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if p.isDead() {
			return errDead
		}
		return next(ctx, cmd)
	}
}

func (p *process) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if p.isDead() {
			return errDead
		}
		return next(ctx, cmds)
	}
}

// write does a write, and may die before or after it.
func (p *process) write(do func() error) error {
	p.mu.Lock()
	dead, fate := p.dead, 2
	if p.danger > 0 && p.random.IntN(p.danger) == 0 {
		fate = p.random.IntN(2)
	}
	p.mu.Unlock()
	if dead || fate == 0 {
		p.kill()
		return errDead
	}
	err := do()
	if fate == 1 {
		p.kill()
		return errDead
	}
	return err
}

func (p *process) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return p.write(func() error { return p.Store.Create(ctx, key, body, contentType) })
}

func (p *process) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return p.write(func() error { return p.Store.Put(ctx, key, body, contentType) })
}

// idleWorker runs all tasks whose records are in the bucket, and deletes old results.
type idleWorker struct {
	store *storage.Memory
	ran   map[string]int // runs by the id of the task
	done  map[string]time.Time
}

func (w *idleWorker) work(t *testing.T) {
	ctx := t.Context()
	for info, err := range w.store.List(ctx, "default/pending/", "") {
		require.NoError(t, err)
		id := strings.TrimSuffix(strings.TrimPrefix(info.Key, "default/pending/"), ".json")
		if _, err := w.store.Head(ctx, resultKey(id)); errors.Is(err, storage.ErrNotFound) {
			w.ran[id]++
			w.done[id] = time.Now()
			document, err := json.Marshal(tasks.Result{ID: id, Kind: tasks.KindText, Status: tasks.Completed, FinishedAt: time.Now()})
			require.NoError(t, err)
			require.NoError(t, w.store.Create(ctx, resultKey(id), strings.NewReader(string(document)), "application/json"))
		}
		require.NoError(t, w.store.Delete(ctx, info.Key))
	}
	for id, at := range w.done {
		if time.Since(at) > keptResults {
			require.NoError(t, w.store.Delete(ctx, resultKey(id)))
			delete(w.done, id)
		}
	}
}

func resultKey(id string) string { return "default/tasks/" + id + "/result.json" }
