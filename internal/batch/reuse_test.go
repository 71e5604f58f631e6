package batch_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

const aMonth = batch.MaxAge(30 * 24 * time.Hour)

// texts returns lines of embeddings.
func texts(all []string) string {
	var b strings.Builder
	for i, text := range all {
		fmt.Fprintf(&b, `{"id": "row-%d", "kind": "embedding", "input": {"texts": [%q]}}`+"\n", i, text)
	}
	return b.String()
}

func numbered(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("text %d", i))
	}
	return all
}

// lastShard is a bucket whose process dies when it has stored a shard.
type lastShard struct {
	storage.Store
	die func()
}

func (s *lastShard) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	err := s.Store.Create(ctx, key, body, contentType)
	if strings.Contains(key, "/shards/") {
		s.die()
	}
	return err
}

// TestASecondNightPaysForTheChangedLinesOnly: an unchanged file makes no call, also when its
// driver dies in the middle. One with 1 % changed lines in another order costs 1 %, and a
// third night finds the results of both.
func TestASecondNightPaysForTheChangedLinesOnly(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		const lines = 3_000
		night := numbered(lines)
		first := r.accept(texts(night), batch.AcceptOptions{})
		require.Equal(t, lines, r.drive(first).Completed)
		require.Len(t, r.ai.Requests(), lines/100)

		second := r.accept(texts(night), batch.AcceptOptions{Reuse: aMonth})
		ctx, die := context.WithCancel(t.Context())
		config := r.batches.Config
		config.Store = &lastShard{config.Store, die}
		_, err := batch.New(config).Drive(ctx, second, batch.DriveOptions{})
		require.Error(t, err)
		require.Equal(t, batch.Counts{Completed: lines, Cached: lines}, r.drive(second).Counts)
		require.Len(t, r.ai.Requests(), lines/100, "no further call")
		require.Equal(t, lines, r.cached(second))
		was, is := r.output(first), r.output(second)
		for i := range was {
			require.Equal(t, was[i].ID, is[i].ID)
			require.Equal(t, was[i].Output, is[i].Output)
		}

		var changed []string
		for i, text := range night {
			if i%100 == 7 {
				text += " changed"
			}
			changed = append([]string{text}, changed...)
		}
		report, err := r.batches.Plan(t.Context(), source(texts(changed), batch.Native), aMonth)
		require.NoError(t, err)
		require.Equal(t, []int{lines - lines/100, lines / 100}, []int{report.Reused, report.Lines - report.Reused})
		third := r.accept(texts(changed), batch.AcceptOptions{Reuse: aMonth})
		end := r.drive(third)
		require.Equal(t, batch.Counts{Completed: lines, Cached: lines - lines/100, Neurons: end.Neurons}, end.Counts)
		require.Equal(t, was[0].Output, r.output(third)[lines-1].Output)
		paid := r.paid()
		require.Len(t, paid, lines+lines/100)
		for text, n := range paid {
			require.Equal(t, 1, n, text)
		}

		calls := len(r.ai.Requests())
		fourth := r.accept(texts(changed), batch.AcceptOptions{Reuse: aMonth})
		require.Equal(t, lines, r.drive(fourth).Cached)
		require.Len(t, r.ai.Requests(), calls)

		fifth := r.accept(texts(changed[:100]), batch.AcceptOptions{})
		require.Zero(t, r.drive(fifth).Cached, "nothing is reused unless that is asked for")
	})
}

