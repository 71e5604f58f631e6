package openaiapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/internal/openaibatch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// drive runs the drivers of batches until stop is called.
func (s *stage) drive() (stop func()) {
	log := slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	runner := &openaibatch.Runner{Webhooks: &webhook.Queue{Redis: s.redis}, Lines: 100, Log: log}
	service := runner.Service(&batch.Service{Redis: s.redis, Store: s.store, Log: log})
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(s.t, <-done)
	}
}

// uploading makes a request that uploads a file. fields are names and values in turn; they
// come before the file, as openai-go sends them.
func uploading(t *testing.T, name, content string, fields ...string) *http.Request {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		require.NoError(t, form.WriteField(fields[i], fields[i+1]))
	}
	part, err := form.CreateFormFile("file", name)
	require.NoError(t, err)
	_, err = part.Write([]byte(content))
	require.NoError(t, err)
	require.NoError(t, form.Close())
	return request(http.MethodPost, "/v1/files", body.String(), "Content-Type", form.FormDataContentType())
}

type fileBody struct {
	ID, Object, Filename, Purpose, Status string
	Bytes, CreatedAt, ExpiresAt           int64
}

func into[T any](t *testing.T, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	require.Equal(t, 200, w.Code, w.Body.String())
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

func (s *stage) upload(content string) string {
	s.t.Helper()
	return into[fileBody](s.t, s.serve(uploading(s.t, "in.jsonl", content, "purpose", "batch"))).ID
}

func (s *stage) get(route string, headers ...string) *httptest.ResponseRecorder {
	return s.serve(request(http.MethodGet, route, "", headers...))
}

func (s *stage) create(endpoint, file string, headers ...string) openaibatch.Object {
	s.t.Helper()
	return into[openaibatch.Object](s.t, s.post("/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":%q,"completion_window":"24h","metadata":{"night":"1"}}`, file, endpoint), headers...))
}

// ended waits for the end of a batch.
func (s *stage) ended(id string) openaibatch.Object {
	s.t.Helper()
	for range 3600 {
		o := into[openaibatch.Object](s.t, s.get("/v1/batches/"+id))
		switch o.Status {
		case "completed", "failed", "cancelled", "expired":
			return o
		}
		time.Sleep(time.Second)
	}
	require.Fail(s.t, "the batch does not end")
	return openaibatch.Object{}
}

// outLine is a line of a result file.
type outLine struct {
	ID       string
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       map[string]any
	}
	Error *struct{ Code, Message string }
}

func (s *stage) lines(file *string) (lines []outLine) {
	s.t.Helper()
	if file == nil {
		return nil
	}
	w := s.get("/v1/files/" + *file + "/content")
	require.Equal(s.t, 200, w.Code, w.Body.String())
	for text := range strings.Lines(w.Body.String()) {
		var l outLine
		require.NoError(s.t, json.Unmarshal([]byte(text), &l), text)
		lines = append(lines, l)
	}
	return lines
}

func embedLine(id, text string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/embeddings","body":{"model":"bge-m3","input":%q}}`, id, text) + "\n"
}

func chatLine(id, text string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"glm-4.7-flash","messages":[{"role":"user","content":%q}]}}`, id, text) + "\n"
}

func TestABatchRunsFromUploadToOutput(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		defer s.drive()()
		s.emulator.Fault(workersaitest.Fault{Contains: "long", Code: 5021})
		o := s.create(openai.Chat, s.upload(chatLine("a", "Hello")+chatLine("b", "long")+
			`{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"model":"glm-4.7-flash","messages":[{"role":"user","content":"x"}],"n":2}}`+"\n"+chatLine("d", "Bye")))
		require.Equal(t, "validating", o.Status)
		require.Equal(t, openaibatch.RequestCounts{}, o.RequestCounts)
		require.Nil(t, o.InProgressAt)
		o = s.ended(o.ID)
		require.Equal(t, "completed", o.Status)
		require.Equal(t, openaibatch.RequestCounts{Total: 4, Completed: 2, Failed: 2}, o.RequestCounts)
		require.Equal(t, "@cf/zai-org/glm-4.7-flash", o.Model)
		require.Equal(t, map[string]string{"night": "1"}, o.Metadata)
		require.Positive(t, o.Usage.TotalTokens)
		require.NotNil(t, o.InProgressAt)
		require.NotNil(t, o.FinalizingAt)
		require.NotNil(t, o.CompletedAt)

		good := s.lines(o.OutputFileID)
		require.Len(t, good, 2)
		require.Equal(t, []string{"a", "d"}, []string{good[0].CustomID, good[1].CustomID}, "in the order of the input")
		require.Equal(t, 200, good[0].Response.StatusCode)
		require.Nil(t, good[0].Error)
		require.Equal(t, "chat.completion", good[0].Response.Body["object"])
		bad := s.lines(o.ErrorFileID)
		require.Len(t, bad, 2)
		require.Equal(t, "context_length_exceeded", bad[0].Response.Body["error"].(map[string]any)["code"])
		require.Equal(t, "n", bad[1].Response.Body["error"].(map[string]any)["param"])
		require.Equal(t, 400, bad[1].Response.StatusCode)
		require.Nil(t, bad[1].Error, "there was a response")
	})
}

func TestEachEndpointHasItsResponsesInABatch(t *testing.T) {
	line := func(url, body string) string {
		return fmt.Sprintf(`{"custom_id":"a","method":"POST","url":%q,"body":%s}`, url, body)
	}
	onStage(t, nil, func(t *testing.T, s *stage) {
		defer s.drive()()
		for endpoint, c := range map[string]struct{ body, member string }{
			openai.Embeddings:       {`{"model":"bge-m3","input":["a","b"],"encoding_format":"base64"}`, "data"},
			openai.Images:           {`{"model":"flux-1-schnell","prompt":"a mill"}`, "data"},
			openai.Responses:        {`{"model":"glm-4.7-flash","instructions":"Be brief.","input":"Name a river"}`, "output"},
			openai.TextTranslations: {`{"text":"Guten Tag","source_lang":"de","target_lang":"en"}`, "translated_text"},
			openai.Chat:             {`{"model":"glm-4.7-flash","messages":[{"role":"user","content":"Weather?"}],"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}]}`, "choices"},
		} {
			o := s.ended(s.create(endpoint, s.upload(line(endpoint, c.body))).ID)
			require.Equal(t, "completed", o.Status, "%s: %+v", endpoint, o.Errors)
			lines := s.lines(o.OutputFileID)
			require.Len(t, lines, 1, "%s: %+v", endpoint, s.lines(o.ErrorFileID))
			require.Contains(t, lines[0].Response.Body, c.member)
			require.Nil(t, o.ErrorFileID)
		}
	})
}

