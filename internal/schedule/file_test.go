package schedule_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// fromFile runs a file each hour.
func fromFile() schedule.Definition {
	return schedule.Definition{
		Name: "nightly", Cron: "@hourly", Kind: tasks.KindTranslation, Payload: map[string]any{"target_lang": "es"},
		File: &schedule.File{Key: "in/{{slot}}.csv", Column: "title", IDColumn: "sku", AutoStop: "failed>50%"},
	}
}

// TestAFileRunsAsABatchOnceASlot: with two schedulers, of which one starts late, over two
// slots. The second one has no file.
func TestAFileRunsAsABatchOnceASlot(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ai := workersaitest.New(workersaitest.Options{Latency: 100 * time.Millisecond})
		w, err := worker.New(worker.Config{Redis: f.memory, Store: f.store, AI: ai.Client(), Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		service := &batch.Service{Redis: f.memory, Store: f.store, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		var running errgroup.Group
		defer func() { stop(); require.NoError(t, running.Wait()) }()
		running.Go(func() error { return w.Run(ctx) })
		running.Go(func() error { return service.Run(ctx) })

		f.add(t, fromFile())
		file := "sku,title\na-1,Good morning\na-2,Good night\na-3,\"How, then?\"\n"
		require.NoError(t, f.store.Put(t.Context(), "default/in/2000-01-01T01:00:00Z.csv", strings.NewReader(file), "text/csv"))
		for range 2 {
			s := schedule.New(schedule.Config{Redis: f.memory, Store: f.store, Poll: time.Minute, Log: slog.New(slog.DiscardHandler)})
			running.Go(func() error { return s.Run(ctx) })
			time.Sleep(10 * time.Minute)
		}
		time.Sleep(2 * time.Hour)

		runs, err := f.History(t.Context(), "nightly", 10)
		require.NoError(t, err)
		require.Len(t, runs, 2)
		require.Equal(t, schedule.Refused, runs[0].Status)
		require.Contains(t, runs[0].Reason, "there is no object default/in/2000-01-01T02:00:00Z.csv")
		first := runs[1]
		require.Equal(t, schedule.Completed, first.Status)
		require.Positive(t, first.Neurons)
		require.Len(t, ai.Requests(), 3, "one call a line")
		native := batch.New(batch.Config{Client: f.Client, Store: f.store, Redis: f.memory})
		var output strings.Builder
		_, err = native.WriteOutput(t.Context(), first.Batch, &output)
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(output.String(), `"status":"completed"`), output.String())
		require.Contains(t, output.String(), `"id":"a-3"`)
		state, err := native.State(t.Context(), first.Batch)
		require.NoError(t, err)
		require.Equal(t, "nightly", state.Schedule)
	})
}

// TestASlotReusesTheResultsOfTheSlotBefore: the second night over a file costs what changed.
func TestASlotReusesTheResultsOfTheSlotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ai := workersaitest.New(workersaitest.Options{Latency: 100 * time.Millisecond})
		w, err := worker.New(worker.Config{Redis: f.memory, Store: f.store, AI: ai.Client(), Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		service := &batch.Service{Redis: f.memory, Store: f.store, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		var running errgroup.Group
		defer func() { stop(); require.NoError(t, running.Wait()) }()
		running.Go(func() error { return w.Run(ctx) })
		running.Go(func() error { return service.Run(ctx) })

		d := fromFile()
		d.File.Key, d.File.Reuse = "in/titles.csv", "90d"
		f.add(t, d)
		for night, title := range []string{"How, then?", "How, then?", "Why?"} {
			file := "sku,title\na-1,Good morning\na-2,Good night\na-3,\"" + title + "\"\n"
			require.NoError(t, f.store.Put(t.Context(), "default/in/titles.csv", strings.NewReader(file), "text/csv"))
			time.Sleep(time.Minute)
			_, err := f.RunNow(t.Context(), "nightly")
			require.NoError(t, err)
			time.Sleep(10 * time.Minute)
			runs, err := f.History(t.Context(), "nightly", 1)
			require.NoError(t, err)
			require.Equal(t, schedule.Completed, runs[0].Status)
			require.Len(t, ai.Requests(), []int{3, 3, 4}[night])
		}
	})
}

