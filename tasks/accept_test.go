package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// queued returns how many text tasks wait.
func queued(t *testing.T, rdb *redis.Client) int64 {
	t.Helper()
	return rdb.LLen(t.Context(), "asynq:{text:interactive}:pending").Val()
}

func records(t *testing.T, s storage.Store) int {
	t.Helper()
	n := 0
	for _, err := range s.List(t.Context(), "default/pending/", "") {
		require.NoError(t, err)
		n++
	}
	return n
}

func TestAProducerMayChooseSpeedAndIsToldWhichItWas(t *testing.T) {
	store, rdb := storage.NewMemory(), redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	safe, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "a"})
	require.NoError(t, err)
	require.Equal(t, tasks.InStore, safe.Durability)
	fast, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "b"}, tasks.WithDurability(tasks.InRedis), tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	require.Equal(t, tasks.InRedis, fast.Durability)
	require.Equal(t, 1, records(t, store))
	require.EqualValues(t, 2, queued(t, rdb))
	again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "b"}, tasks.WithDurability(tasks.InRedis), tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	require.Equal(t, fast.ID, again.ID)
	require.True(t, again.Existing)

	quick := tasks.NewClient(tasks.Config{Redis: rdb, Store: store, Durability: tasks.InRedis})
	fast, err = quick.Enqueue(t.Context(), tasks.Text{Prompt: "c"})
	require.NoError(t, err)
	require.Equal(t, tasks.InRedis, fast.Durability)

	_, err = tasks.NewClient(tasks.Config{Redis: rdb}).Enqueue(t.Context(), tasks.Text{Prompt: "d"}, tasks.WithDurability(tasks.InStore))
	require.ErrorContains(t, err, "accept: store wants a client with a Store")
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "d"}, tasks.WithDurability("memory"))
	require.ErrorContains(t, err, `accept: "memory" is none of store, redis`)
}

// lossy is a Redis whose answers are lost after the commands ran.
type lossy struct{ refused error }

func (lossy) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (lossy) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l lossy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := l.refused
		if err == nil {
			_ = next(ctx, cmds)
			err = errors.New("read tcp: i/o timeout")
		}
		for _, c := range cmds {
			c.SetErr(err)
		}
		return err
	}
}

// faulty is a bucket that fails in one way.
type faulty struct {
	storage.Store
	put    func(key string) error // runs after the object was stored
	delete error
}

func (f faulty) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := f.Store.Put(ctx, key, body, contentType); err != nil {
		return err
	}
	if f.put != nil {
		return f.put(key)
	}
	return nil
}

func (f faulty) Delete(ctx context.Context, key string) error {
	if f.delete != nil {
		return f.delete
	}
	return f.Store.Delete(ctx, key)
}

// An error from Enqueue means that the task never runs. An error with an unknown outcome
// says so.
func TestAnErrorToTheProducerMeansWhatItSays(t *testing.T) {
	no := saysNo("OOM command not allowed")
	lost := errors.New("timeout")
	keyed := []tasks.Option{tasks.WithIdempotencyKey("k")}
	for name, c := range map[string]struct {
		hook    redis.Hook
		store   *faulty // nil for none
		options []tasks.Option
		unknown bool
		left    int // number of records
	}{
		"redis refuses":                        {lossy{no}, &faulty{}, nil, false, 0},
		"redis refuses, record stays":          {lossy{no}, &faulty{delete: lost}, nil, true, 1},
		"redis refuses a keyed one":            {lossy{no}, &faulty{}, keyed, true, 0},
		"redis refuses, by redis alone":        {lossy{no}, &faulty{}, []tasks.Option{tasks.WithDurability(tasks.InRedis)}, false, 0},
		"redis refuses, no store":              {lossy{no}, nil, nil, false, 0},
		"redis' answer is lost":                {lossy{}, &faulty{}, nil, true, 1},
		"redis' answer is lost, no store":      {lossy{}, nil, nil, true, 0},
		"the bucket's answer is lost":          {nil, &faulty{put: func(string) error { return lost }}, nil, true, 1},
		"the bucket's answer to input is lost": {nil, &faulty{put: onlyInput(lost)}, []tasks.Option{tasks.WithMetadata(nil)}, false, 0},
	} {
		rdb := redistest.Memory(t)
		if c.hook != nil {
			rdb.AddHook(c.hook)
		}
		cfg := tasks.Config{Redis: rdb}
		inner := storage.NewMemory()
		if c.store != nil {
			c.store.Store = inner
			cfg.Store = c.store
		}
		prompt := "hi"
		if strings.Contains(name, "input") {
			prompt = strings.Repeat("long ", 10_000)
		}
		_, err := tasks.NewClient(cfg).Enqueue(t.Context(), tasks.Text{Prompt: prompt}, c.options...)
		require.Error(t, err, name)
		require.Equal(t, c.unknown, errors.Is(err, tasks.ErrUnknownOutcome), "%s: %v", name, err)
		require.Equal(t, c.left, records(t, inner), name)
		if !c.unknown {
			require.Zero(t, queued(t, rdb), name)
		}
	}
}

func onlyInput(err error) func(string) error {
	return func(key string) error {
		if strings.Contains(key, "/input.") {
			return err
		}
		return nil
	}
}