func TestAFileWithFaultyLinesIsRefusedWithTheirNumbers(t *testing.T) {
	body := `"body":{"model":"bge-m3","input":"x"}}`
	for name, c := range map[string]struct {
		file, code, param string
		line              int
	}{
		"only blank lines":    {"\n  \n\r\n", "empty_file", "", 0},
		"no JSON":             {embedLine("a", "x") + "{'a':1}\n", "invalid_json_line", "", 2},
		"a trailing comma":    {`{"custom_id":"a",}`, "invalid_json_line", "", 1},
		"NaN":                 {`{"custom_id":NaN}`, "invalid_json_line", "", 1},
		"a list":              {`[]`, "invalid_request", "", 1},
		"a field twice":       {`{"custom_id":"a","custom_id":"b"}`, "invalid_json_line", "", 1},
		"a broken byte":       {"{\"custom_id\":\"\xff\"}", "invalid_utf8", "", 1},
		"a lone surrogate":    {`{"custom_id":"\ud800"}`, "invalid_utf8", "", 1},
		"a mark in between":   {embedLine("a", "x") + "\xEF\xBB\xBF" + embedLine("b", "x"), "invalid_json_line", "", 2},
		"a number as id":      {`{"custom_id":1,` + body, "invalid_request", "", 1},
		"another case":        {`{"CUSTOM_ID":"a","method":"POST","url":"/v1/embeddings",` + body, "missing_required_parameter", "custom_id", 1},
		"NUL in the id":       {embedLine("a\x00", "x"), "invalid_json_line", "", 1},
		"an invisible letter": {`{"custom_id":"a\u202e","method":"POST","url":"/v1/embeddings",` + body, "invalid_custom_id", "custom_id", 1},
		"no method":           {`{"custom_id":"a","url":"/v1/embeddings",` + body, "missing_required_parameter", "method", 1},
		"another method":      {`{"custom_id":"a","method":"GET","url":"/v1/embeddings",` + body, "invalid_method", "method", 1},
		"another url":         {chatLine("a", "x"), "url_mismatch", "url", 1},
		"no body":             {`{"custom_id":"a","method":"POST","url":"/v1/embeddings"}`, "missing_required_parameter", "body", 1},
		"an id twice":         {embedLine("a", "x") + "\n" + embedLine("a", "y"), "duplicate_custom_id", "custom_id", 3},
		"an unknown model":    {`{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"gpt","input":"x"}}`, "model_not_found", "body.model", 1},
		"a huge line":         {embedLine("a", strings.Repeat("x", 1<<20)) + embedLine("b", "x"), "line_too_large", "", 1},
		"too many lines":      {strings.Repeat("x\n", 101), "too_many_tasks", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, nil, func(t *testing.T, s *stage) {
				defer s.drive()()
				o := s.ended(s.create(openai.Embeddings, s.upload(c.file)).ID)
				require.Equal(t, "failed", o.Status)
				require.NotNil(t, o.FailedAt)
				require.Nil(t, o.OutputFileID)
				require.Equal(t, "list", o.Errors.Object)
				e := o.Errors.Data[0]
				require.Equal(t, c.code, e.Code, e.Message)
				if c.line > 0 {
					require.Equal(t, c.line, *e.Line)
				} else {
					require.Nil(t, e.Line)
				}
				if c.param != "" {
					require.Equal(t, c.param, *e.Param)
				}
				require.Empty(t, s.emulator.Requests())
			})
		})
	}
}

