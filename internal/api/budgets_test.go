package api

import (
	"net/http"
	"testing"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/stretchr/testify/require"
)

func TestACapsLifeOverHTTP(t *testing.T) {
	b := newBench(t).withKeys()
	b.key = b.newKey("shop", keys.BudgetsWrite)
	var all struct{ Budgets []capBody }
	b.call(http.MethodGet, "/v1/budgets", "").into(t, &all)
	require.Empty(t, all.Budgets)
	b.call(http.MethodPut, "/v1/budgets", `{"scope":"account","neurons":10000}`).into(t, &all)
	b.call(http.MethodPut, "/v1/budgets", `{"scope":"tenant","name":"acme","neurons":500.5,"over":"fail"}`).into(t, &all)
	require.Len(t, all.Budgets, 2)
	require.Equal(t, "account wait", all.Budgets[0].String()+" "+string(all.Budgets[0].Over))
	require.Equal(t, 500.5, all.Budgets[1].Neurons) //nolint:testifylint // exact
	for body, field := range map[string]string{
		`{"scope":"tenant","neurons":5}`:                          "name",
		`{"scope":"account","name":"x","neurons":5}`:              "name",
		`{"scope":"tenant","name":"` + canary + `/","neurons":5}`: "name",
		`{"scope":"account","neurons":-1}`:                        "neurons",
		`{"scope":"` + canary + `","neurons":1}`:                  "scope",
		`{"scope":"account","neurons":1,"over":"` + canary + `"}`: "over",
	} {
		res := b.call(http.MethodPut, "/v1/budgets", body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, "%s: %s", body, res.body)
		require.Contains(t, string(res.body), `"field":"`+field+`"`, body)
		require.NotContains(t, string(res.body), canary)
	}
	require.Equal(t, http.StatusNoContent, b.call(http.MethodDelete, "/v1/budgets?scope=tenant&name=acme", "").StatusCode)
	b.call(http.MethodDelete, "/v1/budgets?scope=tenant&name=acme", "").problem(t, http.StatusNotFound, codeBudgetNotFound)
	b.key = b.newKey("shop", keys.UsageRead)
	require.Equal(t, http.StatusForbidden, b.call(http.MethodGet, "/v1/budgets", "").StatusCode)
}
