package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// eachRoute yields the method and the path of every route of the document.
func (b *bench) eachRoute(do func(method, path string, op *huma.Operation)) {
	paths := b.api.OpenAPI().Paths
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path]
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
		} {
			if op != nil {
				do(method, path, op)
			}
		}
	}
}

// fitting is a body that a route takes, and its type.
type fitting struct{ body, contentType string }

// fittingOf returns the body that a route of the document takes.
func fittingOf(t *testing.T, path string) fitting {
	switch {
	case path == "/v1/transcriptions", strings.HasPrefix(path, "/v1/audio"), path == "/v1/files":
		body, contentType := form(t, "file", "RIFF")
		return fitting{body, contentType}
	case path == "/v1/tasks":
		return fitting{goodMorning, "application/json"}
	case path == "/v1/actions":
		return fitting{`{"action":"cancel","filter":{"kind":"image"}}`, "application/json"}
	case path == "/v1/budgets":
		return fitting{`{"scope":"account","neurons":10000}`, "application/json"}
	case path == "/v1/schedules":
		return fitting{`{"name":"other","cron":"@daily","kind":"text","payload":{"prompt":"x"}}`, "application/json"}
	case strings.HasSuffix(path, ":batch") || path == "/v1/plan":
		return fitting{`{"tasks":[` + goodMorning + `]}`, "application/json"}
	}
	return fitting{"{}", "application/json"}
}

// callers are keys that must not reach a tenant's things.
type callers struct {
	wrong   []string
	lacking map[keys.Scope]string // all scopes but one
	other   string                // of another tenant, with all scopes
}

func (b *bench) newCallers(mine string) callers {
	c := callers{lacking: map[keys.Scope]string{}, other: b.newKey("other", keys.Scopes...)}
	for _, s := range keys.Scopes {
		c.lacking[s] = b.newKey("other", slices.DeleteFunc(slices.Clone(keys.Scopes), func(k keys.Scope) bool { return k == s })...)
	}
	revoked := b.newKey("mine", keys.Scopes...)
	_, err := keys.Revoke(b.t.Context(), b.store, strings.Split(revoked, "_")[1])
	require.NoError(b.t, err)
	c.wrong = []string{"", "x", "nmk_0123456789abcdef_" + strings.Repeat("A", 43), mine[:len(mine)-1] + "-", revoked, canary}
	return c
}

func TestEveryRouteNeedsAKeyWithItsScopeAndShowsNoOtherTenant(t *testing.T) {
	b := newBench(t)
	mine := b.newKey("mine", keys.Scopes...)
	b.key = mine
	things := b.furnish()
	b.key = ""
	who := b.newCallers(mine)
	before := b.keptOf("mine", things)
	routes, foreign := 0, 0
	for _, a := range b.targets(things) {
		if a.open {
			continue
		}
		routes++
		call := func(key string) answer {
			b.limits = newLimiters()
			var headers []string
			if a.fits.body != "" {
				headers = append(headers, "Content-Type: "+a.fits.contentType)
			}
			if key != "" {
				headers = append(headers, "Authorization: Bearer "+key)
			}
			return b.call(a.method, a.path, a.fits.body, headers...)
		}
		for _, wrong := range who.wrong {
			res := call(wrong)
			a.refusal(t, res)
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, a)
			require.False(t, wrong != "" && repeats(res.body, []byte(wrong)), a)
		}
		refused := 0
		for _, key := range who.lacking {
			if res := call(key); res.StatusCode == http.StatusForbidden {
				a.refusal(t, res)
				refused++
			}
		}
		require.Equal(t, 1, refused, "%s needs exactly one scope", a)
		if a.owned {
			foreign++
			res := call(who.other)
			a.refusal(t, res)
			require.Equal(t, http.StatusNotFound, res.StatusCode, "%s: %s", a, res.body)
			require.NotContains(t, string(res.body), "mine")
		}
	}
	require.Greater(t, routes, 40)
	require.Greater(t, foreign, 15)
	require.Equal(t, before, b.keptOf("mine", things), "nobody changed a thing of the tenant")
	b.key = who.other
	for _, list := range []string{"/v1/tasks", "/v1/schedules", "/v1/files", "/v1/batches", "/v1/tasks?state=ended"} {
		res := b.call(http.MethodGet, list, "")
		require.Equal(t, http.StatusOK, res.StatusCode, list)
		for _, id := range []string{things.task, things.schedule, things.file, things.batch, "mine"} {
			require.NotContains(t, string(res.body), `"`+id+`"`, list)
		}
	}
}

