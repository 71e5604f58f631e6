package index_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// entry returns the i-th task; every third has failed, and five end at the same time.
func entry(i int, first time.Time) index.Entry {
	e := index.Entry{
		ID: fmt.Sprintf("t_%05d", i), Status: tasks.Completed, Kind: tasks.KindText, Lane: tasks.Bulk, Model: "@cf/a/b",
		FinishedAt: first.Add(time.Duration(i/5) * time.Second).UTC(),
	}
	if i%3 == 0 {
		e.Status, e.Code, e.Kind = tasks.Failed, "cancelled", tasks.KindImage
	}
	return e
}

func idsOf(entries []index.Entry) (ids []string) {
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestPagesFromNewToOldHaveEveryEntryOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &index.Index{Redis: redistest.Memory(t)}
		var all []index.Entry
		for i := range 1203 {
			all = append(all, entry(i, time.Now()))
		}
		require.NoError(t, x.Add(t.Context(), "acme", all...))
		require.NoError(t, x.Add(t.Context(), "acme", all[:7]...), "again, without effect")
		slices.Reverse(all)
		for name, c := range map[string]struct {
			filter index.Filter
			wanted func(index.Entry) bool
		}{
			"all":    {index.Filter{Limit: 7}, func(index.Entry) bool { return true }},
			"failed": {index.Filter{Limit: 3, Status: tasks.Failed}, func(e index.Entry) bool { return e.Status == tasks.Failed }},
			"code":   {index.Filter{Limit: 50, Code: tasks.CodeCancelled}, func(e index.Entry) bool { return e.Code == "cancelled" }},
			"kind":   {index.Filter{Limit: 50, Kind: tasks.KindText, Lane: tasks.Bulk, Model: "@cf/a/b"}, func(e index.Entry) bool { return e.Kind == tasks.KindText }},
			"none":   {index.Filter{Model: "@cf/a/c"}, func(index.Entry) bool { return false }},
			"between": {index.Filter{Since: time.Now().Add(10 * time.Second), Before: time.Now().Add(20 * time.Second)}, func(e index.Entry) bool {
				return !e.FinishedAt.Before(time.Now().Add(10*time.Second)) && e.FinishedAt.Before(time.Now().Add(20*time.Second))
			}},
		} {
			var got, want []index.Entry
			for page, pages := (index.Page{}), 0; pages == 0 || !page.Next.IsZero(); pages++ {
				require.Less(t, pages, 500, name)
				f := c.filter
				var err error
				f.After, err = index.ParseCursor(page.Next.String())
				require.NoError(t, err)
				page, err = x.Find(t.Context(), "acme", f)
				require.NoError(t, err)
				got = append(got, page.Entries...)
			}
			for _, e := range all {
				if c.wanted(e) {
					want = append(want, e)
				}
			}
			require.Equal(t, want, got, name)
		}
		page, err := x.Find(t.Context(), "other", index.Filter{})
		require.NoError(t, err)
		require.Empty(t, page.Entries, "a tenant has its own index")
	})
}

// A filter that matches nothing looks at a bounded part of the index and says where to go on.
func TestARareMatchTakesSeveralPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &index.Index{Redis: redistest.Memory(t)}
		var all []index.Entry
		for i := range 6000 {
			all = append(all, entry(i+1, time.Now()))
		}
		all[0].Code = "rare"
		require.NoError(t, x.Add(t.Context(), "acme", all...))
		page, err := x.Find(t.Context(), "acme", index.Filter{Code: "rare"})
		require.NoError(t, err)
		require.Empty(t, page.Entries)
		page, err = x.Find(t.Context(), "acme", index.Filter{Code: "rare", After: page.Next})
		require.NoError(t, err)
		require.Equal(t, []string{"t_00001"}, idsOf(page.Entries))
		require.True(t, page.Next.IsZero())
	})
}

func TestTheIndexHasBoundsInNumberAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		x := &index.Index{Redis: r, Keep: time.Hour, Most: 300}
		for i := range 1000 {
			e := entry(i, time.Now())
			e.FinishedAt = time.Now()
			require.NoError(t, x.Add(t.Context(), "acme", e))
		}
		require.LessOrEqual(t, r.ZCard(t.Context(), index.Key("acme")).Val(), int64(400))
		time.Sleep(61 * time.Minute)
		page, err := x.Find(t.Context(), "acme", index.Filter{})
		require.NoError(t, err)
		require.Empty(t, page.Entries, "older than an hour")
		require.NoError(t, x.Add(t.Context(), "acme", index.Entry{ID: "t_new", Status: tasks.Completed, Kind: tasks.KindText, FinishedAt: time.Now()}))
		require.EqualValues(t, 1, r.ZCard(t.Context(), index.Key("acme")).Val())
		time.Sleep(3 * time.Hour)
		require.Zero(t, r.Exists(t.Context(), index.Key("acme")).Val(), "an unused index expires")
	})
}

