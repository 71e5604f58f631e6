package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestFilesComeOutOfTheBucketWholeAndKeepWhatIsThereUntilThen(t *testing.T) {
	store, dir := storage.NewMemory(), t.TempDir()
	require.NoError(t, store.Put(t.Context(), "default/tasks/t_1/image.jpg", strings.NewReader("\xff\xd8 picture"), "image/jpeg"))
	r := &tasks.Result{ID: "t_1", Status: tasks.Completed, Artefacts: []tasks.Artefact{{Key: "default/tasks/t_1/image.jpg", ContentType: "image/jpeg"}}}
	save := func(output, key string, several bool) ([]string, error) {
		files, err := newSaver(output, several)
		require.NoError(t, err)
		var stdout bytes.Buffer
		paths, _, err := files.save(t.Context(), store, r, key, &stdout)
		if output == "-" {
			require.Equal(t, "\xff\xd8 picture", stdout.String())
		}
		return paths, err
	}
	content := func(name string) string {
		body, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(body)
	}
	file := filepath.Join(dir, "mill.jpg")
	for range 2 {
		paths, err := save(file, "", false)
		require.NoError(t, err)
		require.Equal(t, []string{file}, paths)
		require.Equal(t, "\xff\xd8 picture", content("mill.jpg"))
	}
	_, err := save("-", "", false)
	require.NoError(t, err)
	// Keys that are not valid file names do not lead outside the folder.
	for key, want := range map[string]string{"row-17": "row-17-image.jpg", "../../row": "t_1-image.jpg", ".hidden": "t_1-image.jpg", "": "t_1-image.jpg"} {
		paths, err := save(dir, key, true)
		require.NoError(t, err)
		require.Equal(t, []string{filepath.Join(dir, want)}, paths)
	}
	r.Artefacts[0].Key = "default/tasks/t_1/gone.jpg"
	_, err = save(file, "", false)
	require.ErrorIs(t, err, storage.ErrNotFound)
	require.Equal(t, "\xff\xd8 picture", content("mill.jpg"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 3, "nothing half-written is left")
}
