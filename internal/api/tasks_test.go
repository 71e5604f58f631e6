package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

const goodMorning = `{"kind":"translation","input":{"text":"Good morning","target_lang":"es"},"metadata":{"order":"7"}}`

// submit accepts a task and returns it.
func (b *bench) submitted(body string, headers ...string) taskBody {
	b.t.Helper()
	res := b.call(http.MethodPost, "/v1/tasks", body, headers...)
	require.Equal(b.t, http.StatusAccepted, res.StatusCode, "%s", res.body)
	var task taskBody
	res.into(b.t, &task)
	require.Equal(b.t, "/v1/tasks/"+task.ID, res.Header.Get("Location"))
	return task
}

// end writes the result of a task as a worker does.
func (b *bench) end(id string, r tasks.Result) {
	b.t.Helper()
	r.ID, r.FinishedAt, r.CreatedAt = id, time.Now().UTC(), time.Now().UTC()
	document, err := json.Marshal(r)
	require.NoError(b.t, err)
	require.NoError(b.t, b.store.Put(b.t.Context(), objects.ResultKey("default", id), bytes.NewReader(document), "application/json"))
	require.NoError(b.t, b.cfg.Redis.HSet(b.t.Context(), taskstate.LiveKey(id), "ended", string(r.Status)).Err())
}

func TestATaskIsSubmittedAndSaysWhyItWaits(t *testing.T) {
	b := newBench(t)
	task := b.submitted(goodMorning)
	require.Equal(t, tasks.KindTranslation, task.Kind)
	require.Equal(t, "pending", task.State)
	require.Equal(t, tasks.InStore, task.Durability)
	require.Equal(t, map[string]string{"order": "7"}, task.Metadata)
	require.NotNil(t, task.Waiting)
	require.EqualValues(t, "worker", task.Waiting.For)
	require.Equal(t, "no worker runs; start one: neuronmill worker", task.Waiting.Reason)

	res := b.call(http.MethodGet, task.URLs.Self, "")
	require.Equal(t, `"pending-0"`, res.Header.Get("ETag"))
	var same taskBody
	res.into(t, &same)
	require.Equal(t, task.Waiting.Reason, same.Waiting.Reason)

	unchanged := b.call(http.MethodGet, task.URLs.Self, "", `If-None-Match: "x", W/"pending-0"`)
	require.Equal(t, http.StatusNotModified, unchanged.StatusCode)
	require.Equal(t, `"pending-0"`, unchanged.Header.Get("ETag"))
	require.Empty(t, unchanged.body)

	b.call(http.MethodGet, task.URLs.Result, "").problem(t, http.StatusConflict, codeNotEnded)
	b.call(http.MethodPost, task.URLs.Self+"/retry", "").problem(t, http.StatusConflict, codeNotEnded)
	b.call(http.MethodGet, "/v1/tasks/t_nobodys", "").problem(t, http.StatusNotFound, tasks.CodeTaskNotFound)
	b.call(http.MethodGet, "/v1/tasks/a%2Fx", "").problem(t, http.StatusNotFound, tasks.CodeTaskNotFound)
}

func TestATaskThatRunsLaterOrWouldWaitTooLongSaysSo(t *testing.T) {
	b := newBench(t)
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	task := b.submitted(fmt.Sprintf(`{"kind":"text","input":{"prompt":"hi"},"run_at":%q}`, at.Format(time.RFC3339)))
	require.Equal(t, "scheduled", task.State)
	require.EqualValues(t, "schedule", task.Waiting.For)
	require.Equal(t, at, *task.Waiting.Until)
	require.Equal(t, at.Add(72*time.Hour), *task.Deadline)

	res := b.call(http.MethodPost, "/v1/tasks", `{"kind":"text","input":{"prompt":"hi"},"max_wait":"5s"}`)
	require.Contains(t, res.problem(t, http.StatusServiceUnavailable, codeWouldWait).Detail, "no worker runs")
	require.Equal(t, "60", res.Header.Get("Retry-After"))
}

func TestTheSameKeyGivesTheSameTaskAndAnotherBodyIsRefused(t *testing.T) {
	b := newBench(t)
	ids := make([]string, 50)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/v1/tasks", strings.NewReader(goodMorning))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", "order-7")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			defer res.Body.Close()
			var task taskBody
			_ = json.NewDecoder(res.Body).Decode(&task)
			ids[i] = task.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	res := b.call(http.MethodPost, "/v1/tasks", goodMorning, "Idempotency-Key: order-7")
	require.Equal(t, "true", res.Header.Get("Idempotent-Replayed"))
	b.call(http.MethodPost, "/v1/tasks", strings.Replace(goodMorning, "morning", "night", 1), "Idempotency-Key: order-7").
		problem(t, http.StatusConflict, tasks.CodeIdempotencyMismatch)
	b.call(http.MethodPost, "/v1/tasks", strings.Replace(goodMorning, "{", `{"key":"other",`, 1), "Idempotency-Key: order-7").
		problem(t, http.StatusBadRequest, tasks.CodePayloadInvalid)
}

