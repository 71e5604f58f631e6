package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// acted decodes the answer of POST /v1/actions.
func (a answer) acted(t *testing.T, status int) (plan bulk.Plan, run bulk.State) {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s", a.body)
	var body struct {
		Plan *bulk.Plan
		Run  *bulk.State
	}
	a.into(t, &body)
	if body.Plan != nil {
		plan = *body.Plan
	}
	if body.Run != nil {
		run = *body.Run
	}
	return plan, run
}

func TestAnActionIsPlannedAndThenRunOnce(t *testing.T) {
	b := newBench(t).withKeys()
	b.submitted(goodMorning)
	b.submitted(`{"kind":"text","input":{"prompt":"hi"}}`)
	time.Sleep(2 * time.Millisecond) // tasks of the plan's own millisecond come later
	plan, _ := b.call(http.MethodPost, "/v1/actions", `{"action":"cancel","filter":{"kind":"text"}}`).acted(t, http.StatusOK)
	require.Equal(t, 1, plan.Count)
	require.NotNil(t, plan.Neurons)
	b.submitted(`{"kind":"text","input":{"prompt":"later"}}`)
	started := b.call(http.MethodPost, "/v1/actions", `{"token":"`+plan.Token+`"}`)
	_, run := started.acted(t, http.StatusAccepted)
	require.Equal(t, "/v1/actions/"+run.ID, started.Header.Get("Location"))
	var end bulk.State
	require.Eventually(t, func() bool {
		b.call(http.MethodGet, "/v1/actions/"+run.ID, "").into(t, &end)
		return end.Status == bulk.Ended
	}, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, end.Changed)
	_, again := b.call(http.MethodPost, "/v1/actions", `{"token":"`+plan.Token+`"}`).acted(t, http.StatusAccepted)
	require.Equal(t, end, again)
	left := 0
	list, err := b.client("default").List(t.Context(), tasks.ListFilter{})
	require.NoError(t, err)
	for _, task := range list {
		if !task.Cancelled {
			left++
		}
	}
	require.Equal(t, 2, left)

	mine := plan.Token
	b.key = b.newKey("other", keys.Scopes...)
	b.call(http.MethodPost, "/v1/actions", `{"token":"`+mine+`"}`).problem(t, http.StatusBadRequest, codeTokenInvalid)
	b.call(http.MethodGet, "/v1/actions/"+run.ID, "").problem(t, http.StatusNotFound, codeActionNotFound)
	plan, _ = b.call(http.MethodPost, "/v1/actions", `{"action":"cancel","filter":{}}`).acted(t, http.StatusOK)
	require.Zero(t, plan.Count)
}

func TestABadActionIsRefused(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct{ body, field string }{
		"nothing":            {`{}`, "action"},
		"both":               {`{"action":"cancel","filter":{},"token":"` + canary + `"}`, "token"},
		"an unknown action":  {`{"action":"` + canary + `"}`, "action"},
		"an unknown field":   {`{"action":"cancel","filter":{"modle":"` + canary + `"}}`, "filter.modle"},
		"an unknown kind":    {`{"action":"cancel","filter":{"kind":"` + canary + `"}}`, "filter.kind"},
		"another state":      {`{"action":"retry","filter":{"state":"pending"}}`, "filter.state"},
		"code and cancel":    {`{"action":"cancel","filter":{"code":"` + canary + `"}}`, "filter"},
		"no time":            {`{"action":"cancel","filter":{"since":"` + canary + `"}}`, "filter.since"},
		"a number as a text": {`{"action":"cancel","filter":{"model":7}}`, "filter.model"},
	} {
		res := b.call(http.MethodPost, "/v1/actions", c.body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, "%s: %s", name, res.body)
		var p Problem
		res.into(t, &p)
		require.NotEmpty(t, p.Errors, "%s: %s", name, res.body)
		require.Equal(t, c.field, p.Errors[0].Field, "%s: %s", name, res.body)
		require.False(t, repeats(res.body, []byte(canary)), "%s", res.body)
	}
	for _, token := range []string{canary, strings.Repeat("A", 60_000), "AAAA"} {
		b.call(http.MethodPost, "/v1/actions", `{"token":"`+token+`"}`).problem(t, http.StatusBadRequest, codeTokenInvalid)
	}
	b.call(http.MethodGet, "/v1/actions/"+strings.Repeat("a", 150), "").problem(t, http.StatusNotFound, codeActionNotFound)
}
