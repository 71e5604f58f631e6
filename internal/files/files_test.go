package files_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
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