func TestHeadersThatAreWrongAreRefusedBeforeTheBody(t *testing.T) {
	b := newBench(t)
	for _, contentType := range []string{"", "text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded", "a b"} {
		b.call(http.MethodPost, "/v1/tasks", goodMorning, "Content-Type: "+contentType).problem(t, http.StatusUnsupportedMediaType, codeContentType)
	}
	b.call(http.MethodPost, "/v1/tasks", goodMorning, "Content-Encoding: gzip").problem(t, http.StatusUnsupportedMediaType, codeCompressed)
	b.call(http.MethodPost, "/v1/tasks", "").problem(t, http.StatusBadRequest, codeEmptyBody)
	b.call(http.MethodGet, "/v1/tasks?stat=active", "").problem(t, http.StatusBadRequest, codeParameter)
	b.call(http.MethodGet, "/v1/tasks?limit=x", "").problem(t, http.StatusBadRequest, codeParameter)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/tasks", nil)
	require.NoError(t, err)
	req.Header["Authorization"] = []string{"Bearer a", "Bearer b"}
	b.do(req).problem(t, http.StatusBadRequest, codeAmbiguousAuth)
	req.Header.Del("Authorization")
	req.Host = "evil.example"
	b.do(req).problem(t, http.StatusMisdirectedRequest, codeHost)

	// A body that is announced too large is refused before it is sent.
	host := strings.TrimPrefix(b.url, "http://")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", host)
	start := make([]byte, 12)
	_, err = io.ReadFull(conn, start)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 413", string(start))
}

// TestABodyOfManyValuesIsRefusedBeforeItIsDecoded: two bytes of a list can take a hundred in
// memory.
func TestABodyOfManyValuesIsRefusedBeforeItIsDecoded(t *testing.T) {
	b := newBench(t)
	body := `{"kind":"text","input":{"messages":[{}` + strings.Repeat(",{}", mostValues/2) + `]}}`
	b.call(http.MethodPost, "/v1/tasks", body).problem(t, http.StatusRequestEntityTooLarge, codeBodyTooLarge)
	deep := `{"input":` + strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 101)
	p := b.call(http.MethodPost, "/v1/tasks/"+b.submitted(goodMorning).ID+"/copy", deep).problem(t, http.StatusBadRequest, codeExpectedObject)
	require.Contains(t, p.Detail, "within each other")
}

func TestBadInputNamesTheFieldAndRepeatsNothing(t *testing.T) {
	b := newBench(t)
	task := func(members string) string {
		return `{"kind":"text","input":{"prompt":"hi"},` + members + `}`
	}
	input := func(kind, members string) string { return `{"kind":"` + kind + `","input":{` + members + `}}` }
	long := strings.Repeat("m", 300)
	for name, c := range map[string]struct {
		body, field string
		status      int
	}{
		"trailing comma":          {`{"kind":"text",}`, "", 400},
		"NaN":                     {input("text", `"prompt":"hi","temperature":NaN`), "", 400},
		"unknown field":           {task(`"mdoel":"x"`), "mdoel", 400},
		"unknown field of input":  {input("text", `"promt":"hi"`), "input.promt", 400},
		"a number for a string":   {task(`"model":7`), "model", 400},
		"a string for a number":   {input("text", `"prompt":"hi","max_tokens":"12"`), "input.max_tokens", 400},
		"a number out of range":   {input("text", `"prompt":"hi","max_tokens":0`), "input.max_tokens", 400},
		"1e999":                   {input("text", `"prompt":"hi","temperature":1e999`), "", 400},
		"no kind":                 {`{"input":{}}`, "kind", 400},
		"no input":                {`{"kind":"text"}`, "input", 400},
		"an unknown kind":         {`{"kind":"txt","input":{}}`, "kind", 400},
		"a model with spaces":     {task(`"model":"@cf/a b/` + canary + `"`), "model", 400},
		"a model with dots":       {task(`"model":"@cf/../../accounts"`), "model", 400},
		"a model of 300 bytes":    {task(`"model":"@cf/a/` + long + `"`), "model", 400},
		"an unknown model":        {task(`"model":"@cf/nobody/` + canary + `"`), "model", 400},
		"a model of another kind": {task(`"model":"@cf/baai/bge-m3"`), "model", 400},
		"an empty prompt":         {input("text", `"prompt":"  "`), "input.prompt", 400},
		"no texts":                {input("embedding", `"texts":[]`), "input.texts", 400},
		"an empty text":           {input("embedding", `"texts":["a",""]`), "input.texts[1]", 400},
		"a language":              {input("translation", `"text":"hi","target_lang":"`+canary+`"`), "input.target_lang", 400},
		"a lane":                  {task(`"lane":"` + canary + `"`), "lane", 400},
		"a start in two years":    {task(`"run_at":"2099-01-01T00:00:00Z"`), "run_at", 400},
		"a deadline in the past":  {task(`"deadline":"2001-01-01T00:00:00Z"`), "deadline", 400},
		"no time":                 {task(`"deadline":"` + canary + `"`), "deadline", 400},
		"a duration":              {task(`"max_wait":"` + canary + `"`), "max_wait", 400},
		"a key with NUL":          {task(`"key":"a\u0000b"`), "key", 400},
		"metadata of a number":    {task(`"metadata":{"a":1}`), "metadata.a", 400},
		"long metadata":           {task(`"metadata":{"` + long + `":"a"}`), `metadata."mmmmmmmmmmm…`, 400},
		"audio by http":           {input("transcription", `"audio":{"url":"http://127.0.0.1/a.wav"}`), "input.audio.url", 400},
		"audio of a loopback":     {input("transcription", `"audio":{"url":"https://[::ffff:127.0.0.1]/a.wav"}`), "input.audio.url", 400},
		"audio of another tenant": {input("transcription", `"audio":{"key":"other/files/a.wav"}`), "input.audio.key", 400},
		"a local file":            {input("transcription", `"audio":{"path":"/etc/passwd"}`), "input.audio.path", 400},
		"a result key":            {task(`"result_key":"x"`), "result_key", 400},
	} {
		t.Run(name, func(t *testing.T) {
			res := b.call(http.MethodPost, "/v1/tasks", c.body)
			require.Equal(t, c.status, res.StatusCode, "%s", res.body)
			var p Problem
			res.into(t, &p)
			require.NotEmpty(t, p.Errors, "%s", res.body)
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Field)
				require.NotEmpty(t, e.Message)
			}
			require.Contains(t, fields, c.field, "%s", res.body)
			require.False(t, repeats(res.body, []byte(canary)), "%s", res.body)
			require.NotContains(t, string(res.body), long[:40])
		})
	}
	list, err := b.client("default").List(t.Context(), tasks.ListFilter{})
	require.NoError(t, err)
	require.Empty(t, list, "nothing was accepted")
}

