package api

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/netip"
	"testing"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestAWebhookIsCheckedAtTheDoorAndKeptInTheTask(t *testing.T) {
	b := newBench(t)
	p := b.call(http.MethodPost, "/v1/tasks", `{"kind":"text","input":{"prompt":"hi"},"webhook":"https://10.0.0.1/secret-path"}`).problem(t, http.StatusBadRequest, tasks.CodePayloadInvalid)
	require.Equal(t, "webhook", p.Errors[0].Field)
	require.NotContains(t, p.Errors[0].Message, "secret-path")
	res := b.call(http.MethodPost, "/v1/tasks", `{"kind":"text","input":{"prompt":"hi"},"webhook":"https://shop.example/done"}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", res.body)
	var accepted struct{ ID string }
	require.NoError(t, json.Unmarshal(res.body, &accepted))
	info, err := b.client("default").Get(t.Context(), accepted.ID)
	require.NoError(t, err)
	require.Equal(t, "https://shop.example/done", info.Webhook)
}

func TestAWebhookMayNameAnAllowedPrivateNetworkAndNoOther(t *testing.T) {
	b := newBenchWith(t, Config{WebhookNetworks: fetch.Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("169.0.0.0/8")}})
	submit := func(webhook string) answer {
		return b.call(http.MethodPost, "/v1/tasks", `{"kind":"text","input":{"prompt":"hi"},"webhook":"`+webhook+`"}`)
	}
	for _, allowed := range []string{"http://10.1.2.3:8080/done", "https://10.1.2.3/", "http://backend:8080/", "https://shop.example/", "http://[::ffff:10.1.2.3]/"} {
		res := submit(allowed)
		require.Equal(t, http.StatusAccepted, res.StatusCode, "%s: %s", allowed, res.body)
	}
	for _, refused := range []string{
		"http://127.0.0.1/", "http://192.168.0.1/", "https://[::1]/", "http://169.254.169.254/latest", "http://user:secret@10.1.2.3/", "ftp://10.1.2.3/",
		"http:///done", "http://10.1.2.3:65536/", "http://10.1.2.3:-1/", "10.1.2.3",
	} {
		p := submit(refused).problem(t, http.StatusBadRequest, tasks.CodePayloadInvalid)
		require.Equal(t, "webhook", p.Errors[0].Field, refused)
	}
}

func TestATaskIsFollowedByItsTenantAlone(t *testing.T) {
	b := newBench(t).withKeys()
	receipt, err := b.client("default").Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
	require.NoError(t, err)
	path := "/v1/tasks/" + receipt.ID + "/events"
	b.call(http.MethodGet, "/v1/tasks/t_none/events", "").problem(t, http.StatusNotFound, tasks.CodeTaskNotFound)
	mine := b.key
	b.key = b.newKey("other", keys.TasksRead)
	b.call(http.MethodGet, path, "").problem(t, http.StatusNotFound, tasks.CodeTaskNotFound)
	b.key = b.newKey("default", keys.TasksWrite)
	b.call(http.MethodGet, path, "").problem(t, http.StatusForbidden, codeScope)
	b.key = ""
	b.call(http.MethodGet, path, "").problem(t, http.StatusUnauthorized, codeUnauthorized)

	b.key = mine
	worker := events.NewWriter(b.cfg.Redis, b.log)
	defer worker.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+b.key)
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	var lines []string
	for stream := bufio.NewScanner(res.Body); stream.Scan(); {
		if lines = append(lines, stream.Text()); stream.Text() == "event: queued" {
			worker.Observe(tasks.Event{Type: tasks.EventFinished, ID: receipt.ID, Outcome: "completed"})
		}
	}
	require.Contains(t, lines, "id: "+receipt.ID+"-1")
	require.Contains(t, lines, "event: done")
	require.Contains(t, lines, "event: end")
	require.Equal(t, http.StatusNoContent, b.call(http.MethodGet, path, "", "Last-Event-ID: "+receipt.ID+"-2").StatusCode)
}
