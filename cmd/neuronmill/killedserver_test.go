package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// client looks at the tasks beside the servers.
func (f *fleet) client() *tasks.Client {
	return tasks.NewClient(tasks.Config{Redis: f.redis, Store: f.store})
}

// site is a server as its callers see it.
type site struct {
	t   *testing.T
	url string
}

// httpTask is the part of a task that the tests look at.
type httpTask struct {
	ID, State string
	Output    json.RawMessage
}

// send sends a request; headers are names and values in turn. The status is 0 if the
// connection broke.
func (s site) send(ctx context.Context, method, path string, body io.Reader, headers ...string) (status int, task httpTask) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return 0, task
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, task
	}
	defer res.Body.Close()
	if json.NewDecoder(res.Body).Decode(&task) != nil {
		return 0, task
	}
	return res.StatusCode, task
}

// accepted submits a text under a key.
func (s site) accepted(key string) string {
	s.t.Helper()
	status, task := s.send(s.t.Context(), http.MethodPost, "/v1/tasks", strings.NewReader(textTask(key)), "Idempotency-Key", key)
	require.Equal(s.t, http.StatusAccepted, status)
	return task.ID
}

func textTask(about string) string { return `{"kind":"text","input":{"prompt":"about ` + about + `"}}` }

// eventSource follows a task as a browser does: it keeps the id of the last event, and
// sends it when it connects again, wherever that is.
type eventSource struct {
	path, last string
	text       strings.Builder
	seen       []string
}

var errEnd = errors.New("the events have ended")

// read follows until the event until; an empty one means until the end.
func (e *eventSource) read(ctx context.Context, s site, until string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+e.path, nil)
	if err != nil {
		return err
	}
	if e.last != "" {
		req.Header.Set("Last-Event-ID", e.last)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return errEnd
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	var name, data, id string
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			data = value
		case "id":
			id = value
		case "":
			if name == "" {
				continue // a comment
			}
			if id != "" {
				e.last = id
			}
			if e.take(name, data); name == until {
				return nil
			}
			if name == "end" {
				return errEnd
			}
			name, data, id = "", "", ""
		}
	}
	return io.ErrUnexpectedEOF
}

func (e *eventSource) take(name, data string) {
	e.seen = append(e.seen, name)
	var event struct{ Text string }
	_ = json.Unmarshal([]byte(data), &event) // end has no document
	if name == "running" {
		e.text.Reset()
	}
	e.text.WriteString(event.Text)
}

// recording is a form with a recording.
func recording(t *testing.T) (form []byte, contentType string) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreateFormFile("file", "call.wav")
	require.NoError(t, err)
	_, err = part.Write(workersaitest.SampleWAV())
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return body.Bytes(), w.FormDataContentType()
}

// TestAKilledServerLosesNothingThatItAccepted kills a server in the middle of waits, a
// stream and uploads. All requests end, another server answers for each accepted task, and
// nothing is paid twice.
func TestAKilledServerLosesNothingThatItAccepted(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: 5 * time.Second})
	serve := func() (site, func()) {
		address := realtest.FreeAddr(t)
		cmd := f.start("serve", "--listen", address)
		realtest.WaitTCP(t, address)
		return site{t, "http://" + address}, func() {
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
		}
	}
	one, killOne := serve()
	two, _ := serve()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	var ids []string
	for i := range 5 {
		ids = append(ids, one.accepted(fmt.Sprintf("task-%d", i)))
	}
	broken := make(chan int, 5)
	for _, id := range ids[:2] { // two long polls
		go func() {
			status, _ := one.send(ctx, http.MethodGet, "/v1/tasks/"+id+"?wait=60", nil)
			broken <- status
		}()
	}
	go func() { // a submit that waits for its end
		status, _ := one.send(ctx, http.MethodPost, "/v1/tasks", strings.NewReader(textTask("waited")), "Idempotency-Key", "waited", "Prefer", "wait=60")
		broken <- status
	}()
	form, contentType := recording(t)
	var rests []*io.PipeWriter
	half := func(method, path, contentType string) { // an upload whose second half never comes
		body, more := io.Pipe()
		rests = append(rests, more)
		go func() {
			status, _ := one.send(ctx, method, path, body, "Content-Type", contentType)
			broken <- status
		}()
		_, err := more.Write(form[:len(form)/2])
		require.NoError(t, err)
	}
	half(http.MethodPost, "/v1/transcriptions", contentType)
	half(http.MethodPut, "/v1/uploads", "audio/wav")
	stream := &eventSource{path: "/v1/tasks/" + ids[0] + "/events"}
	f.start("worker", "--concurrency", "2")
	require.NoError(t, stream.read(ctx, one, "running"), "its call runs")
	waited := ""
	require.Eventually(t, func() bool {
		pending, err := f.client().List(ctx, tasks.ListFilter{})
		for _, task := range pending {
			if !slices.Contains(ids, task.ID) {
				waited = task.ID
			}
		}
		return err == nil && waited != ""
	}, time.Minute, 50*time.Millisecond, "the submit that waits is accepted")
	ids = append(ids, waited)

	killOne()
	for _, rest := range rests {
		rest.CloseWithError(io.ErrClosedPipe) // net/http waits for its own reader of a body
	}
	for range cap(broken) {
		require.Zero(t, <-broken, "no request got an answer from the killed server")
	}
	require.ErrorIs(t, stream.read(ctx, two, ""), errEnd)
	status, again := two.send(ctx, http.MethodPost, "/v1/tasks", strings.NewReader(textTask("waited")), "Idempotency-Key", "waited", "Prefer", "wait=60")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, waited, again.ID, "the repeated submit gets the same task")
	status, spoken := two.send(ctx, http.MethodPost, "/v1/transcriptions", bytes.NewReader(form), "Content-Type", contentType, "Prefer", "wait=60")
	require.Equal(t, http.StatusOK, status)
	ids = append(ids, spoken.ID)
	for i, id := range ids {
		status, task := two.send(ctx, http.MethodGet, "/v1/tasks/"+id+"?wait=60", nil)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "completed", task.State, id)
		if i == 0 {
			var output struct{ Text string }
			require.NoError(t, json.Unmarshal(task.Output, &output))
			require.Equal(t, output.Text, stream.text.String(), "the stream has the whole text, once: %v", stream.seen)
		}
	}
	require.Len(t, f.results("default/tasks/"), len(ids), "nothing but what was accepted has run")
	require.Len(t, f.calls(), len(ids), "nothing was paid twice")
	uploads := 0
	for info, err := range f.store.List(ctx, "default/files/", "") {
		require.NoError(t, err)
		if !strings.HasPrefix(info.Key, objects.ExpiringPrefix("default")) { // marks that wait for the sweeper
			uploads++
		}
	}
	require.Equal(t, 1, uploads, "the halves of uploads are not there")
}