func TestAKeyHasALimitAndGuessersAreSlowedDown(t *testing.T) {
	b := newBench(t)
	_, text, err := keys.Create(t.Context(), b.store, keys.Key{Tenant: "default", Scopes: keys.Scopes, PerMinute: 20})
	require.NoError(t, err)
	b.key = text
	for range 2 { // a tenth of the minute at once
		require.Equal(t, http.StatusOK, b.call(http.MethodGet, "/v1/tasks", "").StatusCode)
	}
	res := b.call(http.MethodGet, "/v1/tasks", "")
	res.problem(t, http.StatusTooManyRequests, codeKeyRate)
	require.NotEmpty(t, res.Header.Get("Retry-After-Ms"))
	b.key = "nmk_0123456789abcdef_" + strings.Repeat("A", 43)
	for range failuresMinutes {
		require.Equal(t, http.StatusUnauthorized, b.call(http.MethodGet, "/v1/tasks", "").StatusCode)
	}
	b.call(http.MethodGet, "/v1/tasks", "").problem(t, http.StatusTooManyRequests, codeTooManyAttempts)
	b.key = text
	b.call(http.MethodGet, "/v1/tasks", "").problem(t, http.StatusTooManyRequests, codeKeyRate) // known keys are still read
}

func TestTheDocumentHasEveryRouteAndItsReferences(t *testing.T) {
	b := newBench(t)
	var document map[string]any
	require.NoError(t, json.Unmarshal(b.call(http.MethodGet, "/openapi.json", "").body, &document))
	schemas := document["components"].(map[string]any)["schemas"].(map[string]any)
	ids := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				require.Contains(t, schemas, strings.TrimPrefix(ref, "#/components/schemas/"))
			}
			if id, ok := v["operationId"].(string); ok {
				require.False(t, ids[id], id)
				ids[id] = true
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(document)
	b.eachRoute(func(method, path string, op *huma.Operation) {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+strings.NewReplacer("{id}", "t_x", "{name}", "x").Replace(path), nil)
		require.NoError(t, err)
		_, pattern := b.mux.Handler(req)
		require.NotEmpty(t, pattern, "%s %s is in the document and has no route", method, path)
		require.NotEmpty(t, op.Summary)
		require.Subset(t, []string{"fleet", "health", "tasks", "schedules", "OpenAI"}, op.Tags[:min(1, len(op.Tags))])
	})
}

func TestAServerThatStopsEndsItsWaits(t *testing.T) {
	b := newBench(t)
	task := b.submitted(goodMorning)
	done := make(chan int, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, b.url+task.URLs.Self+"?wait=60", nil)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	time.AfterFunc(100*time.Millisecond, b.stop)
	require.Equal(t, http.StatusOK, <-done)
	require.NoError(t, ctx.Err())
}
