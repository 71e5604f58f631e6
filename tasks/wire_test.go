package tasks_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// requireGolden compares with a file below testdata/golden. -update writes the file and
// fails, so that the change is noticed.
func requireGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	got = append(bytes.TrimRight(got, "\n"), '\n')
	if *update {
		before, _ := os.ReadFile(file)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, got, 0o644))
		if !bytes.Equal(before, got) {
			t.Errorf("%s has been written anew", file)
		}
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	require.NoError(t, err)
	return b
}

var wholeOrigin = tasks.Origin{Key: "5e0a1c2b3d4f6a70", Batch: "b_01", Chunk: "0/1/2", Schedule: "nightly"}

func wholeTask() tasks.Task {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	return tasks.Task{
		Version: 1, ID: "t_019f", Tenant: "default", Kind: tasks.KindText, Lane: tasks.Bulk, Model: "@cf/zai-org/glm-4.7-flash",
		Payload: json.RawMessage(`{"prompt":"a \u003cb\u003e"}`), InputKey: "default/tasks/t_019f/input.ab.json",
		Digest: "cd", CreatedAt: at, StartAt: at.Add(time.Hour), Deadline: at.Add(2 * time.Hour), Metadata: map[string]string{"customer": "42"},
		Origin: wholeOrigin, Pending: true, ResultIn: tasks.InStore, RecoveredAt: at.Add(time.Minute), Redis: "e3", Cancelled: true, MaxNeurons: 12.5, Spend: tasks.SpendFree,
	}
}

func wholeResult() tasks.Result {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	started := at.Add(time.Second)
	return tasks.Result{
		ID: "t_019f", Kind: tasks.KindImage, Status: tasks.Completed, Model: "@cf/leonardo/phoenix-1.0",
		Output:    json.RawMessage(`{"image":"default/tasks/t_019f/image.png","content_type":"image/png","width":512,"height":512}`),
		Artefacts: []tasks.Artefact{{Key: "default/tasks/t_019f/image.png", ContentType: "image/png", Bytes: 7, SHA256: "ef"}},
		Usage:     tasks.Usage{Neurons: 1.25, Calls: 2, Unsettled: 1, CountedSince: at},
		CreatedAt: at, StartedAt: &started, FinishedAt: at.Add(time.Minute), Attempts: 2, Metadata: map[string]string{"customer": "42"}, Origin: wholeOrigin, Digest: "cd",
	}
}

// Tasks wait in Redis and in the bucket, results are permanent: both outlive releases.
func TestTasksAndResultsKeepTheirWireForm(t *testing.T) {
	least := tasks.Task{Version: 1, ID: "t_1", Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive, Model: "@cf/x/y", Digest: "cd",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Deadline: time.Date(2026, 1, 5, 3, 4, 5, 0, time.UTC)}
	failed := tasks.Result{ID: "t_1", Kind: tasks.KindText, Status: tasks.Failed, Model: "@cf/x/y", Artefacts: []tasks.Artefact{},
		Error: &tasks.TaskError{Code: tasks.CodeDeadlineExceeded, Message: "its deadline passed"}, Metadata: map[string]string{}}
	for name, v := range map[string]any{
		"task.json": wholeTask(), "task-least.json": least,
		"result-completed.json": wholeResult(), "result-failed.json": failed, "dead.json": tasks.DeadLetterOf(failed),
	} {
		requireGolden(t, name, indented(t, v))
	}
	read := func(name string, into any) {
		document, err := os.ReadFile(filepath.Join("testdata", "golden", name))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(document, into))
	}
	var task tasks.Task
	read("task.json", &task)
	require.Equal(t, string(indented(t, wholeTask())), string(indented(t, task)))
	var result tasks.Result
	read("result-completed.json", &result)
	require.Equal(t, string(indented(t, wholeResult())), string(indented(t, result)))
}

// A value is written in the same form in which it was read: a cancel rewrites a record,
// and a recovery rewrites a task.
func FuzzTaskIsWrittenAsItWasRead(f *testing.F) {
	document, _ := json.Marshal(wholeTask())
	f.Add(document)
	f.Add([]byte(`{"v":1,"id":"t_1","tenant":"default","kind":"text","model":"@cf/x/y","payload":{"prompt":"hi"},"deadline":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":2,"id":"t_1","tenant":"a","deadline":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		task, err := tasks.Decode(data)
		if err != nil {
			return
		}
		first, err := json.Marshal(task)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", data, err)
		}
		again, err := tasks.Decode(first)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", data, first, err)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%q is written as %q, then as %q: %v", data, first, second, err)
		}
	})
}

func FuzzResultIsWrittenAsItWasRead(f *testing.F) {
	document, _ := json.Marshal(wholeResult())
	f.Add(document)
	f.Add([]byte(`{"id":"t_1","status":"failed","error":{"code":"x","message":"y"},"started_at":null}`))
	f.Add([]byte(`{"output":[1,{"a":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r tasks.Result
		if json.Unmarshal(data, &r) != nil {
			return
		}
		first, err := json.Marshal(r)
		if err != nil {
			return // a time or an output without a JSON form
		}
		var again tasks.Result
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("%q is written as %q: %v", data, first, err)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%q is written as %q, then as %q: %v", data, first, second, err)
		}
		_, _ = tasks.OutputOf[tasks.TextOutput](&r)
		_, _ = tasks.OutputOf[tasks.EmbeddingOutput](&r)
	})
}
