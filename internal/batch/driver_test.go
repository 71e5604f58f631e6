package batch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// rig is a whole system in one bubble: queue, bucket, emulator, and the batches of the
// default tenant.
type rig struct {
	t       *testing.T
	server  *redistest.Server
	link    *redistest.Link
	redis   *redis.Client
	store   *storage.Memory
	ai      *workersaitest.Server
	batches *batch.Batches
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, server: redistest.New(t), link: &redistest.Link{}, store: storage.NewMemory()}
	r.redis = r.server.Client(r.link)
	r.ai = workersaitest.New(workersaitest.Options{Latency: 300 * time.Millisecond, KeepBodies: 1 << 30})
	r.batches = batch.New(batch.Config{
		Client: tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store}),
		Store:  r.store, Redis: r.redis, Log: slog.New(slog.DiscardHandler),
	})
	return r
}

// work starts a worker that embeds 1,000 lines a second; stop waits for its end.
func (r *rig) work() (stop func()) {
	w, err := worker.New(worker.Config{Redis: r.redis, Store: r.store, AI: r.ai.Client(), Log: slog.New(slog.DiscardHandler), Limits: map[string]int{"embedding": 600}})
	require.NoError(r.t, err)
	return r.start(w.Run)
}

func (r *rig) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(r.t, <-done)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) accept(text string, o batch.AcceptOptions) string {
	r.t.Helper()
	id := batch.NewID()
	_, err := r.batches.Accept(r.t.Context(), id, source(text, batch.Native), o)
	require.NoError(r.t, err)
	return id
}

func (r *rig) drive(id string) *batch.End {
	r.t.Helper()
	end, err := r.batches.Drive(r.t.Context(), id, batch.DriveOptions{})
	require.NoError(r.t, err)
	return end
}

// line is a line of output.
type line struct {
	ID     string
	Status string
	Output struct {
		Dimensions int
		Vectors    [][]float32
		Text       string
	}
	Usage struct{ Neurons float64 }
	Error *tasks.TaskError
}

func (r *rig) output(id string) []line {
	r.t.Helper()
	var body bytes.Buffer
	_, err := r.batches.WriteOutput(r.t.Context(), id, &body)
	require.NoError(r.t, err)
	var lines []line
	for text := range strings.Lines(body.String()) {
		var l line
		require.NoError(r.t, json.Unmarshal([]byte(text), &l), text)
		lines = append(lines, l)
	}
	return lines
}

// paid returns how often each text was embedded in a billed call.
func (r *rig) paid() map[string]int {
	r.t.Helper()
	texts := map[string]int{}
	for _, q := range r.ai.Requests() {
		var body struct{ Text []string }
		if q.Billed && q.Kind == "embedding" {
			require.NoError(r.t, json.Unmarshal(q.Body, &body))
			for _, t := range body.Text {
				texts[t]++
			}
		}
	}
	return texts
}

// eachOnce checks that the output has each line once, in order, and each text was paid
// for once.
func (r *rig) eachOnce(id string, n int) {
	r.t.Helper()
	lines := r.output(id)
	require.Len(r.t, lines, n)
	paid := r.paid()
	for i, l := range lines {
		require.Equal(r.t, fmt.Sprintf("row-%d", i), l.ID)
		require.Equal(r.t, "completed", l.Status)
		require.Len(r.t, l.Output.Vectors, 1)
		require.Equal(r.t, 1, paid[fmt.Sprintf("text %d", i)], "text %d", i)
	}
}

func (r *rig) keys(prefix string) (keys []string) {
	for info, err := range r.store.List(r.t.Context(), prefix, "") {
		require.NoError(r.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func embeddings(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id": "row-%d", "kind": "embedding", "input": {"texts": ["text %d"]}}`+"\n", i, i)
	}
	return b.String()
}

func TestABatchOfEmbeddingsNeedsOneCallForAHundredLines(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		id := r.accept(embeddings(2_350), batch.AcceptOptions{})
		end := r.drive(id)
		require.Equal(t, batch.Completed, end.Status)
		require.Equal(t, 2_350, end.Completed)
		require.Zero(t, end.Failed)
		require.Len(t, r.ai.Requests(), 24)
		r.eachOnce(id, 2_350)
		sum := 0.0
		for _, l := range r.output(id) {
			sum += l.Usage.Neurons
		}
		require.InDelta(t, end.Neurons, sum, end.Neurons/1000)
		require.Empty(t, r.keys("default/tasks/"), "the objects of its tasks are gone")
		require.Empty(t, r.keys("default/pending/"))

		again := r.drive(id)
		require.Equal(t, end.Counts, again.Counts)
		require.Len(t, r.ai.Requests(), 24, "a batch that has ended costs nothing")
	})
}

func TestKindsAndModelsMayBeMixedInAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		id := r.accept(`{"id":"a","kind":"text","input":{"prompt":"one"}}
{"id":"b","kind":"embedding","input":{"texts":["one","two"]}}
{"id":"c","kind":"image","input":{"prompt":"a mill"}}
{"id":"d","kind":"embedding","model":"@cf/baai/bge-m3","input":{"texts":["three"]}}
{"id":"e","kind":"embedding","input":{"texts":["four"],"pooling":"cls"}}
{"id":"f","kind":"translation","input":{"text":"five","target_lang":"es"}}
{"id":"g","kind":"embedding","input":{"texts":["six"]}}`, batch.AcceptOptions{})
		end := r.drive(id)
		require.Equal(t, 7, end.Completed)
		lines := r.output(id)
		require.Len(t, lines, 7)
		var ids []string
		for _, l := range lines {
			ids = append(ids, l.ID)
		}
		require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g"}, ids)
		require.NotEmpty(t, lines[0].Output.Text)
		require.Len(t, lines[1].Output.Vectors, 2)
		require.Equal(t, 1024, lines[3].Output.Dimensions)
		require.Len(t, lines[6].Output.Vectors, 1)
		require.Len(t, r.ai.Requests(), 6, "b and g share a call")
		require.Len(t, r.keys("default/tasks/"), 2, "the image and its result stay")
	})
}

func TestOneBadTextFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		r.ai.Fault(workersaitest.Fault{Contains: `"text 42"`, Code: 5006})
		id := r.accept(embeddings(300), batch.AcceptOptions{})
		end := r.drive(id)
		require.Equal(t, batch.Counts{Completed: 299, Failed: 1, Neurons: end.Neurons}, end.Counts)
		for i, l := range r.output(id) {
			require.Equal(t, i == 42, l.Status == "failed", l.ID)
			require.Equal(t, i == 42, l.Error != nil)
		}
		require.Len(t, r.paid(), 299)
		require.LessOrEqual(t, len(r.ai.Requests()), 3+11+11, "the parts, and then the lines of one part, are tried in a call together")
		require.Empty(t, r.keys("default/tasks/"))
		require.Empty(t, r.keys("default/dead/"), "failed lines are in the output")

		groups, err := r.batches.FailuresOf(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, groups, 1)
		require.Equal(t, []string{"row-42"}, groups[0].IDs)

		r.ai.Heal()
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		calls := len(r.ai.Requests())
		end = r.drive(id)
		require.Equal(t, 300, end.Completed)
		require.Zero(t, end.Failed)
		require.Len(t, r.ai.Requests(), calls+1)
		r.eachOnce(id, 300)
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.ErrorIs(t, err, batch.ErrNoneFailed)
	})
}

func TestInvalidLinesFailAloneWhenTheyMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		text := embeddings(3) + "{broken\n" + `{"id":"row-1","kind":"text","input":{"prompt":"x"}}` + "\n"
		_, err := r.batches.Accept(t.Context(), batch.NewID(), source(text, batch.Native), batch.AcceptOptions{})
		var invalid *batch.InvalidError
		require.ErrorAs(t, err, &invalid)
		require.Equal(t, 2, invalid.Report.Invalid)
		require.Empty(t, r.keys(""), "nothing of a refused file is stored")

		id := r.accept(text, batch.AcceptOptions{SkipInvalid: true})
		end := r.drive(id)
		require.Equal(t, 3, end.Completed)
		require.Equal(t, 2, end.Failed)
		lines := r.output(id)
		require.Equal(t, "line 4", lines[3].ID)
		require.Equal(t, "invalid_json", lines[3].Error.Code)
		require.Equal(t, "line 5", lines[4].ID)
		require.Equal(t, "duplicate_id", lines[4].Error.Code)
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.ErrorIs(t, err, batch.ErrNoneFailed)
	})
}

func TestAnotherDriverContinuesAndPaysNothingTwice(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		id := r.accept(embeddings(3_000), batch.AcceptOptions{})
		for _, after := range []time.Duration{500 * time.Millisecond, 900 * time.Millisecond, 1700 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
			require.Error(t, err)
			cancel()
		}
		end := r.drive(id)
		require.Equal(t, 3_000, end.Completed)
		r.eachOnce(id, 3_000)
		require.Empty(t, r.keys("default/tasks/"))
	})
}

func TestOneProcessDrivesABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.accept(embeddings(10), batch.AcceptOptions{})
		stop := r.start(func(ctx context.Context) error {
			_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
			require.ErrorIs(t, err, context.Canceled)
			return nil
		})
		time.Sleep(time.Minute)
		_, err := r.batches.Drive(t.Context(), id, batch.DriveOptions{})
		require.ErrorIs(t, err, batch.ErrDriven)
		s, err := r.batches.State(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, batch.Running, s.Status)
		require.NotEmpty(t, s.Task)
		stop()
		s, err = r.batches.State(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, batch.Waiting, s.Status)
		defer r.work()()
		require.Equal(t, 10, r.drive(id).Completed)
	})
}

func TestAWipedRedisChangesNothingButTime(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		id := r.accept(embeddings(4_500), batch.AcceptOptions{ByWorkers: true})
		service := &batch.Service{Redis: r.redis, Store: r.store, Log: slog.New(slog.DiscardHandler)}
		defer r.start(service.Run)()
		for range 3 {
			time.Sleep(4 * time.Second)
			synctest.Wait()
			r.link.Cut()
			r.server.Wipe()
			r.link.Mend()
		}
		state := r.ended(id)
		require.Equal(t, batch.Completed, state.Status)
		require.Equal(t, 4_500, state.Completed)
		r.eachOnce(id, 4_500)
	})
}

// ended waits for the end of a batch.
func (r *rig) ended(id string) *batch.State {
	r.t.Helper()
	var s *batch.State
	var err error // of a connection that Redis' absence has broken
	for range 3600 {
		if s, err = r.batches.State(r.t.Context(), id); err == nil && !s.EndedAt.IsZero() {
			return s
		}
		time.Sleep(time.Second)
	}
	r.t.Fatalf("the batch does not end; its state: %+v %v", s, err)
	return nil
}

func TestRedisHoldsABoundedPartOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.accept(embeddings(20_000), batch.AcceptOptions{})
		defer r.start(func(ctx context.Context) error {
			_, _ = r.batches.Drive(ctx, id, batch.DriveOptions{})
			return nil
		})()
		time.Sleep(time.Minute) // no worker runs
		n, err := r.redis.LLen(t.Context(), "asynq:{embedding:bulk}:pending").Result()
		require.NoError(t, err)
		require.EqualValues(t, 64, n)
	})
}

func TestACancelledBatchKeepsItsPartialOutput(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		id := r.accept(embeddings(10_000), batch.AcceptOptions{ByWorkers: true})
		service := &batch.Service{Redis: r.redis, Store: r.store, Log: slog.New(slog.DiscardHandler)}
		defer r.start(service.Run)()
		time.Sleep(3 * time.Second)
		require.NoError(t, r.batches.Cancel(t.Context(), id))
		s := r.ended(id)
		require.Equal(t, batch.Cancelled, s.Status)
		require.Equal(t, 10_000, s.Completed+s.Failed)
		require.NotZero(t, s.Completed)
		require.NotZero(t, s.Failed)
		completed := 0
		for i, l := range r.output(id) {
			require.Equal(t, fmt.Sprintf("row-%d", i), l.ID)
			if l.Status == "completed" {
				completed++
				continue
			}
			require.Equal(t, batch.CodeCancelled, l.Error.Code)
		}
		require.Equal(t, s.Completed, completed)
		require.Len(t, r.paid(), completed, "all that was paid is in the output")
		require.ErrorIs(t, r.batches.Cancel(t.Context(), id), batch.ErrEnded)

		_, err := r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		s = r.ended(id)
		require.Equal(t, 10_000, s.Completed)
		r.eachOnce(id, 10_000)
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("default/batches/pending/"))
		require.Empty(t, r.keys("default/tasks/"))
	})
}

func TestASmallBatchDoesNotWaitForTheEndOfALargeOne(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		service := &batch.Service{Redis: r.redis, Store: r.store, Log: slog.New(slog.DiscardHandler)}
		defer r.start(service.Run)()
		large := r.accept(embeddings(20_000), batch.AcceptOptions{ByWorkers: true})
		time.Sleep(4 * time.Second)
		small := r.accept(embeddings(2_000), batch.AcceptOptions{ByWorkers: true})
		require.Equal(t, 2_000, r.ended(small).Completed)
		s, err := r.batches.State(t.Context(), large)
		require.NoError(t, err)
		require.Less(t, s.Completed, 15_000)
		require.Equal(t, batch.Running, s.Status)
		var ids []string
		for id, err := range r.batches.IDs(t.Context()) {
			require.NoError(t, err)
			ids = append(ids, id)
		}
		require.Equal(t, []string{large, small}, ids)
	})
}
