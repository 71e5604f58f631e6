package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// hostile are texts that must not become markup or reorder the page.
var hostile = []string{
	`<script>alert(1)</script>`, `"onload="alert(1)`, `'><img src=x onerror=alert(1)>`, `javascript:alert(1)`, "\u202eevil\u2066", `</textarea><svg onload=alert(1)>`, `{{.Caller}}`,
	"<script>" + strings.Repeat("a", 1<<20),
}

// uiEnded stores an ended task and its entry in the index.
func (b *bench) uiEnded(tenant string, r tasks.Result) {
	b.t.Helper()
	r.CreatedAt, r.FinishedAt = time.Now().Add(-time.Minute).UTC(), time.Now().UTC()
	text, err := json.Marshal(r)
	require.NoError(b.t, err)
	require.NoError(b.t, b.store.Put(b.t.Context(), objects.ResultKey(tenant, r.ID), strings.NewReader(string(text)), "application/json"))
	code := ""
	if r.Error != nil {
		code = r.Error.Code
	}
	require.NoError(b.t, (&index.Index{Redis: b.cfg.Redis}).Add(b.t.Context(), tenant, index.Entry{ID: r.ID, Status: r.Status, Kind: r.Kind, Lane: tasks.Bulk, Model: "m", Code: code, FinishedAt: r.FinishedAt}))
}

// uiOutputs are outputs of each kind with a text in all their places.
func uiOutputs(text string) map[tasks.Kind]any {
	return map[tasks.Kind]any{
		tasks.KindText:          tasks.TextOutput{Text: text, Reasoning: text, Refusal: text, FinishReason: text, ToolCalls: []tasks.ToolCall{{Name: text, Arguments: json.RawMessage(`{"a":1}`)}}},
		tasks.KindTranslation:   tasks.TranslationOutput{TranslatedText: text},
		tasks.KindTranscription: tasks.TranscriptionOutput{Text: text, Language: text, Duration: 3, Segments: []tasks.Segment{{End: 1, Text: text}}},
		tasks.KindImage:         tasks.ImageOutput{Image: "k", Width: 4, Height: 4},
		tasks.KindEmbedding:     tasks.EmbeddingOutput{Dimensions: 4, Vectors: [][]float32{{1, -1, 0.5, 0}}},
	}
}

var (
	uiForbidden = regexp.MustCompile(`(?i)<script>|(href|src|action)="?\s*javascript:|(href|src|action)="(https?:)?//|<img src=x|<svg onload`)
	uiHandler   = regexp.MustCompile(`(?i)<[^>]*\s(style|on[a-z]+)\s*=`)
	uiQuoted    = regexp.MustCompile(`"[^"]*"`)
)