func TestABatchAnswersForEachTask(t *testing.T) {
	b := newBench(t)
	body := `{"tasks":[` + goodMorning + `,{"kind":"text","input":{"prompt":""}},{"kind":"nothing","input":{}},` + goodMorning + `]}`
	res := b.call(http.MethodPost, "/v1/tasks:batch", body, "Idempotency-Key: import-1")
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", res.body)
	var many batchBody
	res.into(t, &many)
	require.Equal(t, 2, many.Accepted)
	require.Equal(t, 2, many.Refused)
	require.Equal(t, "input.prompt", many.Items[1].Problem.Errors[0].Field)
	require.Equal(t, "kind", many.Items[2].Problem.Errors[0].Field)
	require.NotEqual(t, many.Items[0].ID, many.Items[3].ID)
	var again batchBody
	b.call(http.MethodPost, "/v1/tasks:batch", body, "Idempotency-Key: import-1").into(t, &again)
	require.True(t, again.Items[0].Replayed)
	require.Equal(t, many.Items[0].ID, again.Items[0].ID)
}

func TestTasksAreListedPageByPage(t *testing.T) {
	b := newBench(t)
	for i := range 5 {
		b.submitted(fmt.Sprintf(`{"kind":"text","input":{"prompt":"number %d"},"metadata":{"odd":"%v"}}`, i, i%2 == 1))
	}
	b.submitted(goodMorning)
	pages := func(query string) (ids map[string]bool) {
		ids = map[string]bool{}
		for cursor := ""; ; {
			res := b.call(http.MethodGet, "/v1/tasks?limit=2&"+query+"&cursor="+cursor, "")
			require.Equal(t, http.StatusOK, res.StatusCode, "%s", res.body)
			var page listBody
			res.into(t, &page)
			require.LessOrEqual(t, len(page.Tasks), 2)
			for _, task := range page.Tasks {
				ids[task.ID] = true
			}
			if cursor = page.Next; cursor == "" {
				return ids
			}
		}
	}
	require.Len(t, pages(""), 6)
	require.Len(t, pages("kind=text&state=pending"), 5)
	require.Len(t, pages("metadata=odd:true"), 2)
	require.Empty(t, pages("model=@cf/baai/bge-m3"))
	var first listBody
	b.call(http.MethodGet, "/v1/tasks?limit=2", "").into(t, &first)
	b.call(http.MethodGet, "/v1/tasks?limit=2&kind=text&cursor="+first.Next, "").problem(t, http.StatusBadRequest, codeCursorInvalid)
}

func TestEndedTasksAreListedNewestFirst(t *testing.T) {
	b := newBench(t)
	ended := time.Now().UTC().Add(-time.Minute).Truncate(time.Millisecond)
	entry := func(i int, status tasks.Status, code string) index.Entry {
		return index.Entry{ID: fmt.Sprintf("t_%d", i), Status: status, Kind: tasks.KindText, Lane: tasks.Bulk, Model: "@cf/a/b", Code: code, FinishedAt: ended.Add(time.Duration(i) * time.Second)}
	}
	all := &index.Index{Redis: b.cfg.Redis}
	require.NoError(t, all.Add(t.Context(), "default", entry(1, tasks.Completed, ""), entry(2, tasks.Failed, tasks.CodeDeadlineExceeded), entry(3, tasks.Completed, "")))
	require.NoError(t, all.Add(t.Context(), "other", entry(4, tasks.Completed, "")))
	list := func(query string) (page listBody) {
		res := b.call(http.MethodGet, "/v1/tasks?"+query, "")
		require.Equal(t, http.StatusOK, res.StatusCode, "%s", res.body)
		res.into(t, &page)
		return page
	}
	ids := func(page listBody) (ids []string) {
		for _, task := range page.Tasks {
			ids = append(ids, task.ID)
		}
		return ids
	}
	first := list("state=ended&limit=2")
	require.Equal(t, []string{"t_3", "t_2"}, ids(first))
	require.Equal(t, []string{"t_1"}, ids(list("state=ended&limit=2&cursor="+first.Next)))
	require.Equal(t, []string{"t_3", "t_1"}, ids(list("state=completed")))
	failed := list("state=failed&code=deadline_exceeded").Tasks
	require.Len(t, failed, 1)
	require.Equal(t, "failed", failed[0].State)
	require.Equal(t, tasks.CodeDeadlineExceeded, failed[0].Error.Code)
	require.NotEmpty(t, failed[0].Error.Message)
	require.Equal(t, ended.Add(2*time.Second), *failed[0].FinishedAt)
	require.Empty(t, list("state=ended&kind=image").Tasks)
	require.Equal(t, []string{"t_3"}, ids(list("state=ended&since="+ended.Add(3*time.Second).Format(time.RFC3339Nano))))
	b.call(http.MethodGet, "/v1/tasks?state=completed&cursor="+first.Next, "").problem(t, http.StatusBadRequest, codeCursorInvalid)
	b.call(http.MethodGet, "/v1/tasks?state=ended&metadata=a:b", "").problem(t, http.StatusBadRequest, codeParameter)
	b.call(http.MethodGet, "/v1/tasks?code=poisoned", "").problem(t, http.StatusBadRequest, codeParameter)
}