// TestAFileThatCannotRunIsRefusedWithTheReason names the line, and a person can run the
// schedule again once the file is mended.
func TestAFileThatCannotRunIsRefusedWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := fromFile()
		d.Kind, d.Payload, d.File = "", nil, &schedule.File{Key: "in/rows.jsonl"}
		f.add(t, d)
		for file, reason := range map[string]string{
			"": "in/rows.jsonl: the file has no lines",
			`{"id":"a","kind":"text","input":{"prompt":"x"}}` + "\n" + `{"id":"a","kind":"text","input":{}}`: "in/rows.jsonl: 1 of 2 lines are not valid: line 2",
		} {
			require.NoError(t, f.store.Put(t.Context(), "default/in/rows.jsonl", strings.NewReader(file), ""))
			time.Sleep(time.Second)
			r, err := f.RunNow(t.Context(), "nightly")
			require.NoError(t, err)
			require.Equal(t, schedule.Refused, r.Status)
			require.Contains(t, r.Reason, reason)
		}
		require.NoError(t, f.store.Put(t.Context(), "default/in/rows.jsonl", strings.NewReader(`{"id":"a","kind":"text","input":{"prompt":"x"}}`), ""))
		time.Sleep(time.Second)
		r, err := f.RunNow(t.Context(), "nightly")
		require.NoError(t, err)
		require.Equal(t, schedule.Running, r.Status)
		require.NotEmpty(t, r.Batch)
	})
}

func TestTheFileOfAScheduleIsChecked(t *testing.T) {
	for want, change := range map[string]func(*schedule.Definition){
		"file.key":          func(d *schedule.Definition) { d.File.Key = "batches/b_1/batch.json" },
		"file.key ":         func(d *schedule.Definition) { d.File.Key = "in/../tasks/x.csv" },
		"file.key {{":       func(d *schedule.Definition) { d.File.Key = "in/{{week}}.csv" },
		"file.column":       func(d *schedule.Definition) { d.File.Column = "" },
		"file.id_column":    func(d *schedule.Definition) { d.File.Key, d.File.Column = "in/a.txt", "" },
		"file.reuse":        func(d *schedule.Definition) { d.File.Reuse = "a month" },
		"file.reuse ":       func(d *schedule.Definition) { d.File.Reuse, d.File.CallEach = "90d", true },
		"file.max_neurons":  func(d *schedule.Definition) { d.File.MaxNeurons = -1 },
		"file.max_neurons ": func(d *schedule.Definition) { d.File.MaxNeurons, d.MaxNeurons = 5, 5 },
		"max_neurons":       func(d *schedule.Definition) { d.MaxNeurons = -1 },
		"spend":             func(d *schedule.Definition) { d.Spend = "gold" },
		"keep":              func(d *schedule.Definition) { d.Keep = "a month" },
		"keep ": func(d *schedule.Definition) {
			d.File, d.Payload, d.Keep = nil, map[string]any{"text": "x", "target_lang": "es"}, "30d"
		},
		"finish_by":      func(d *schedule.Definition) { d.FinishBy = "7 am" },
		"finish_by ":     func(d *schedule.Definition) { d.FinishBy, d.Deadline = "07:00", "6h" },
		"file.auto_stop": func(d *schedule.Definition) { d.File.AutoStop = "5%" },
		"kind":           func(d *schedule.Definition) { d.Kind = "poem" },
		"kind ":          func(d *schedule.Definition) { d.Kind = "" },
		"webhook":        func(d *schedule.Definition) { d.Webhook = "https://example.com/x" },
		"lane":           func(d *schedule.Definition) { d.Lane = tasks.Interactive },
	} {
		d := fromFile()
		change(&d)
		_, err := d.Check()
		var invalid tasks.ValidationError
		require.ErrorAs(t, err, &invalid, want)
		field, _, _ := strings.Cut(want, " ")
		require.Equal(t, field, invalid[0].Field, "%s: %v", want, err)
	}
	_, err := fromFile().Check()
	require.NoError(t, err)
}