func TestLinesInEveryUsualFormAreTaken(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		defer s.drive()()
		file := "\xEF\xBB\xBF" + strings.ReplaceAll(embedLine("a", "x"), "\n", "\r\n") + "\n\n" + embedLine("b", strings.Repeat("x", 70_000)) + strings.TrimSpace(embedLine("c", "z"))
		o := s.ended(s.create(openai.Embeddings, s.upload(file)).ID)
		require.Equal(t, "completed", o.Status, "%+v", o.Errors)
		require.Equal(t, 3, o.RequestCounts.Total)
	})
}

func TestACancelledBatchKeepsWhatCompletedAndListsTheRest(t *testing.T) {
	onStage(t, map[string]int{"text": 6}, func(t *testing.T, s *stage) {
		defer s.drive()()
		var file strings.Builder
		for i := range 50 {
			file.WriteString(chatLine(fmt.Sprint(i), "Hello"))
		}
		o := s.create(openai.Chat, s.upload(file.String()))
		time.Sleep(30 * time.Second)
		require.Equal(t, "in_progress", into[openaibatch.Object](t, s.get("/v1/batches/"+o.ID)).Status)
		for range 2 {
			require.Equal(t, "cancelling", into[openaibatch.Object](t, s.post("/v1/batches/"+o.ID+"/cancel", "")).Status)
		}
		o = s.ended(o.ID)
		require.Equal(t, "cancelled", o.Status)
		require.NotNil(t, o.CancellingAt)
		good, bad := s.lines(o.OutputFileID), s.lines(o.ErrorFileID)
		require.NotEmpty(t, good)
		require.NotEmpty(t, bad)
		require.Len(t, append(good, bad...), 50)
		require.Equal(t, openaibatch.RequestCounts{Total: 50, Completed: len(good), Failed: len(bad)}, o.RequestCounts)
		require.Nil(t, bad[0].Response)
		require.Equal(t, "batch_cancelled", bad[0].Error.Code)
		require.Equal(t, "cancelled", into[openaibatch.Object](t, s.post("/v1/batches/"+o.ID+"/cancel", "")).Status)
	})
}

func TestABatchIsCancelledBeforeItsFileWasReadAndExpires(t *testing.T) {
	onStage(t, map[string]int{"text": 1}, func(t *testing.T, s *stage) {
		one := s.create(openai.Chat, s.upload(chatLine("a", "Hello")))
		require.Equal(t, "cancelling", into[openaibatch.Object](t, s.post("/v1/batches/"+one.ID+"/cancel", "")).Status)
		defer s.drive()()
		require.Equal(t, "cancelled", s.ended(one.ID).Status)

		file := s.upload(strings.Repeat(chatLine("a", "Hello"), 1) + chatLine("b", "Hello") + chatLine("c", "Hello") + chatLine("d", "Hello"))
		o := into[openaibatch.Object](t, s.post("/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/chat/completions","completion_window":"2m"}`, file)))
		o = s.ended(o.ID)
		require.Equal(t, "expired", o.Status)
		require.NotNil(t, o.ExpiredAt)
		bad := s.lines(o.ErrorFileID)
		require.Equal(t, 4, len(bad)+len(s.lines(o.OutputFileID)))
		require.Equal(t, "batch_expired", bad[0].Error.Code)
		w := s.post("/v1/batches/"+o.ID+"/cancel", "")
		s.requireRefused(w, 409, "")
		require.Equal(t, "false", w.Header().Get("x-should-retry"))
	})
}

func TestSilentRepetitionsMakeOneBatchAndOneFile(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		up := func(count string) string {
			r := uploading(t, "in.jsonl", embedLine("a", "x"), "purpose", "batch")
			r.Header.Set("X-Stainless-Retry-Count", count)
			return into[fileBody](t, s.serve(r)).ID
		}
		file := up("0")
		require.Equal(t, file, up("1"))
		one := s.create(openai.Embeddings, file, "X-Stainless-Retry-Count", "0")
		require.Equal(t, one.ID, s.create(openai.Embeddings, file, "X-Stainless-Retry-Count", "1").ID)
		require.Equal(t, one.ID, s.create(openai.Embeddings, file, "X-Stainless-Retry-Count", "2").ID)
		require.NotEqual(t, one.ID, s.create(openai.Embeddings, file, "X-Stainless-Retry-Count", "0").ID, "another request")
		require.NotEqual(t, file, up("0"))
		own := s.create(openai.Embeddings, file, "Idempotency-Key", "mine")
		require.Equal(t, own.ID, s.create(openai.Embeddings, file, "Idempotency-Key", "mine").ID)
		s.requireRefused(s.post("/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/embeddings","completion_window":"48h"}`, file), "Idempotency-Key", "mine"), 409, "idempotency_mismatch")
	})
}