func TestABadCursorIsRefused(t *testing.T) {
	for _, text := range []string{"x", "1", "1.", ".a", "-1.t_a", "01.t_a", " 1.t_a", "1e3.t_a"} {
		_, err := index.ParseCursor(text)
		require.ErrorIs(t, err, index.ErrCursor, text)
	}
}

func TestAFinishedTaskIsIndexedAlsoWhenRedisWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, link := redistest.New(t), &redistest.Link{}
		x := &index.Index{Redis: server.Client(link)}
		observer, stop := x.Observer(slog.New(slog.DiscardHandler))
		link.Cut()
		begun := time.Now()
		e := tasks.Event{
			Type: tasks.EventFinished, Time: begun, ID: "t_a", Tenant: "acme", Kind: tasks.KindText, Lane: tasks.Interactive,
			Model: "@cf/a/b", Outcome: "failed", Code: tasks.CodePoisoned,
		}
		observer.Observe(e)
		observer.Observe(tasks.Event{Type: tasks.EventStarted, ID: "t_b", Tenant: "acme"})
		require.Zero(t, time.Since(begun), "a task does not wait for its index")
		time.Sleep(100 * time.Millisecond)
		link.Mend()
		time.Sleep(10 * time.Second)
		stop()
		page, err := x.Find(t.Context(), "acme", index.Filter{})
		require.NoError(t, err)
		require.Equal(t, []index.Entry{{
			ID: "t_a", Status: tasks.Failed, Kind: tasks.KindText, Lane: tasks.Interactive, Model: "@cf/a/b", Code: tasks.CodePoisoned, FinishedAt: begun.UTC(),
		}}, page.Entries)
	})
}

func TestTheIndexIsRebuiltFromTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, store := &index.Index{Redis: redistest.Memory(t)}, storage.NewMemory()
		put := func(tenant, id string, r any) {
			document, err := json.Marshal(r)
			require.NoError(t, err)
			require.NoError(t, store.Put(context.Background(), objects.ResultKey(tenant, id), bytes.NewReader(document), "application/json"))
		}
		put("acme", "t_old", tasks.Result{ID: "t_old", Status: tasks.Completed, FinishedAt: time.Now()})
		time.Sleep(8 * 24 * time.Hour)
		now := time.Now()
		put("acme", "t_a", tasks.Result{ID: "t_a", Kind: tasks.KindText, Status: tasks.Completed, Model: "@cf/a/b", FinishedAt: now})
		put("acme", "t_b", tasks.Result{ID: "t_b", Kind: tasks.KindText, Status: tasks.Failed, Error: &tasks.TaskError{Code: tasks.CodeCancelled}, Model: "@cf/a/b", FinishedAt: now.Add(time.Second)})
		put("acme", "t_damaged", "no result")
		put("beta", "t_c", tasks.Result{ID: "t_c", Kind: tasks.KindImage, Status: tasks.Completed, FinishedAt: now})
		require.NoError(t, store.Put(t.Context(), objects.ArtefactKey("acme", "t_a", "image.png"), bytes.NewReader(nil), "image/png"))
		require.NoError(t, x.Add(t.Context(), "acme", index.Entry{ID: "t_a", Status: tasks.Completed, Kind: tasks.KindText, Lane: tasks.Bulk, Model: "@cf/a/b", FinishedAt: now}))

		n, err := x.Rebuild(t.Context(), store, nil)
		require.NoError(t, err)
		require.Equal(t, index.Rebuilt{Results: 4, Added: 2, Old: 1, Damaged: 1}, n)
		page, err := x.Find(t.Context(), "acme", index.Filter{})
		require.NoError(t, err)
		require.Equal(t, []string{"t_b", "t_a"}, idsOf(page.Entries), "each once")
		require.Equal(t, tasks.Bulk, page.Entries[1].Lane)
		require.Equal(t, "cancelled", page.Entries[0].Code)
		n, err = x.Rebuild(t.Context(), store, nil)
		require.NoError(t, err)
		require.Zero(t, n.Added)
	})
}
