package goclient_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/tools/goclient"
	"github.com/neuronmill/neuronmill/tools/goclient/mill"
	"github.com/stretchr/testify/require"
)

// value returns a pointer to a value, as optional fields want it.
func value[T any](v T) *T { return &v }

// text is the request of a text.
func text(prompt string) goclient.TaskRequest {
	return goclient.TaskRequest{Kind: "text", Input: map[string]any{"prompt": prompt}, Metadata: &map[string]string{"made_by": "goclient"}}
}

func TestTheGeneratedClientSubmitsFollowsListsAndCancels(t *testing.T) {
	client, err := goclient.NewClientWithResponses(mill.Start(t))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	request := &goclient.SubmitTaskParams{Prefer: value("wait=30"), IdempotencyKey: value("one")}
	waited, err := client.SubmitTaskWithResponse(ctx, request, text("Name three rivers"))
	require.NoError(t, err)
	require.NotNil(t, waited.JSON200, "%s", waited.Body)
	require.Equal(t, goclient.TaskBodyState("completed"), waited.JSON200.State)
	again, err := client.SubmitTaskWithResponse(ctx, request, text("Name three rivers"))
	require.NoError(t, err)
	require.Equal(t, waited.JSON200.Id, again.JSON200.Id)
	require.Equal(t, "true", again.HTTPResponse.Header.Get("Idempotent-Replayed"))
	other, err := client.SubmitTaskWithResponse(ctx, request, text("Name four rivers"))
	require.NoError(t, err)
	require.Equal(t, http.StatusConflict, other.StatusCode())
	require.Equal(t, "idempotency_mismatch", other.ApplicationproblemJSONDefault.Code)

	accepted, err := client.SubmitTaskWithResponse(ctx, nil, text("Tell a story"))
	require.NoError(t, err)
	require.NotNil(t, accepted.JSON202, "%s", accepted.Body)
	id := accepted.JSON202.Id
	followed, err := client.FollowTask(ctx, id, nil)
	require.NoError(t, err)
	events, err := io.ReadAll(followed.Body)
	require.NoError(t, err)
	require.NoError(t, followed.Body.Close())
	require.Contains(t, string(events), "event: done")
	ended, err := client.GetTaskWithResponse(ctx, id, &goclient.GetTaskParams{Wait: value(int64(30))})
	require.NoError(t, err)
	require.Equal(t, goclient.TaskBodyState("completed"), ended.JSON200.State)
	require.NotEmpty(t, ended.JSON200.Output)
	result, err := client.GetResult(ctx, id, &goclient.GetResultParams{Format: value("json")})
	require.NoError(t, err)
	document, err := io.ReadAll(result.Body)
	require.NoError(t, err)
	require.NoError(t, result.Body.Close())
	require.Contains(t, string(document), `"status":"completed"`)

	late := text("later")
	late.RunAt = value(time.Now().Add(time.Hour))
	held, err := client.SubmitTaskWithResponse(ctx, nil, late)
	require.NoError(t, err)
	require.Equal(t, goclient.ViewFor("schedule"), held.JSON202.Waiting.For)
	scheduled, err := client.ListTasksWithResponse(ctx, &goclient.ListTasksParams{State: value(goclient.ListTasksParamsState("scheduled"))})
	require.NoError(t, err)
	require.Len(t, *scheduled.JSON200.Tasks, 1)
	require.Equal(t, held.JSON202.Id, (*scheduled.JSON200.Tasks)[0].Id)
	cancelled, err := client.CancelTaskWithResponse(ctx, held.JSON202.Id)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, cancelled.StatusCode())
	gone, err := client.GetTaskWithResponse(ctx, held.JSON202.Id, &goclient.GetTaskParams{Wait: value(int64(30))})
	require.NoError(t, err)
	require.Equal(t, goclient.TaskBodyState("failed"), gone.JSON200.State)
	require.Equal(t, "cancelled", gone.JSON200.Error.Code)

	unknown, err := client.GetTaskWithResponse(ctx, "t_none", nil)
	require.NoError(t, err)
	require.Equal(t, "task_not_found", unknown.ApplicationproblemJSONDefault.Code)
	link, err := client.PresignUploadWithResponse(ctx, goclient.PresignUploadJSONRequestBody{Bytes: 5})
	require.NoError(t, err)
	require.Equal(t, http.MethodPut, link.JSON201.Method, "%s", link.Body)
}
