package usage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const date = "2026-11-27"

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func result(id string, neurons float64, o tasks.Origin) tasks.Result {
	return tasks.Result{ID: id, Model: "@cf/x/y", Usage: tasks.Usage{Neurons: neurons, Calls: 2, Unsettled: 1}, FinishedAt: noon, Origin: o}
}

func add(t *testing.T, l *usage.Ledger, tenant string, r tasks.Result) {
	t.Helper()
	pipe := l.Redis.Pipeline()
	done := l.Add(t.Context(), pipe, tenant, r)
	_, _ = pipe.Exec(t.Context())
	require.NoError(t, done())
}

func TestATaskIsCountedOnceHoweverOftenItsEndIsAnnounced(t *testing.T) {
	l := &usage.Ledger{Redis: redistest.Memory(t)}
	one := result("t_1", 1.25, tasks.Origin{Key: "5e0a", Batch: "b_1", Schedule: "every night"})
	for range 3 {
		add(t, l, "shop", one)
	}
	add(t, l, "other", result("t_2", 0.5, tasks.Origin{}))
	day, err := l.Account(t.Context(), date)
	require.NoError(t, err)
	require.Equal(t, usage.Sum{MicroNeurons: 1_750_000, Tasks: 2, Calls: 4, Unsettled: 2}, day.Total)
	first := usage.Sum{MicroNeurons: 1_250_000, Tasks: 1, Calls: 2, Unsettled: 1}
	for by, value := range map[usage.Dimension]string{usage.ByTenant: "shop", usage.ByKey: "5e0a", usage.ByBatch: "b_1", usage.BySchedule: "every night"} {
		require.Equal(t, usage.Row{Value: value, Sum: first}, day.Rows(by)[0])
	}
	require.Equal(t, day.Total, day.By[usage.ByModel]["@cf/x/y"])
	own, err := l.Tenant(t.Context(), date, "shop")
	require.NoError(t, err)
	require.Equal(t, first, own.Total)
	require.Equal(t, first, own.By[usage.ByModel]["@cf/x/y"])
}

// The client sends a pipeline again when its reply was lost.
func TestALostReplyDoesNotCountATaskTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, link := redistest.New(t), &redistest.Link{}
		l := &usage.Ledger{Redis: server.Client(link)}
		add(t, l, "shop", result("t_0", 1, tasks.Origin{}))
		lost := 0
		link.Lose(func([]byte) redistest.Fate {
			if lost++; lost <= 2 {
				return redistest.ReplyLost
			}
			return redistest.Delivered
		})
		add(t, l, "shop", result("t_1", 2, tasks.Origin{}))
		require.Greater(t, lost, 1)
		day, err := l.Account(t.Context(), date)
		require.NoError(t, err)
		require.Equal(t, 2, day.Total.Tasks)
		require.InDelta(t, 3, day.Total.Neurons(), 0)
	})
}

func TestWhatRedisDidNotTakeIsCountedWithTheNextTask(t *testing.T) {
	server := redistest.New(t)
	l := &usage.Ledger{Redis: server.Client(nil)}
	server.Refuse("LOADING Redis is loading the dataset in memory")
	for i := range 25 {
		pipe := l.Redis.Pipeline()
		done := l.Add(t.Context(), pipe, "shop", result(fmt.Sprintf("t_%d", i), 1, tasks.Origin{}))
		_, _ = pipe.Exec(t.Context())
		require.ErrorContains(t, done(), "LOADING")
	}
	server.Refuse("")
	add(t, l, "shop", result("t_a", 1, tasks.Origin{}))
	add(t, l, "shop", result("t_b", 1, tasks.Origin{}))
	day, err := l.Account(t.Context(), date)
	require.NoError(t, err)
	require.Equal(t, 27, day.Total.Tasks)
}

func TestTheSumsOfADayAreBounded(t *testing.T) {
	rdb := redistest.Memory(t)
	const most, n = 10, 15
	l := &usage.Ledger{Redis: rdb, Most: most}
	for i := range n {
		add(t, l, fmt.Sprintf("tenant-%d", i), result(fmt.Sprintf("t_a%d", i), 1, tasks.Origin{}))
		add(t, l, "tenant-0", result(fmt.Sprintf("t_b%d", i), 1, tasks.Origin{Batch: fmt.Sprintf("b_%d", i), Schedule: strings.Repeat("é", 200)}))
	}
	day, err := l.Account(t.Context(), date)
	require.NoError(t, err)
	require.Equal(t, 2*n, day.Total.Tasks)
	require.Len(t, day.By[usage.ByTenant], most+1)
	require.Equal(t, n-most, day.By[usage.ByTenant][usage.Other].Tasks)
	require.Equal(t, 2*n, day.By[usage.ByModel]["@cf/x/y"].Tasks)
	require.Len(t, day.By[usage.ByBatch], most+1)
	require.Equal(t, n-most, day.By[usage.ByBatch][usage.Other].Tasks)
	require.Len(t, day.Rows(usage.BySchedule)[0].Value, 100)
	names, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, names, most+3)
	for _, name := range names {
		require.Positive(t, rdb.TTL(t.Context(), name).Val(), name)
		require.Contains(t, name, "{"+date+"}", "one slot of a cluster")
	}
	require.LessOrEqual(t, rdb.HLen(t.Context(), "neuronmill:usage:{"+date+"}:tenant-0").Val(), int64(4*(most+1)+4*2+3))
}