type page struct {
	Data    []struct{ ID string }
	HasMore bool    `json:"has_more"`
	LastID  *string `json:"last_id"`
}

func TestBatchesAndFilesAreListedInPages(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		file := s.upload(embedLine("a", "x"))
		var made []string
		for range 60 {
			made = append([]string{s.create(openai.Embeddings, file).ID}, made...)
			time.Sleep(time.Millisecond)
		}
		var listed []string
		for after, more := "", true; more; {
			p := into[page](t, s.get("/v1/batches?after="+after))
			require.NotEmpty(t, p.Data)
			for _, o := range p.Data {
				listed = append(listed, o.ID)
			}
			after, more = *p.LastID, p.HasMore
		}
		require.Equal(t, made, listed, "newest first")
		s.requireRefused(s.get("/v1/batches?after=batch_x"), 400, "")
		s.requireRefused(s.get("/v1/batches?limit=101"), 400, "")
		p := into[page](t, s.get("/v1/batches?after="+made[59]))
		require.Empty(t, p.Data)
		require.False(t, p.HasMore)

		second := into[fileBody](t, s.serve(uploading(t, "voice.wav", "x", "purpose", "user_data"))).ID
		ids := func(query string) (ids []string) {
			for _, f := range into[page](t, s.get("/v1/files"+query)).Data {
				ids = append(ids, f.ID)
			}
			return ids
		}
		require.Equal(t, []string{second, file}, ids(""))
		require.Equal(t, []string{file, second}, ids("?order=asc"))
		require.Equal(t, []string{file}, ids("?purpose=batch"))
		require.Equal(t, []string{second}, ids("?limit=1"))
		require.Equal(t, []string{file}, ids("?after="+second))
		require.Equal(t, []string{second}, ids("?order=asc&after="+file))
	})
}

