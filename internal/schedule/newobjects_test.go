package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// calls transcribes the new recordings each hour.
func calls() schedule.Definition {
	return schedule.Definition{
		Name: "calls", Cron: "@hourly", Kind: tasks.KindTranscription, Payload: map[string]any{"language": "en"},
		New: &schedule.NewObjects{Prefix: "in/calls/"},
	}
}

// batchedLines returns how often each line is in the batches of a schedule's runs.
func (f *fixture) batchedLines(t *testing.T, name string) map[string]int {
	t.Helper()
	n := map[string]int{}
	runs, err := f.History(t.Context(), name, schedule.KeptRuns)
	require.NoError(t, err)
	for _, r := range runs {
		if r.Batch == "" {
			continue
		}
		d, err := batch.New(batch.Config{Client: f.Client, Store: f.store, Redis: f.memory}).Get(t.Context(), r.Batch)
		require.NoError(t, err)
		for info, err := range f.store.List(t.Context(), "default/batches/"+r.Batch+"/segments/"+d.Upload+"/", "") {
			require.NoError(t, err)
			body, err := f.store.Get(t.Context(), info.Key)
			require.NoError(t, err)
			document, err := io.ReadAll(body)
			require.NoError(t, err)
			for line := range strings.Lines(string(document)) {
				_, rest, _ := strings.Cut(line, `"id":"`)
				id, _, _ := strings.Cut(rest, `"`)
				n[id]++
			}
		}
	}
	return n
}

func TestEachNewRecordingIsInOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		put := func(name, content string) {
			require.NoError(t, f.store.Put(t.Context(), "default/in/calls/"+name, strings.NewReader(content), "audio/wav"))
		}
		f.add(t, calls())
		put("a.wav", "one")
		put("b.wav", "two")
		require.NoError(t, f.store.Put(t.Context(), "default/in/other/c.wav", strings.NewReader("x"), "audio/wav"))
		f.run(t, 61*time.Minute, f.store, time.Now)
		require.Equal(t, map[string]int{"in/calls/a.wav": 1, "in/calls/b.wav": 1}, f.batchedLines(t, "calls"))
		put("c.wav", "three")
		f.run(t, time.Hour, f.store, time.Now)
		put("a.wav", "one, mended")
		f.run(t, time.Hour, f.store, time.Now)
		f.run(t, time.Hour, f.store, time.Now)
		require.Equal(t, map[string]int{"in/calls/a.wav": 2, "in/calls/b.wav": 1, "in/calls/c.wav": 1}, f.batchedLines(t, "calls"))
		runs, err := f.History(t.Context(), "calls", 10)
		require.NoError(t, err)
		require.Len(t, runs, 4)
		require.Equal(t, []any{schedule.Skipped, "nothing is new"}, []any{runs[0].Status, runs[0].Reason})
		state, err := batch.New(batch.Config{Client: f.Client, Store: f.store, Redis: f.memory}).State(t.Context(), runs[3].Batch)
		require.NoError(t, err)
		require.Equal(t, 2, state.Lines)
		require.Zero(t, state.Invalid)
	})
}

// failing is a bucket whose writes fail at random.
type failing struct {
	storage.Store
	mu sync.Mutex
	n  int
}

func (s *failing) fails() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n++; s.n%7 == 0 || s.n%5 == 3 {
		return fmt.Errorf("the bucket failed: %w", storage.ErrNotWritten)
	}
	return nil
}

func (s *failing) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.fails(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func (s *failing) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.fails(); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, body, contentType)
}

// TestNewRecordingsAreInOneBatchWhateverFails: a bucket that fails often, and schedulers that
// are stopped at any moment, of which three run at once.
func TestNewRecordingsAreInOneBatchWhateverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := calls()
		d.Cron = "* * * * *"
		f.add(t, d)
		want := map[string]int{}
		for i := range 60 {
			name := fmt.Sprintf("in/calls/%d.wav", i)
			want[name] = 1
			require.NoError(t, f.store.Put(t.Context(), "default/"+name, strings.NewReader(name), "audio/wav"))
			var running sync.WaitGroup
			for k := range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second+time.Duration(7*i+k)*time.Millisecond)
				s := schedule.New(schedule.Config{Redis: f.memory, Store: &failing{Store: f.store, n: i + k}, Log: slog.New(slog.DiscardHandler)})
				running.Go(func() {
					defer cancel()
					_ = s.Run(ctx) // it returns nil
				})
			}
			running.Wait()
		}
		f.run(t, 3*time.Minute, f.store, time.Now)
		require.Equal(t, want, f.batchedLines(t, "calls"))
	})
}

// TestARunThatWasGivenUpAfterItMarkedItsRecordingsIsFinishedByTheNext: the marks say that the
// recordings are those of the first slot, whose scheduler has gone on to the second.
func TestARunThatWasGivenUpAfterItMarkedItsRecordingsIsFinishedByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, calls())
		require.NoError(t, f.store.Put(t.Context(), "default/in/calls/a.wav", strings.NewReader("one"), "audio/wav"))
		f.run(t, 150*time.Minute, noBatches{f.store, time.Now().Add(130 * time.Minute)}, time.Now)
		require.Equal(t, map[string]int{"in/calls/a.wav": 1}, f.batchedLines(t, "calls"))
		runs, err := f.History(t.Context(), "calls", 10)
		require.NoError(t, err)
		require.Equal(t, []schedule.Status{schedule.Skipped, schedule.Running}, []schedule.Status{runs[0].Status, runs[1].Status})
	})
}

// noBatches is a bucket that refuses to keep batches until some time.
type noBatches struct {
	storage.Store
	until time.Time
}

func (s noBatches) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if strings.Contains(key, "/batches/") && time.Now().Before(s.until) {
		return errors.New("no batches")
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func TestThePrefixOfAScheduleIsChecked(t *testing.T) {
	for want, change := range map[string]func(*schedule.Definition){
		"new.prefix":       func(d *schedule.Definition) { d.New.Prefix = "tasks/" },
		"kind":             func(d *schedule.Definition) { d.Kind = tasks.KindText },
		"payload.audio":    func(d *schedule.Definition) { d.Payload["audio"] = map[string]any{"key": "x"} },
		"payload.language": func(d *schedule.Definition) { d.Payload["language"] = 7 },
		"new":              func(d *schedule.Definition) { d.File = &schedule.File{Key: "in/x.jsonl"} },
		"webhook":          func(d *schedule.Definition) { d.Webhook = "https://example.com/x" },
	} {
		d := calls()
		change(&d)
		_, err := d.Check()
		var invalid tasks.ValidationError
		require.ErrorAs(t, err, &invalid, want)
		require.Equal(t, want, invalid[0].Field, "%v", err)
	}
	_, err := calls().Check()
	require.NoError(t, err)
}