// system is a worker with its queue, bucket and emulator in one bubble.
type system struct {
	t      *testing.T
	redis  *redis.Client
	store  *storage.Memory
	ai     *workersaitest.Server
	ledger *usage.Ledger
}

func newSystem(t *testing.T) *system {
	s := &system{t: t, redis: redistest.Memory(t), store: storage.NewMemory(), ai: workersaitest.New(workersaitest.Options{Latency: 200 * time.Millisecond})}
	s.ledger = &usage.Ledger{Redis: s.redis}
	return s
}

func (s *system) client(tenant string) *tasks.Client {
	return tasks.NewClient(tasks.Config{Redis: s.redis, Store: s.store, Tenant: tenant})
}

// work runs a worker until stop is called.
func (s *system) work() (stop func()) {
	w, err := worker.New(worker.Config{Redis: s.redis, Store: s.store, AI: s.ai.Client(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() { cancel(); require.NoError(s.t, <-done) }
}

// billed returns the emulator's bill, as its headers state it.
func (s *system) billed() (neurons float64, calls int) {
	for _, q := range s.ai.Requests() {
		if q.Billed {
			neurons += q.Neurons
		}
		calls++
	}
	return neurons, calls
}

func (s *system) account() usage.Day {
	s.t.Helper()
	day, err := s.ledger.Account(s.t.Context(), usage.DayOf(time.Now()))
	require.NoError(s.t, err)
	return day
}

// Refused, retried, shared and failed calls, a batch, a schedule and an API key: what the
// emulator billed is in the ledger, and in the bucket.
func TestTheLedgerEqualsWhatWasBilledAndTheBucketAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		s.ai.Fault(workersaitest.Fault{Kind: "text", Contains: "again", To: 1, Code: 3043})
		s.ai.Fault(workersaitest.Fault{Kind: "text", Contains: "broken", Odd: "unusable"})
		s.ai.Fault(workersaitest.Fault{Kind: "translation", Contains: "never", Code: 5006})
		stop := s.work()
		defer stop()
		shop := s.client("shop")
		requests := []tasks.Request{
			{Payload: tasks.Text{Prompt: "once"}, Options: []tasks.Option{tasks.WithAPIKey("5e0a1c2b3d4f6a70")}},
			{Payload: tasks.Text{Prompt: "again"}},
			{Payload: tasks.Text{Prompt: "broken"}},
			{Payload: tasks.Translation{Text: "never", TargetLang: "es"}},
			{Payload: tasks.Translation{Text: "tonight", TargetLang: "es"}, Options: []tasks.Option{tasks.WithScheduleSlot("nightly", time.Now())}},
		}
		for i := range 30 {
			requests = append(requests, tasks.Request{Payload: tasks.Embedding{Texts: []string{fmt.Sprintf("text %d", i)}}})
		}
		for _, out := range shop.EnqueueMany(t.Context(), requests) {
			require.NoError(t, out.Err)
			_, err := shop.Wait(t.Context(), out.ID)
			if _, failed := errors.AsType[*tasks.TaskError](err); !failed {
				require.NoError(t, err)
			}
		}
		batches := batch.New(batch.Config{Client: s.client("other"), Store: s.store, Redis: s.redis, Tenant: "other", Log: slog.New(slog.DiscardHandler)})
		id := s.batch(batches, 450)

		day := s.account()
		neurons, _ := s.billed()
		require.InDelta(t, neurons, day.Total.Neurons(), 0.01)
		require.Positive(t, day.By[usage.ByBatch][id].MicroNeurons)
		require.Positive(t, day.By[usage.BySchedule]["nightly"].MicroNeurons)
		require.Positive(t, day.By[usage.ByKey]["5e0a1c2b3d4f6a70"].MicroNeurons)
		require.Equal(t, day.Total, day.By[usage.ByTenant]["shop"].Add(day.By[usage.ByTenant]["other"]))

		rebuilt, err := s.ledger.Rebuild(t.Context(), s.store, app.BatchCosts(s.store), day.Date, nil)
		require.NoError(t, err)
		require.Equal(t, day.Total, rebuilt.Before)
		require.Equal(t, day.Total, rebuilt.After)
		require.Equal(t, day, s.account())

		require.NoError(t, s.redis.FlushAll(t.Context()).Err())
		rebuilt, err = s.ledger.Rebuild(t.Context(), s.store, app.BatchCosts(s.store), day.Date, nil)
		require.NoError(t, err)
		require.Zero(t, rebuilt.Before)
		require.Equal(t, day, s.account())
	})
}