func TestAnEndedTaskHasItsResultInEachForm(t *testing.T) {
	b := newBench(t)
	task := b.submitted(`{"kind":"image","input":{"prompt":"a mill"}}`)
	picture := strings.Repeat("picture ", 100)
	key := objects.ArtefactKey("default", task.ID, "image.png")
	require.NoError(t, b.store.Put(t.Context(), key, strings.NewReader(picture), "image/png"))
	b.end(task.ID, tasks.Result{
		Kind: tasks.KindImage, Status: tasks.Completed, Model: task.Model, Output: json.RawMessage(`{"width":1}`),
		Artefacts: []tasks.Artefact{{Key: key, ContentType: "image/png", Bytes: int64(len(picture)), SHA256: "abc"}},
	})
	var ended taskBody
	b.call(http.MethodGet, task.URLs.Self+"?wait=30", "").into(t, &ended)
	require.Equal(t, "completed", ended.State)
	require.Nil(t, ended.Waiting)
	require.JSONEq(t, `{"width":1}`, string(ended.Output))

	whole := b.call(http.MethodGet, task.URLs.Result, "")
	require.Equal(t, picture, string(whole.body))
	require.Equal(t, "image/png", whole.Header.Get("Content-Type"))
	part := b.call(http.MethodGet, task.URLs.Result+"?format=png", "", "Range: bytes=8-14")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	require.Equal(t, "picture", string(part.body))
	require.Equal(t, http.StatusNotModified, b.call(http.MethodGet, task.URLs.Result, "", `If-None-Match: "abc"`).StatusCode)
	b.call(http.MethodGet, task.URLs.Result, "", "Range: bytes=0-,0-").problem(t, http.StatusRequestedRangeNotSatisfiable, codeRange)
	b.call(http.MethodGet, task.URLs.Result, "", "Range: bytes=9000-").problem(t, http.StatusRequestedRangeNotSatisfiable, codeRange)
	var document tasks.Result
	b.call(http.MethodGet, task.URLs.Result+"?format=json", "").into(t, &document)
	require.Equal(t, task.ID, document.ID)
	b.call(http.MethodGet, task.URLs.Result+"?format=vtt", "").problem(t, http.StatusBadRequest, codeParameter)
	b.call(http.MethodDelete, task.URLs.Self, "").problem(t, http.StatusConflict, tasks.CodeTaskEnded)
	b.call(http.MethodPost, task.URLs.Self+"/retry", "").problem(t, http.StatusConflict, codeNotFailed)
}

func TestATaskIsCancelledCopiedAndRetried(t *testing.T) {
	b := newBench(t)
	task := b.submitted(goodMorning)
	copied := b.call(http.MethodPost, task.URLs.Self+"/copy", `{"input":{"target_lang":"de"},"metadata":{"order":null}}`, "Content-Type: application/merge-patch+json")
	require.Equal(t, http.StatusAccepted, copied.StatusCode, "%s", copied.body)
	var other taskBody
	copied.into(t, &other)
	require.Equal(t, map[string]string{"copied_from": task.ID}, other.Metadata)
	info, err := b.client("default").Get(t.Context(), other.ID)
	require.NoError(t, err)
	require.JSONEq(t, `{"text":"Good morning","target_lang":"de"}`, string(info.Payload))

	res := b.call(http.MethodDelete, task.URLs.Self, "")
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	var cancelling taskBody
	res.into(t, &cancelling)
	require.Equal(t, "cancelling", cancelling.State)

	failed := info.Task
	b.end(other.ID, tasks.Result{Kind: failed.Kind, Status: tasks.Failed, Model: failed.Model, Error: &tasks.TaskError{Code: tasks.CodeInferenceTimeout, Message: "too slow"}})
	first, second := b.call(http.MethodPost, other.URLs.Self+"/retry", ""), b.call(http.MethodPost, other.URLs.Self+"/retry", "")
	require.Equal(t, http.StatusAccepted, first.StatusCode, "%s", first.body)
	require.Equal(t, first.Header.Get("Location"), second.Header.Get("Location"))
	require.Equal(t, "true", second.Header.Get("Idempotent-Replayed"))
}
