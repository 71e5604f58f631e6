package api

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// form encodes parts: name, text, name, text... A part "file" is a file.
func form(t *testing.T, parts ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		var part io.Writer
		var err error
		if parts[i] == "file" {
			part, err = w.CreateFormFile("file", "../../a\r\nb.wav")
		} else {
			part, err = w.CreateFormField(parts[i])
		}
		require.NoError(t, err)
		_, err = io.WriteString(part, parts[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String(), w.FormDataContentType()
}

func (b *bench) objects() (keys []string) {
	for info, err := range b.store.List(b.t.Context(), "default/files/", "") {
		require.NoError(b.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func TestARecordingIsUploadedWithItsFieldsInAnyOrder(t *testing.T) {
	b := newBench(t)
	wav := string(workersaitest.SampleWAV())
	ids := map[string]bool{}
	for _, parts := range [][]string{
		{"file", wav, "task", `{"input":{"language":"en"}}`},
		{"task", `{"input":{"language":"en"}}`, "file", wav},
	} {
		body, contentType := form(t, parts...)
		res := b.call(http.MethodPost, "/v1/transcriptions", body, "Content-Type: "+contentType, "Idempotency-Key: call-7")
		require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", res.body)
		var task taskBody
		res.into(t, &task)
		require.Equal(t, tasks.KindTranscription, task.Kind)
		ids[task.ID] = true
	}
	require.Len(t, ids, 1, "the same upload under the same key is the same task")
	require.Len(t, b.objects(), 1, "and its second recording is deleted")
	require.Regexp(t, `^default/files/[0-9a-f-]{36}\.wav$`, b.objects()[0])

	body, contentType := form(t, "task", `{"input":{"language":"de"}}`, "file", wav)
	b.call(http.MethodPost, "/v1/transcriptions", body, "Content-Type: "+contentType, "Idempotency-Key: call-7").
		problem(t, http.StatusConflict, tasks.CodeIdempotencyMismatch)
}

func TestARefusedRecordingLeavesNothingBehind(t *testing.T) {
	b := newBench(t)
	wav := string(workersaitest.SampleWAV())
	for name, c := range map[string]struct {
		parts  []string
		status int
		code   string
	}{
		"no file":        {[]string{"task", "{}"}, http.StatusBadRequest, tasks.CodePayloadInvalid},
		"two files":      {[]string{"file", wav, "file", wav}, http.StatusBadRequest, tasks.CodePayloadInvalid},
		"an empty file":  {[]string{"file", ""}, http.StatusUnsupportedMediaType, tasks.CodeUnsupportedMedia},
		"HTML":           {[]string{"file", "<html>" + strings.Repeat("x", 1000)}, http.StatusUnsupportedMediaType, tasks.CodeUnsupportedMedia},
		"unknown field":  {[]string{"file", wav, "file_name_that_nobody_knows", "x"}, http.StatusBadRequest, codeUnknownField},
		"wrong language": {[]string{"file", wav, "task", `{"input":{"language":"klingonese"}}`}, http.StatusBadRequest, tasks.CodePayloadInvalid},
		"broken JSON":    {[]string{"file", wav, "task", `{"input":`}, http.StatusBadRequest, codeInvalidJSON},
	} {
		body, contentType := form(t, c.parts...)
		b.call(http.MethodPost, "/v1/transcriptions", body, "Content-Type: "+contentType).problem(t, c.status, c.code)
		require.Empty(t, b.objects(), name)
	}
	body, contentType := form(t, "file", wav)
	b.call(http.MethodPost, "/v1/transcriptions", body[:len(body)-40], "Content-Type: "+contentType).problem(t, http.StatusBadRequest, codeBodyBroken)
	require.Empty(t, b.objects(), "cut off")
}

func TestAFileIsUploadedForLater(t *testing.T) {
	b := newBench(t)
	res := b.call(http.MethodPut, "/v1/uploads", string(workersaitest.SampleWAV()), "Content-Type: audio/wav")
	require.Equal(t, http.StatusCreated, res.StatusCode, "%s", res.body)
	var up uploadBody
	res.into(t, &up)
	b.submitted(`{"kind":"transcription","input":{"audio":{"key":"` + up.Key + `"}}}`)
	b.call(http.MethodPut, "/v1/uploads", "").problem(t, http.StatusBadRequest, codeEmptyBody)
}

func TestTheFleetIsDescribed(t *testing.T) {
	b := newBench(t)
	b.submitted(goodMorning)
	require.NoError(t, b.cfg.Gate.Set(t.Context(), "@cf/baai/bge-m3", 0))
	text := b.call(http.MethodGet, "/v1/health/report", "", "Accept: text/plain")
	require.Contains(t, string(text.body), "translation:interactive: no worker runs; start one: neuronmill worker; 1 task waits for it.")
	require.Contains(t, string(b.call(http.MethodGet, "/v1/health/report", "", "Accept: text/markdown").body), "**translation:interactive")
	require.Contains(t, string(b.call(http.MethodGet, "/v1/health/report", "").body), `"healthy":false`)
	require.Contains(t, string(b.call(http.MethodGet, "/v1/gates", "").body), `"name":"@cf/baai/bge-m3","state":"closed"`)
	require.JSONEq(t, `{"workers":[]}`, string(b.call(http.MethodGet, "/v1/workers", "").body))
	require.Contains(t, string(b.call(http.MethodGet, "/v1/scaling", "").body), `"workers":1,"running":0,"waiting":1`)
	measured := string(b.call(http.MethodGet, "/metrics", "").body)
	require.Contains(t, measured, "\n"+`neuronmill_workers_wanted{kind="translation"} 1`+"\n")
	require.Contains(t, measured, "\n"+`neuronmill_tasks_accepted_total{kind="translation",lane="interactive",surface="http"} 1`+"\n")
	require.Contains(t, measured, "\n"+`neuronmill_gate_state{model="@cf/baai/bge-m3",state="closed"} 1`+"\n")

	before := len(b.objects())
	res := b.call(http.MethodPost, "/v1/plan", `{"tasks":[`+goodMorning+`,{"kind":"text","input":{}}]}`)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", res.body)
	var plan planBody
	res.into(t, &plan)
	require.Equal(t, 1, plan.Valid)
	require.Positive(t, plan.Neurons)
	require.NotNil(t, plan.Items[0].Waiting)
	require.Equal(t, tasks.CodePayloadInvalid, plan.Items[1].Problem.Code)
	require.Len(t, b.objects(), before)
}