// uiPage gets a page and checks what holds for all of them.
func (b *bench) uiPage(path string) string {
	b.t.Helper()
	a := b.call(http.MethodGet, path, "")
	require.Equal(b.t, http.StatusOK, a.StatusCode, "%s: %.300s", path, a.body)
	require.NotContains(b.t, a.Header.Get("Content-Security-Policy"), "unsafe")
	require.Contains(b.t, a.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Less(b.t, len(a.body), 60<<10, path)
	require.Empty(b.t, uiForbidden.FindString(string(a.body)), path)
	require.Empty(b.t, uiHandler.FindString(uiQuoted.ReplaceAllString(string(a.body), `""`)), path)
	return string(a.body)
}

var uiLink = regexp.MustCompile(`(?:href|src)="(/[^"]*)"`)

func TestEveryLinkOfTheDashboardAnswers(t *testing.T) {
	realtest.Long(t)
	b := newBench(t)
	waiting := b.submitted(goodMorning)
	for kind, output := range uiOutputs("Good morning") {
		text, err := json.Marshal(output)
		require.NoError(t, err)
		b.uiEnded("default", tasks.Result{ID: "t_" + string(kind), Kind: kind, Status: tasks.Completed, Model: "@cf/x/y", Output: text})
	}
	b.uiEnded("default", tasks.Result{ID: "t_failed", Kind: tasks.KindText, Status: tasks.Failed, Error: &tasks.TaskError{Code: tasks.CodeNoCapacity, Message: "no capacity"}})
	b.uiSchedule("default", schedule.Definition{Name: "report", Cron: "@daily", Kind: tasks.KindText, Payload: map[string]any{"prompt": "x"}})
	b.uiSpent("default", tasks.Result{ID: "t_text", Model: "@cf/x/y", FinishedAt: time.Now(), Origin: tasks.Origin{Schedule: "report"}, Usage: tasks.Usage{Neurons: 5, Calls: 1}})
	seen, next := map[string]bool{}, []string{"/ui/", "/ui/tasks/" + waiting.ID}
	for len(next) > 0 && len(seen) < 300 {
		path := next[0]
		next = next[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		if !strings.HasPrefix(path, "/ui/") || strings.HasPrefix(path, "/ui/static/") || strings.HasPrefix(path, "/ui/usage.csv") {
			require.Equal(t, http.StatusOK, b.call(http.MethodGet, path, "").StatusCode, path)
			continue
		}
		for _, m := range uiLink.FindAllStringSubmatch(b.uiPage(path), -1) {
			next = append(next, strings.ReplaceAll(m[1], "&amp;", "&"))
		}
	}
	require.True(t, seen["/ui/tasks/t_embedding"])
	require.True(t, seen["/ui/schedules/report"])
	require.True(t, seen["/ui/usage?by=schedule"])
	require.Greater(t, len(seen), 20)
}

// uiSchedule stores a schedule.
func (b *bench) uiSchedule(tenant string, d schedule.Definition) *schedule.Stored {
	b.t.Helper()
	all := b.schedulesOf(tenant, nil)
	_, err := all.Add(b.t.Context(), d)
	require.NoError(b.t, err)
	return all
}

const uiForm = "Content-Type: application/x-www-form-urlencoded"

func TestAPersonRunsPausesAndResumesAScheduleInTheDashboard(t *testing.T) {
	b := newBench(t)
	all := b.uiSchedule("default", schedule.Definition{Name: "report", Cron: "30 9 * * 1-5", TimeZone: "Europe/Berlin", Kind: tasks.KindText, Payload: map[string]any{"prompt": "Sum up"}})
	require.Regexp(t, `Monday to Friday at 09:30.*Europe/Berlin`, b.uiPage("/ui/schedules"))
	act := func(do string) answer { return b.call(http.MethodPost, "/ui/schedules/report", "do="+do, uiForm) }
	ran := act("run")
	require.Equal(t, "/ui/schedules/report?done=fired", ran.Header.Get("Location"))
	runs, err := all.History(t.Context(), "report", 1)
	require.NoError(t, err)
	page := b.uiPage("/ui/schedules/report?done=fired")
	require.Contains(t, page, `href="/ui/tasks/`+runs[0].Task+`"`)
	require.Contains(t, page, `aria-label="The latest slots: 1 running"`)
	require.Equal(t, http.StatusSeeOther, act("pause").StatusCode)
	page = b.uiPage("/ui/schedules/report")
	require.Contains(t, page, ">Resume</button>")
	require.Contains(t, page, "It is paused.")
	require.Equal(t, http.StatusSeeOther, act("resume").StatusCode)
	one, err := all.Get(t.Context(), "report")
	require.NoError(t, err)
	require.False(t, one.Paused)
	require.Equal(t, http.StatusBadRequest, act("delete").StatusCode)
	require.Equal(t, http.StatusNotFound, b.call(http.MethodPost, "/ui/schedules/none", "do=run", uiForm).StatusCode)
	log := b.uiPage("/ui/log")
	for _, did := range []string{"run schedule", "pause schedule", "resume schedule"} {
		require.Contains(t, log, did)
	}
	require.NotContains(t, log, "delete schedule")
}

func TestSchedulesHavePages(t *testing.T) {
	b := newBench(t)
	for i := range 25 {
		b.uiSchedule("default", schedule.Definition{Name: fmt.Sprintf("s%02d", i), Cron: "@daily", Kind: tasks.KindText, Payload: map[string]any{"prompt": "x"}})
	}
	first := b.uiPage("/ui/schedules")
	require.Contains(t, first, "/ui/schedules?after=s19")
	require.NotContains(t, first, "/ui/schedules/s20")
	require.Contains(t, b.uiPage("/ui/schedules?after=s19"), "/ui/schedules/s24")
}

// uiSpent counts a task in the ledger.
func (b *bench) uiSpent(tenant string, r tasks.Result) {
	b.t.Helper()
	pipe := b.cfg.Redis.Pipeline()
	done := (&usage.Ledger{Redis: b.cfg.Redis}).Add(b.t.Context(), pipe, tenant, r)
	_, _ = pipe.Exec(b.t.Context())
	require.NoError(b.t, done())
}

func TestUsageIsThatOfTheSessionsTenantAndOnAnOpenServerOfTheAccount(t *testing.T) {
	b := newBench(t)
	for i, tenant := range []string{"shop", "other"} {
		b.uiSpent(tenant, tasks.Result{ID: "t_" + tenant, Model: "@cf/" + tenant + "/m", FinishedAt: time.Now(), Usage: tasks.Usage{Neurons: float64(1500 * (i + 1)), Calls: 1}})
	}
	page := b.uiPage("/ui/usage?by=tenant")
	for _, text := range []string{"the whole account", "<b>4,500</b>", ">shop<", ">other<", "of 10,000 free"} {
		require.Contains(t, page, text)
	}
	file := b.call(http.MethodGet, "/ui/usage.csv?by=tenant", "")
	require.Equal(t, "tenant,neurons,dollars,tasks,calls,unsettled\nother,3000,0.033,1,1,0\nshop,1500,0.0165,1,1,0\n", string(file.body))
	require.Contains(t, file.Header.Get("Content-Disposition"), "attachment")

	b.key = b.newKey("shop", keys.UsageRead)
	page = b.uiPage("/ui/usage?days=7")
	require.Contains(t, page, "<b>1,500</b>")
	require.NotContains(t, page, "other")
	require.NotContains(t, string(b.call(http.MethodGet, "/ui/usage.csv", "").body), "other")
	for path, status := range map[string]int{"/ui/usage?by=tenant": 400, "/ui/usage.csv?by=tenant": 400, "/ui/usage?days=99": 400, "/ui/usage?days=x": 400, "/ui/usage?by=%3Cscript%3E": 400, "/ui/usage.csv?day=%3Cscript%3E": 400, "/ui/tasks": 403} {
		a := b.call(http.MethodGet, path, "")
		require.Equal(t, status, a.StatusCode, path)
		require.Empty(t, uiForbidden.FindString(string(a.body)), path)
	}
	b.key = b.newKey("shop", keys.TasksRead)
	require.Equal(t, http.StatusForbidden, b.call(http.MethodGet, "/ui/usage", "").StatusCode)
	require.NotContains(t, b.uiPage("/ui/tasks"), "/ui/usage")
}

func TestAPersonSeesCountAndPriceBeforeAllThatMatchIsCancelled(t *testing.T) {
	b := newBench(t)
	b.submitted(goodMorning)
	for range 3 {
		b.submitted(`{"kind":"text","input":{"prompt":"hi"}}`)
	}
	time.Sleep(2 * time.Millisecond)
	list := b.uiPage("/ui/tasks?kind=text")
	require.Contains(t, list, `href="/ui/actions/new?kind=text&amp;do=cancel"`)
	plan := b.uiPage("/ui/actions/new?kind=text&do=cancel")
	require.Contains(t, plan, "Cancel 3</button>")
	require.Regexp(t, `Saves about.*neurons`, plan)
	require.Contains(t, plan, `href="/ui/tasks?kind=text"`)
	token := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(plan)[1]
	started := b.call(http.MethodPost, "/ui/actions", url.Values{"token": {token}}.Encode(), uiForm)
	require.Equal(t, http.StatusSeeOther, started.StatusCode, "%s", started.body)
	to := started.Header.Get("Location")
	require.Eventually(t, func() bool { return strings.Contains(b.uiPage(to), ">completed</span>") }, 10*time.Second, 10*time.Millisecond)
	require.Regexp(t, `<b>3</b><span>of 3`, b.uiPage(to))
	log := b.uiPage("/ui/log")
	require.Contains(t, log, "cancel many: begun")
	require.Contains(t, log, "cancel many: ended")
	again := b.call(http.MethodPost, "/ui/actions", url.Values{"token": {token}}.Encode(), uiForm)
	require.Equal(t, to, again.Header.Get("Location"))

	for path, status := range map[string]int{"/ui/actions/a_none": 404, "/ui/actions/%3Cscript%3E": 404, "/ui/actions/new": 400, "/ui/actions/new?do=burn": 400, "/ui/actions/new?do=drop&state=pending": 400, "/ui/actions/new?do=retry&state=pending": 400, "/ui/actions/new?do=cancel&since=x": 400, "/ui/actions/new?do=cancel&kind=%3Cscript%3E": 400} {
		require.Equal(t, status, b.call(http.MethodGet, path, "").StatusCode, path)
	}
	require.Equal(t, http.StatusBadRequest, b.call(http.MethodPost, "/ui/actions", "token=x", uiForm).StatusCode)
	b.key = b.newKey("other", keys.Scopes...)
	require.Equal(t, http.StatusBadRequest, b.call(http.MethodPost, "/ui/actions", url.Values{"token": {token}}.Encode(), uiForm).StatusCode)
	require.Equal(t, http.StatusNotFound, b.call(http.MethodGet, to, "").StatusCode)
	b.key = b.newKey("default", keys.TasksRead)
	require.Equal(t, http.StatusForbidden, b.call(http.MethodGet, "/ui/actions/new?do=cancel", "").StatusCode)
	require.Equal(t, http.StatusForbidden, b.call(http.MethodPost, "/ui/actions", "token=x", uiForm).StatusCode)
}

func TestNoTextOfAUserBecomesMarkup(t *testing.T) {
	realtest.Long(t)
	b := newBench(t)
	for i, text := range hostile {
		for kind, output := range uiOutputs(text) {
			encoded, err := json.Marshal(output)
			require.NoError(t, err)
			id := fmt.Sprintf("t_%d_%s", i, kind)
			b.uiEnded("default", tasks.Result{ID: id, Kind: kind, Status: tasks.Completed, Model: text, Output: encoded, Metadata: map[string]string{"note": text, text[:min(20, len(text))]: "x"}})
			page := b.uiPage("/ui/tasks/" + id)
			require.NotContains(t, page, "\u202e")
		}
		id := fmt.Sprintf("t_%d_failed", i)
		b.uiEnded("default", tasks.Result{ID: id, Kind: tasks.KindText, Status: tasks.Failed, Model: text, Error: &tasks.TaskError{Code: text[:min(40, len(text))], Message: text}})
		b.uiPage("/ui/tasks/" + id)
		name := fmt.Sprintf("s.%d", i)
		b.uiSchedule("default", schedule.Definition{Name: name, Cron: "@daily", Kind: tasks.KindText, Payload: map[string]any{"prompt": text}, Metadata: map[string]string{"note": text[:min(400, len(text))]}})
		require.NotContains(t, b.uiPage("/ui/schedules/"+name), "\u202e")
		b.uiSpent("default", tasks.Result{ID: id, Model: text, FinishedAt: time.Now(), Origin: tasks.Origin{Batch: text, Schedule: text, Key: text}, Usage: tasks.Usage{Neurons: 1, Calls: 1}})
		if len(text) < 1000 {
			b.uiPage("/ui/schedules?after=" + url.QueryEscape(text))
			b.uiPage("/ui/actions/new?do=retry&model=" + url.QueryEscape(text) + "&code=" + url.QueryEscape(text) + "&message=" + url.QueryEscape(text))
			b.uiPage("/ui/tasks?state=ended&model=" + url.QueryEscape(text))
			b.uiPage("/ui/login?to=" + url.QueryEscape(text))
		}
	}
	b.uiPage("/ui/")
	b.uiPage("/ui/schedules")
	for _, by := range []string{"model", "key", "batch", "schedule", "tenant", "day"} {
		require.NotContains(t, b.uiPage("/ui/usage?by="+by), "\u202e")
	}
	b.uiPage("/ui/tasks?state=ended")
}

func TestAFileThatCouldRunIsADownload(t *testing.T) {
	b := newBench(t)
	for name, contentType := range map[string]string{"a.html": "text/html", "a.svg": "image/svg+xml", "a.png": "image/png"} {
		require.NoError(t, b.store.Put(t.Context(), "default/tasks/t_1/"+name, strings.NewReader("<script>"), contentType))
		b.uiEnded("default", tasks.Result{ID: "t_1", Kind: tasks.KindImage, Status: tasks.Completed, Artefacts: []tasks.Artefact{{Key: "default/tasks/t_1/" + name, ContentType: contentType, Bytes: 8}}})
		a := b.call(http.MethodGet, "/ui/tasks/t_1/files/"+name, "")
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Contains(t, a.Header.Get("Content-Security-Policy"), "sandbox")
		require.Equal(t, "nosniff", a.Header.Get("X-Content-Type-Options"))
		require.Equal(t, name != "a.png", strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment"), name)
	}
}

func TestTheDashboardWithKeysNeedsASessionWithItsScopesAndShowsNoOtherTenant(t *testing.T) {
	b := newBench(t)
	mine := b.newKey("mine", keys.Scopes...)
	b.uiEnded("mine", tasks.Result{ID: "t_mine", Kind: tasks.KindText, Status: tasks.Completed, Output: json.RawMessage(`{"text":"secret"}`)})
	out := b.call(http.MethodGet, "/ui/tasks/t_mine", "")
	require.Equal(t, http.StatusSeeOther, out.StatusCode)
	require.Contains(t, out.Header.Get("Location"), "/ui/login")
	login := func(key string) answer {
		return b.call(http.MethodPost, "/ui/login", url.Values{"key": {key}, "to": {"//evil.example"}}.Encode(), "Content-Type: application/x-www-form-urlencoded")
	}
	require.Equal(t, http.StatusUnauthorized, login("nmk_wrong").StatusCode)
	session := func(key string) string {
		a := login(key)
		require.Equal(t, http.StatusSeeOther, a.StatusCode)
		require.Equal(t, "/ui/", a.Header.Get("Location"))
		c := a.Cookies()[0]
		require.True(t, c.HttpOnly)
		require.Equal(t, http.SameSiteStrictMode, c.SameSite)
		require.NotContains(t, c.Value, key)
		return "Cookie: " + c.Name + "=" + c.Value
	}
	require.Contains(t, string(b.call(http.MethodGet, "/ui/tasks/t_mine", "", session(mine)).body), "secret")
	other := session(b.newKey("other", keys.Scopes...))
	require.Equal(t, http.StatusNotFound, b.call(http.MethodGet, "/ui/tasks/t_mine", "", other).StatusCode)
	b.uiSchedule("mine", schedule.Definition{Name: "report", Cron: "@daily", Kind: tasks.KindText, Payload: map[string]any{"prompt": "x"}})
	require.Equal(t, http.StatusNotFound, b.call(http.MethodGet, "/ui/schedules/report", "", other).StatusCode)
	require.Equal(t, http.StatusNotFound, b.call(http.MethodPost, "/ui/schedules/report", "do=pause", other, uiForm).StatusCode)
	require.NotContains(t, string(b.call(http.MethodGet, "/ui/schedules", "", other).body), "schedules/report")
	reader := session(b.newKey("mine", keys.TasksRead))
	for _, path := range []string{"/ui/tasks", "/ui/tasks/t_mine/retry", "/ui/tasks/t_mine/cancel", "/ui/gates", "/ui/new", "/ui/schedules/report"} {
		form := uiForm
		require.Equal(t, http.StatusForbidden, b.call(http.MethodPost, path, "do=open", reader, form).StatusCode, path)
		require.Equal(t, http.StatusForbidden, b.call(http.MethodPost, path, "do=open", session(mine), form, "Sec-Fetch-Site: cross-site").StatusCode, path)
	}
}

func TestForgedAddressesOfTheDashboardAreRefused(t *testing.T) {
	b := newBench(t)
	for path, status := range map[string]int{
		"/ui/tasks?state=x": 400, "/ui/tasks?after=9.x": 400, "/ui/tasks?state=ended&after=x": 400, "/ui/tasks?since=x": 400, "/ui/tasks?q=a:b": 400,
		"/ui/tasks/t_none": 404, "/ui/tasks/%3Cscript%3E": 404, "/ui/nothing": 404, "/ui/static/ui.go": 404, "/ui/new?kind=x": 400,
		"/ui/schedules/none": 404, "/ui/schedules/%3Cscript%3E": 404, "/ui/schedules/..%2F..%2Fx": 404,
	} {
		a := b.call(http.MethodGet, path, "")
		require.Equal(t, status, a.StatusCode, path)
		require.Empty(t, uiForbidden.FindString(string(a.body)), path)
	}
	require.Equal(t, "/ui/", b.call(http.MethodGet, "/", "").Header.Get("Location"))
	for _, bad := range []string{"ui", "/v1", "/v1/x", "/a b", "//x", "/{a}", "/"} {
		require.ErrorContains(t, Config{UIPath: bad}.Validate(), "--ui-path", bad)
	}
}

func TestAPersonSubmitsAndCancelsATaskInTheDashboard(t *testing.T) {
	b := newBench(t)
	form := "Content-Type: application/x-www-form-urlencoded"
	a := b.call(http.MethodPost, "/ui/new", url.Values{"kind": {"text"}, "input": {`{"prompt":"three rivers"}`}, "lane": {"bulk"}}.Encode(), form)
	require.Equal(t, http.StatusSeeOther, a.StatusCode, "%s", a.body)
	to := a.Header.Get("Location")
	require.Contains(t, b.uiPage(to), "three rivers")
	require.Contains(t, b.uiPage("/ui/tasks"), "three rivers")
	id := regexp.MustCompile(`t_[^?]+`).FindString(to)
	require.Equal(t, http.StatusSeeOther, b.call(http.MethodPost, "/ui/tasks/"+id+"/cancel", "", form).StatusCode)
	require.Contains(t, b.uiPage("/ui/tasks/"+id), "is cancelled")
	wrong := b.call(http.MethodPost, "/ui/new", url.Values{"kind": {"text"}, "input": {`{"promt":"x"}`}}.Encode(), form)
	require.Equal(t, http.StatusBadRequest, wrong.StatusCode)
}