// batch runs a batch of n embeddings.
func (s *system) batch(b *batch.Batches, n int) string {
	s.t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"id": "row-%d", "kind": "embedding", "input": {"texts": ["text %d"]}}`+"\n", i, i)
	}
	id := batch.NewID()
	src := batch.Source{Name: "texts.jsonl", Format: batch.Native, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text.String())), nil }}
	_, err := b.Accept(s.t.Context(), id, src, batch.AcceptOptions{})
	require.NoError(s.t, err)
	_, err = b.Drive(s.t.Context(), id, batch.DriveOptions{New: true})
	require.NoError(s.t, err)
	return id
}

func TestARebuildKeepsWhatEndsMeanwhileAndBoundsTheValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		s.ledger.Most = 5
		for i := range 8 {
			r := result(fmt.Sprintf("t_%d", i), float64(i), tasks.Origin{Key: fmt.Sprintf("key-%d", i)})
			r.FinishedAt = time.Now()
			document, err := json.Marshal(r)
			require.NoError(t, err)
			require.NoError(t, s.store.Put(t.Context(), "shop/tasks/"+r.ID+"/result.json", bytes.NewReader(document), "application/json"))
			if i < 6 {
				add(t, s.ledger, "shop", r)
			}
		}
		before := s.account()
		require.Equal(t, 6, before.Total.Tasks)
		rebuilt, err := s.ledger.Rebuild(t.Context(), s.store, app.BatchCosts(s.store), before.Date, func(usage.Rebuilt) {
			r := result("t_meanwhile", 100, tasks.Origin{Key: "key-1"})
			r.FinishedAt = time.Now().Add(time.Millisecond)
			add(t, s.ledger, "shop", r)
		})
		require.NoError(t, err)
		require.Equal(t, 8, rebuilt.After.Tasks)
		after := s.account()
		require.Equal(t, 9, after.Total.Tasks)
		require.InDelta(t, 28+100, after.Total.Neurons(), 0)
		require.Equal(t, after.Total, after.By[usage.ByModel]["@cf/x/y"])
		require.Len(t, after.By[usage.ByKey], 5+1)
		require.InDelta(t, 101, after.By[usage.ByKey]["key-1"].Neurons(), 0)
		require.Equal(t, 3, after.By[usage.ByKey][usage.Other].Tasks)
	})
}

func TestAReportSumsDaysAndForecastsToday(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &usage.Ledger{Redis: redistest.Memory(t)}
		for i := range 3 {
			r := result(fmt.Sprintf("t_%d", i), 12_000, tasks.Origin{})
			r.FinishedAt = noon.AddDate(0, 0, -i)
			add(t, l, "shop", r)
		}
		report, err := l.Report(t.Context(), usage.Query{Days: 2}, noon)
		require.NoError(t, err)
		require.Equal(t, usage.ByDay, report.By)
		require.Equal(t, []string{"2026-11-26", date}, []string{report.Rows[0].Value, report.Rows[1].Value})
		require.InDelta(t, 24_000, report.Total.Neurons, 0)
		require.InDelta(t, 0.264, report.Total.Dollars, 1e-9)
		require.InDelta(t, 0.044, *report.Billed, 1e-9)
		require.InDelta(t, 12_000, report.Forecast.Neurons, 0)

		report, err = l.Report(t.Context(), usage.Query{Tenant: "shop", Last: "2026-11-25"}, noon)
		require.NoError(t, err)
		require.Equal(t, []usage.Figures{{Value: "@cf/x/y", Neurons: 12_000, Dollars: 0.132, Tasks: 1, Calls: 2, Unsettled: 1}}, report.Rows)
		require.Nil(t, report.Billed)
		require.Nil(t, report.Forecast)

		for _, q := range []usage.Query{{Last: "today"}, {Days: 41}, {By: "poem"}, {By: usage.ByTenant, Tenant: "shop"}} {
			_, err := l.Report(t.Context(), q, noon)
			require.ErrorAs(t, err, new(usage.InvalidQuery))
		}
	})
}

func TestAMonthIsForecastFromItsDays(t *testing.T) {
	days := []usage.Figures{{Value: "2026-10-30", Neurons: 1e6}, {Value: "2026-10-31", Neurons: 20_000}, {Value: "2026-11-01", Neurons: 30_000}, {Value: "2026-11-02", Neurons: 4000}}
	m := usage.Month(days, usage.Forecast{Day: "2026-11-02", Neurons: 5000}, 0)
	require.Equal(t, "2026-11", m.Day)
	mean := (1e6 + 20_000 + 30_000) / 3.0
	require.InDelta(t, 30_000+5000+28*mean, m.Neurons, 1)
	require.InDelta(t, m.Neurons*usage.DollarsPerNeuron, m.Dollars, 1e-6)
	free := usage.Month(days, usage.Forecast{Day: "2026-11-02", Neurons: 5000}, usage.FreePerDay)
	require.InDelta(t, (20_000+28*(990_000+10_000+20_000)/3.0)*usage.DollarsPerNeuron, free.Dollars, 1e-6, "each day has its own free neurons")
	require.InDelta(t, 7, usage.Month([]usage.Figures{{Value: "2026-12-31", Neurons: 5}}, usage.Forecast{Day: "2026-12-31", Neurons: 7}, 0).Neurons, 1e-9)
	require.Zero(t, usage.Month(nil, usage.Forecast{}, 0))
}
