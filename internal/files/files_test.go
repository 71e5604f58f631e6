package files_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestExpiredFilesAndUnfinishedUploadsAreDeletedAndOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storage.NewMemory()
		f := files.Files{Store: store, Tenant: "acme"}
		create := func(life time.Duration, publish bool) string {
			file := files.File{ID: files.NewID(), Name: "a.jsonl", Purpose: files.Batch, CreatedAt: time.Now()}
			if life > 0 {
				file.ExpiresAt = file.CreatedAt.Add(life)
			}
			file, err := f.Create(t.Context(), file, strings.NewReader("content"))
			require.NoError(t, err)
			require.EqualValues(t, 7, file.Bytes)
			if publish {
				require.NoError(t, f.Publish(t.Context(), file))
			}
			return file.ID
		}
		short, lasting, unfinished := create(2*time.Hour, true), create(0, true), create(0, false)
		sweeper := &files.Sweeper{Redis: redistest.Memory(t), Store: store, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- sweeper.Run(ctx) }()
		has := func(id string) bool {
			_, err := store.Head(t.Context(), f.Key(id))
			return err == nil
		}

		time.Sleep(time.Hour)
		require.True(t, has(short))
		time.Sleep(2 * time.Hour)
		require.False(t, has(short))
		require.True(t, has(lasting))
		require.True(t, has(unfinished))
		time.Sleep(24 * time.Hour)
		require.True(t, has(lasting))
		require.False(t, has(unfinished))
		_, err := f.Get(t.Context(), lasting)
		require.NoError(t, err)
		for info, err := range store.List(t.Context(), "acme/files/expiring/", "") {
			require.NoError(t, err)
			require.Fail(t, "a mark is left", info.Key)
		}
		cancel()
		require.NoError(t, <-done)
	})
}

func TestUploadsThatNothingNamesAreDeletedAndOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, rdb := storage.NewMemory(), redistest.Memory(t)
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		upload := func() string {
			key := objects.NewUploadKey(objects.DefaultTenant, ".wav")
			require.NoError(t, objects.MarkUpload(t.Context(), store, key))
			require.NoError(t, store.Put(t.Context(), key, strings.NewReader("sound"), "audio/wav"))
			return key
		}
		has := func(key string) bool {
			_, err := store.Head(t.Context(), key)
			return err == nil
		}
		name := func(key string) {
			_, err := client.Enqueue(t.Context(), tasks.Transcription{Audio: tasks.Audio{Key: key}})
			require.NoError(t, err)
		}
		unnamed, named, late := upload(), upload(), upload()
		name(named)
		line := upload()
		format, err := batch.Form{}.Format("rows.jsonl")
		require.NoError(t, err)
		source := batch.Source{Name: "rows.jsonl", Format: format, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(`{"id":"a","kind":"transcription","input":{"audio":{"key":"` + line + `"}}}`)), nil
		}}
		batches := batch.New(batch.Config{Client: client, Store: store, Redis: rdb, Log: slog.New(slog.DiscardHandler)})
		_, err = batches.Accept(t.Context(), batch.NewID(), source, batch.AcceptOptions{ByWorkers: true})
		require.NoError(t, err)
		stored := schedule.NewStored(schedule.StoredConfig{Client: client, Store: store, Redis: rdb, Log: slog.New(slog.DiscardHandler)})
		scheduled := upload()
		_, err = stored.Add(t.Context(), schedule.Definition{Name: "daily", Cron: "@daily", Kind: tasks.KindTranscription, Payload: map[string]any{"audio": map[string]any{"key": scheduled}}})
		require.NoError(t, err)

		sweeper := &files.Sweeper{Redis: rdb, Store: store, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- sweeper.Run(ctx) }()
		time.Sleep(23*time.Hour + time.Second)
		require.True(t, has(unnamed))
		name(late)
		time.Sleep(2 * time.Hour)
		require.False(t, has(unnamed))
		for what, key := range map[string]string{"a task": named, "a late task": late, "a line of a batch": line, "a schedule": scheduled} {
			require.True(t, has(key), "%s names it", what)
		}
		for info, err := range store.List(t.Context(), objects.ExpiringPrefix(objects.DefaultTenant), "") {
			require.NoError(t, err)
			require.Fail(t, "a mark is left", info.Key)
		}
		cancel()
		require.NoError(t, <-done)
	})
}