func TestFilesAreReadInPartsAndDeletedOnce(t *testing.T) {
	realtest.Long(t)
	onStage(t, nil, func(t *testing.T, s *stage) {
		content := embedLine("a", "x")
		id := s.upload(content)
		w := s.get("/v1/files/"+id+"/content", "Accept", "application/binary")
		require.Equal(t, content, w.Body.String())
		w = s.get("/v1/files/"+id+"/content", "Range", "bytes=2-5")
		require.Equal(t, 206, w.Code)
		require.Equal(t, content[2:6], w.Body.String())
		s.requireRefused(s.get("/v1/files/"+id+"/content", "Range", "bytes=9999999-"), 416, "")
		s.requireRefused(s.get("/v1/files/"+id+"/content", "Range", "bytes=0-1,3-4"), 416, "")
		for _, route := range []string{"/v1/files/" + id, "/v1/files/" + id + "/content"} {
			s.requireRefused(s.get(route, "Authorization", "Bearer other"), 404, "not_found")
		}
		s.requireRefused(s.serve(request(http.MethodDelete, "/v1/files/"+id, "", "Authorization", "Bearer other")), 404, "not_found")
		s.requireRefused(s.post("/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/embeddings","completion_window":"24h"}`, id), "Authorization", "Bearer other"), 404, "not_found")
		o := s.create(openai.Embeddings, id)
		s.requireRefused(s.get("/v1/batches/"+o.ID, "Authorization", "Bearer other"), 404, "not_found")
		s.requireRefused(s.post("/v1/batches/"+o.ID+"/cancel", "", "Authorization", "Bearer other"), 404, "not_found")

		require.Contains(t, s.serve(request(http.MethodDelete, "/v1/files/"+id, "")).Body.String(), `"deleted":true`)
		s.requireRefused(s.serve(request(http.MethodDelete, "/v1/files/"+id, "")), 404, "not_found")
		defer s.drive()()
		o = s.ended(o.ID)
		require.Equal(t, "failed", o.Status)
		require.Equal(t, "input_file_not_found", o.Errors.Data[0].Code)

		id = into[fileBody](t, s.serve(uploading(t, "in.jsonl", content, "purpose", "batch", "expires_after[anchor]", "created_at", "expires_after[seconds]", "3600"))).ID
		time.Sleep(time.Hour)
		s.requireRefused(s.get("/v1/files/"+id), 404, "not_found")
	})
}

func TestFaultyUploadsAndRequestsAreRefusedAndLeaveNothing(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		for _, r := range []*http.Request{
			uploading(t, "in.jsonl", "x"),
			uploading(t, "in.jsonl", "x", "purpose", "other"),
			uploading(t, "in.txt", "x", "purpose", "batch"),
			uploading(t, "in.jsonl", "", "purpose", "batch"),
			uploading(t, "in.jsonl", "x", "purpose", "batch", "expires_after[anchor]", "created_at", "expires_after[seconds]", "60"),
			uploading(t, "in.jsonl", "x", "purpose", "batch", "expires_after[anchor]", "last_active_at", "expires_after[seconds]", "3600"),
		} {
			s.requireRefused(s.serve(r), 400, "")
		}
		s.requireRefused(s.serve(uploading(t, "in.jsonl", "\x1f\x8b\x08\x00", "purpose", "batch")), 415, "compressed_input")
		s.requireRefused(s.post("/v1/files", `{}`), 415, "")
		require.Empty(t, into[page](t, s.get("/v1/files")).Data)
		file := s.upload(embedLine("a", "x"))
		for _, body := range []string{
			`{}`, `[]`, `{"input_file_id":"` + file + `","endpoint":"/v1/embeddings","completion_window":"soon"}`,
			`{"input_file_id":"` + file + `","endpoint":"/v1/moderations","completion_window":"24h"}`,
			`{"input_file_id":"` + file + `","endpoint":"/v1/embeddings","completion_window":"24h","metadata":{"a":1}}`,
			`{"input_file_id":"` + file + `","endpoint":"/v1/embeddings","completion_window":"24h","webhook":"http://127.0.0.1/"}`,
			`{"input_file_id":"` + file + `","endpoint":"/v1/embeddings","completion_window":"24h","output_expires_after":{"anchor":"created_at","seconds":1}}`,
		} {
			s.requireRefused(s.post("/v1/batches", body), 400, "")
		}
		s.requireRefused(s.post("/v1/batches", `{"input_file_id":"file-x","endpoint":"/v1/embeddings","completion_window":"24h"}`), 404, "not_found")
	})
}

func TestABatchWhoseDriverEndsInTheMiddleGoesOnAndIsPaidOnce(t *testing.T) {
	onStage(t, map[string]int{"text": 20}, func(t *testing.T, s *stage) {
		stop := s.drive()
		var file strings.Builder
		for i := range 60 {
			file.WriteString(chatLine(fmt.Sprint(i), fmt.Sprintf("question %d", i)))
		}
		o := s.create(openai.Chat, s.upload(file.String()))
		for range 4 {
			time.Sleep(20 * time.Second)
			stop()
			stop = s.drive()
		}
		defer func() { stop() }()
		o = s.ended(o.ID)
		require.Equal(t, openaibatch.RequestCounts{Total: 60, Completed: 60}, o.RequestCounts)
		for i, l := range s.lines(o.OutputFileID) {
			require.Equal(t, fmt.Sprint(i), l.CustomID)
		}
		require.Len(t, s.emulator.Requests(), 60)
	})
}

func TestTheEndOfABatchIsToldByAWebhook(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		defer s.drive()()
		file := s.upload(embedLine("a", "x"))
		o := into[openaibatch.Object](t, s.post("/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/embeddings","completion_window":"24h","webhook":"https://shop.example/done"}`, file)))
		s.ended(o.ID)
		time.Sleep(time.Second)
		d, err := (&webhook.Queue{Redis: s.redis}).Get(t.Context(), "evt_"+o.ID)
		require.NoError(t, err)
		require.Contains(t, string(d.Body), `"type":"batch.completed"`)
		require.Contains(t, string(d.Body), `"data":{"id":"`+o.ID+`"}`)
	})
}