// A task sent again after its receipt was lost is the same task.
func TestAnIDThatIsQueuedAlreadyIsSuccess(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
	require.NoError(t, err)
	var task tasks.Task
	body, err := store.Get(t.Context(), objects.PendingKey("default", accepted.ID))
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(body).Decode(&task))
	require.NoError(t, client.Requeue(t.Context(), task))
	require.EqualValues(t, 1, queued(t, rdb))
}

func TestRecoverMayRunTwiceAndFindsWhatIsNowhere(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	var ids []string
	for range 300 {
		accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		ids = append(ids, accepted.ID)
	}
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	require.NoError(t, store.Put(t.Context(), objects.ResultKey("default", ids[0]), strings.NewReader("{}"), ""))
	require.NoError(t, store.Put(t.Context(), objects.PendingKey("other", "t_damaged"), strings.NewReader("{"), ""))
	n, err := client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 301, Returned: 299, Ended: 1, Damaged: 1}, n)
	n, err = client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 300, Queued: 299, Damaged: 1}, n)
	// A task whose hash says pending or active, but that is in no list, is not queued.
	key := "asynq:{text:interactive}:"
	require.NoError(t, rdb.LRem(t.Context(), key+"pending", 0, ids[1]).Err())
	require.NoError(t, rdb.LRem(t.Context(), key+"pending", 0, ids[2]).Err())
	require.NoError(t, rdb.HSet(t.Context(), key+"t:"+ids[2], "state", "active").Err())
	n, err = client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, 2, n.Returned)
	require.EqualValues(t, 299, queued(t, rdb))
}

func TestTenantsAreFoundWithoutReadingTheWholeBucket(t *testing.T) {
	store := storage.NewMemory()
	for _, key := range []string{"a/x", "a/tasks/1", "a-b/y", "a0/z", "default/pending/1.json"} {
		require.NoError(t, store.Put(t.Context(), key, strings.NewReader("x"), ""))
	}
	var found []string
	for tenant, err := range objects.Tenants(t.Context(), store) {
		require.NoError(t, err)
		found = append(found, tenant)
	}
	require.Equal(t, []string{"a-b", "a", "a0", "default"}, found)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":"t_1","tenant":"default","kind":"text","model":"@cf/x/y","payload":{"prompt":"hi"},"deadline":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte("\xff{nonsense"))
	f.Fuzz(func(t *testing.T, data []byte) {
		task, err := tasks.Decode(data)
		if err != nil {
			return
		}
		if task.ID == "" || task.Tenant == "" || task.Model == "" || task.Deadline.IsZero() || task.Version != 1 {
			t.Fatalf("%q is let through", data)
		}
		_, _ = tasks.Parse(task.Kind, task.Payload)
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte("\x0a\x04text\x12\x02{}\x1a\x03t_1\"\x10text:interactive(\x80\x80@@\x80\xa3\x05"))
	f.Add([]byte("\x0a\xff nonsense"))
	f.Add([]byte("\x12\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		task, payload, err := tasks.DecodeMessage(message)
		if err == nil && (payload == nil || task.ID == "") {
			t.Fatalf("%q is let through", message)
		}
	})
}

func TestALargePayloadNeedsAStore(t *testing.T) {
	large := tasks.Text{Prompt: strings.Repeat("a", 256<<10)}
	_, err := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)}).Enqueue(t.Context(), large)
	var problems tasks.ValidationError
	require.ErrorAs(t, err, &problems)
	require.ErrorContains(t, err, "payload: has 262157 bytes, more than 262144: give the client a Store for large inputs")
	_, err = tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)}).Enqueue(t.Context(), tasks.Text{Prompt: large.Prompt[:250<<10]})
	require.NoError(t, err)
	store := storage.NewMemory()
	_, err = tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: store, Durability: tasks.InRedis}).Enqueue(t.Context(), large)
	require.NoError(t, err)
	require.Len(t, keysOf(t, store, ""), 1, "its input")
}

// A refused task's objects are removed from the bucket.
func TestARefusedLargeTaskLeavesNothingInTheBucket(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	rdb.AddHook(lossy{saysNo("OOM command not allowed")})
	_, err := tasks.NewClient(tasks.Config{Redis: rdb, Store: store}).Enqueue(t.Context(), tasks.Text{Prompt: strings.Repeat("long ", 10_000)})
	require.ErrorContains(t, err, "OOM")
	require.NotErrorIs(t, err, tasks.ErrUnknownOutcome)
	require.Empty(t, keysOf(t, store, ""))
}

// A task accepted by Redis alone is found by its result after Redis lost it.
func TestAKeyOfAnEndedTaskIsKnownByTheResultsDigest(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store, Durability: tasks.InRedis})
	first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	document, err := json.Marshal(tasks.Result{ID: first.ID, Status: tasks.Completed, Digest: queuedTask(t, rdb, first.ID).Digest})
	require.NoError(t, err)
	require.NoError(t, store.Put(t.Context(), objects.ResultKey("default", first.ID), strings.NewReader(string(document)), ""))
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("k"))
	require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch)
	again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	require.True(t, again.Existing)
	require.Zero(t, queued(t, rdb), "it does not run again")
}
