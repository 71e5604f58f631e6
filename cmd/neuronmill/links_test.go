package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// bucketLink is a link to the bucket as a caller gets it.
type bucketLink struct {
	Key, Method, URL string
	Headers          map[string]string
	Bytes            int64
	ContentType      string `json:"content_type"`
}

// ask calls a route and decodes its answer.
func (s site) ask(method, path, body string, status int, into any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, status, res.StatusCode, "%s", all)
	require.NoError(s.t, json.Unmarshal(all, into), "%s", all)
}

// follow sends the request of a link, without any key.
func (l bucketLink) follow(t *testing.T, body []byte) (status int, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), l.Method, l.URL, bytes.NewReader(body))
	require.NoError(t, err)
	for name, value := range l.Headers {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, answer
}

func TestFilesGoStraightToAndFromTheBucketByLinks(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	address := realtest.FreeAddr(t)
	f.start("serve", "--listen", address)
	f.start("worker", "--concurrency", "2")
	realtest.WaitTCP(t, address)
	s := site{t, "http://" + address}
	wav := workersaitest.SampleWAV()

	var up bucketLink
	s.ask(http.MethodPost, "/v1/uploads:presign", fmt.Sprintf(`{"bytes":%d,"content_type":"audio/wav"}`, len(wav)), http.StatusCreated, &up)
	require.Regexp(t, `^default/files/[0-9a-f-]{36}$`, up.Key)
	status, answer := up.follow(t, wav)
	require.Equal(t, http.StatusOK, status, "%s", answer)
	status, _ = up.follow(t, wav)
	require.Equal(t, http.StatusPreconditionFailed, status, "a link works once")

	wait := func(kind, input string) string {
		var task httpTask
		s.ask(http.MethodPost, "/v1/tasks", fmt.Sprintf(`{"kind":%q,"input":%s}`, kind, input), http.StatusAccepted, &task)
		s.ask(http.MethodGet, "/v1/tasks/"+task.ID+"?wait=60", "", http.StatusOK, &task)
		require.Equal(t, "completed", task.State)
		return task.ID
	}
	spoken := wait("transcription", fmt.Sprintf(`{"audio":{"key":%q}}`, up.Key))
	var down bucketLink
	s.ask(http.MethodGet, "/v1/tasks/"+spoken+"/result?link=true&format=vtt", "", http.StatusOK, &down)
	status, answer = down.follow(t, nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, string(answer), "WEBVTT")
	require.EqualValues(t, len(answer), down.Bytes)

	picture := wait("image", `{"prompt":"a mill"}`)
	s.ask(http.MethodGet, "/v1/tasks/"+picture+"/result?link=true", "", http.StatusOK, &down)
	require.Regexp(t, "^image/", down.ContentType)
	status, answer = down.follow(t, nil)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, down.ContentType, http.DetectContentType(answer))
	s.ask(http.MethodGet, "/v1/tasks/"+picture+"/result?link=true&format=json", "", http.StatusOK, &down)
	_, answer = down.follow(t, nil)
	var document tasks.Result
	require.NoError(t, json.Unmarshal(answer, &document))
	require.Equal(t, picture, document.ID)

	var fake bucketLink
	s.ask(http.MethodPost, "/v1/uploads:presign", `{"bytes":5}`, http.StatusCreated, &fake)
	status, _ = fake.follow(t, []byte("words"))
	require.Equal(t, http.StatusOK, status)
	var task struct {
		ID    string
		Error tasks.TaskError
	}
	s.ask(http.MethodPost, "/v1/tasks", fmt.Sprintf(`{"kind":"transcription","input":{"audio":{"key":%q}}}`, fake.Key), http.StatusAccepted, &task)
	s.ask(http.MethodGet, "/v1/tasks/"+task.ID+"?wait=60", "", http.StatusOK, &task)
	require.Equal(t, tasks.CodeUnsupportedMedia, task.Error.Code, "the content is checked as that of any upload")
}