// TestOnlyFreshResultsOfTheSameTenantAndModelAreReused: the age counts from the call, not
// from the last reuse.
func TestOnlyFreshResultsOfTheSameTenantAndModelAreReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		night := texts(numbered(200))
		cached := func(b *batch.Batches, text string, age time.Duration) int {
			t.Helper()
			id := batch.NewID()
			_, err := b.Accept(t.Context(), id, source(text, batch.Native), batch.AcceptOptions{Reuse: batch.MaxAge(age)})
			require.NoError(t, err)
			end, err := b.Drive(t.Context(), id, batch.DriveOptions{})
			require.NoError(t, err)
			require.Zero(t, end.Failed)
			return end.Cached
		}
		require.Zero(t, cached(r.batches, night, time.Hour))
		time.Sleep(40 * time.Minute)
		require.Equal(t, 200, cached(r.batches, night, time.Hour))
		shop := batch.New(batch.Config{
			Client: tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store, Tenant: "shop"}),
			Store:  r.store, Redis: r.redis, Tenant: "shop", Log: slog.New(slog.DiscardHandler),
		})
		require.Zero(t, cached(shop, night, time.Hour), "of another tenant")
		require.Zero(t, cached(r.batches, strings.ReplaceAll(night, `"kind"`, `"model": "@cf/baai/bge-m3", "kind"`), time.Hour))
		require.Zero(t, cached(r.batches, strings.ReplaceAll(night, `"]`, `"], "pooling": "cls"`), time.Hour))
		time.Sleep(40 * time.Minute)
		require.Zero(t, cached(r.batches, night, time.Hour), "the results are 80 minutes old")
		require.Equal(t, 200, cached(r.batches, night, time.Hour))
		recordings := `{"id":"a","kind":"transcription","input":{"audio":{"key":"default/in/a.wav"}}}` + "\n"
		report, err := r.batches.Plan(t.Context(), source(recordings, batch.Native), aMonth)
		require.NoError(t, err)
		require.Zero(t, report.Reused, "a recording may have changed under its name")
	})
}

// TestALineWhoseStoredOutputIsGoneIsCalled: the batch that had it was deleted after the next
// one was accepted. No line is lost, and none is paid for twice by drivers that die.
func TestALineWhoseStoredOutputIsGoneIsCalled(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		const lines = 1_200
		first := r.accept(embeddings(lines), batch.AcceptOptions{})
		r.drive(first)
		second := r.accept(embeddings(lines), batch.AcceptOptions{Reuse: aMonth})
		gone := r.keys("default/batches/" + first + "/shards/0/00000000")
		require.Len(t, gone, 1)
		require.NoError(t, storage.DeleteMany(t.Context(), r.store, gone))
		before := len(r.ai.Requests())
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		_, err := r.batches.Drive(ctx, second, batch.DriveOptions{})
		cancel()
		require.Error(t, err)
		end := r.drive(second)
		require.Equal(t, batch.Counts{Completed: lines, Cached: 200, Neurons: end.Neurons}, end.Counts)
		require.Positive(t, len(r.ai.Requests())-before)
		paid := r.paid()
		for i, l := range r.output(second) {
			require.Equal(t, fmt.Sprintf("row-%d", i), l.ID)
			require.Len(t, l.Output.Vectors, 1)
			want := 1
			if i < 1_000 {
				want = 2
			}
			require.Equal(t, want, paid[fmt.Sprintf("text %d", i)])
		}
		require.Empty(t, r.keys("default/tasks/"))

		third := r.accept(embeddings(lines), batch.AcceptOptions{Reuse: aMonth})
		require.Equal(t, lines, r.drive(third).Cached, "the results of the second one are found")
	})
}

func TestAMaximumAgeIsRead(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "": 0} {
		var a batch.MaxAge
		require.NoError(t, a.UnmarshalText([]byte(text)))
		require.Equal(t, batch.MaxAge(want), a)
		written, err := a.MarshalText()
		require.NoError(t, err)
		var again batch.MaxAge
		require.NoError(t, again.UnmarshalText(written))
		require.Equal(t, a, again)
	}
	for _, text := range []string{"90", "d", "-1d", "0d", "5000d", "a month", "999999999999999999999d"} {
		require.ErrorContains(t, new(batch.MaxAge).UnmarshalText([]byte(text)), "is not an age such as 90d", text)
	}
}
