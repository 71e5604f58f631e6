package ui

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// evil is a text that must not become markup or reorder the page.
const evil = "<script>\"'\u202e</p>"

// values matches the values that forms send back unchanged.
var values = regexp.MustCompile(` value="[^"]*"`)

// goldenSchedule is a schedule with a slot of each outcome.
func goldenSchedule() scheduleView {
	s := schedule.Schedule{
		Definition: schedule.Definition{Name: "report", Cron: "@hourly", TimeZone: "Europe/Berlin", Kind: tasks.KindText, Payload: map[string]any{"prompt": evil}},
		CreatedAt:  noon.Add(-5 * time.Hour), Next: noon.Add(time.Hour),
	}
	runs := []schedule.Run{
		{Slot: noon, Status: schedule.Running, ClaimedAt: noon, Task: "t_4"},
		{Slot: noon.Add(-time.Hour), Status: schedule.Skipped, ClaimedAt: noon.Add(-time.Hour), Reason: "the run before it had not ended"},
		{Slot: noon.Add(-2 * time.Hour), Status: schedule.Failed, ClaimedAt: noon.Add(-2 * time.Hour), EndedAt: noon.Add(-119 * time.Minute), Task: "t_2", Reason: evil},
		{Slot: noon.Add(-4 * time.Hour), Manual: true, Status: schedule.Completed, ClaimedAt: noon.Add(-4 * time.Hour), EndedAt: noon.Add(-239 * time.Minute), Task: "t_1", Neurons: 12.5, Calls: 1},
	}
	s.Last = &runs[0]
	return scheduleView{&schedule.Overview{Schedule: s, Runs: runs}, noon.Add(time.Minute)}
}

func goldenUsage() usageData {
	rows := []usage.Figures{{Value: "@cf/a/large", Neurons: 9000, Dollars: 0.099, Tasks: 30, Calls: 31, Unsettled: 1}, {Value: evil, Neurons: 500, Dollars: 0.0055, Tasks: 2, Calls: 2}}
	return usageData{
		Whole: true, Days: 7, By: "model", Past: []usage.Figures{{Value: "2026-11-24"}, {Value: "2026-11-25", Neurons: 14_000}, {Value: "2026-11-26", Neurons: 9500}},
		Report: usage.Report{From: "2026-11-20", To: "2026-11-26", By: usage.ByModel, Rows: rows, Total: usage.Figures{Neurons: 9500, Tasks: 32, Calls: 33}},
		Today:  usage.Forecast{Day: "2026-11-26", Neurons: 19_000, Dollars: 0.099}, Month: usage.Forecast{Day: "2026-11", Neurons: 300_000, Dollars: 1.5},
	}
}

// goldenPast is the past of a gate with a lower pace, refusals and closures.
func goldenPast() []gatePast {
	name := "@cf/a/" + evil
	minutes := make([]history.GateSpan, 60)
	for i := range minutes {
		minutes[i] = history.GateSpan{At: noon.Add(time.Duration(i-59) * time.Minute), Calls: 280 - i, Throttled: i / 59, Pace: 300 - 3*(i/30)*i}
	}
	minutes[0].Pace = -1
	closures := []history.Closure{{Gate: name, Why: evil, From: noon}, {Gate: "other", From: noon}}
	for i := range mostClosures + 1 {
		closures = append(closures, history.Closure{Gate: name, Why: "too many requests", From: noon.Add(-time.Duration(10*i+10) * time.Minute), Until: noon.Add(-time.Duration(10*i+9) * time.Minute)})
	}
	return pastOf([]string{name, "unused"}, map[string][]history.GateSpan{name: minutes}, closures, noon.Add(30*time.Second))
}

// goldenPages are the data of each page that shows lists and figures.
func goldenPages() map[string]any {
	priced, filter := 120.0, bulk.Filter{State: "failed", Code: "no_capacity", Message: evil}
	state := &batch.State{}
	state.ID, state.Name, state.Lines, state.Completed, state.Failed, state.CreatedAt = "b_00000001", evil, 100, 60, 5, noon
	until, shown := noon.Add(time.Minute), cut(100, evil)
	return map[string]any{
		"overview": overviewData{
			Tone: "bad", Head: "Needs you", Minutes: goldenSpans(), Calls: goldenSpans(), Day: history.Counts{Completed: 900, Neurons: 9200}, Hour: history.Counts{Completed: 300, Failed: 7},
			Report:  monitor.Report{Verdict: evil, Workers: 2, Waiting: 1200, Findings: []monitor.Finding{{About: evil, Reason: evil, Tasks: 3, Until: &until, Do: evil}, {About: "budget", Reason: "caps of the day are spent"}}},
			Gates:   []gateRow{{State: gate.State{Name: "@cf/a/" + evil, Calls: 10, Refused: true, Why: evil, Closed: time.Minute}, Rate: 3, Until: &until}},
			Results: []preview{{ID: "t_1", Kind: tasks.KindImage, Model: evil, Text: shown, File: "image.png", Width: 4, Height: 3, Neurons: 12}, {ID: "t_2", Kind: tasks.KindEmbedding, Model: "@cf/x/y", Text: "1 vector", Strip: strip([]float32{1, -1})}, {ID: "t_3", Kind: tasks.KindText, Text: shown}},
		},
		"batch":     batchView{State: state, Problems: []*batch.Failures{{Code: tasks.CodeNoCapacity, Message: evil, Lines: 5, IDs: []string{evil}, Do: evil}}},
		"schedules": schedulesData{Schedules: []scheduleView{goldenSchedule()}, Next: "report", First: true},
		"schedule":  goldenSchedule(),
		"usage":     goldenUsage(),
		"plan":      planData{bulk.Plan{Action: bulk.Retry, Filter: filter, Before: noon, Count: 2000, More: true, Neurons: &priced, Dollars: &priced, Token: "token"}, "/errors"},
		"action":    stateData{bulk.State{ID: "a_1", Action: bulk.Cancel, Filter: bulk.Filter{Kind: tasks.KindImage}, Before: noon, Status: bulk.Running, Count: 40, Changed: 10, Unchanged: 1, StartedAt: noon, UpdatedAt: noon.Add(3 * time.Second)}},
		"batches":   batchesData{Batches: []batchView{{State: state}}, More: true},
		"errors":    errorsData{Groups: []errorGroup{{Code: tasks.CodeNoCapacity, Model: evil, Message: evil, Kind: tasks.KindText, Count: 7, First: noon, Last: noon.Add(time.Hour), Examples: []string{"t_1", "t_2"}}}, Read: 7},
		"gates":     gatesData{Gates: []gateRow{{State: gate.State{Name: "@cf/a/" + evil, Calls: 10}, Rate: 3}}, Past: goldenPast()},
		"workers":   workersData{Workers: []monitor.Worker{{Host: evil, PID: 7, Status: "running", Started: noon, Queues: []monitor.WorkerQueue{{Kind: tasks.KindText, Lane: tasks.Bulk, Slots: 8, Busy: 2}}}}, Missing: []string{evil}},
		"webhooks":  webhooksData{Entries: []webhook.Entry{{ID: "m_1", Task: "t_1", Time: noon, Attempt: 2, Host: evil, State: "waiting", Answer: evil, Next: noon.Add(time.Minute)}}},
		"log":       logData{Actions: []history.Action{{At: noon, Key: "0123456789abcdef", Did: "retry many: ended", About: evil, Count: 5}}},
		"tasks":     tasksData{Filter: taskFilter{State: "failed", Model: cut(200, evil)}, Ended: true, First: true, Rows: []taskRow{{ID: "t_1", State: "failed", Kind: tasks.KindText, Lane: tasks.Bulk, Model: evil, Code: evil, Words: cut(120, evil), At: noon}}},
	}
}

// goldenSpans is an hour with some calls and tasks.
func goldenSpans() []history.Span {
	spans := make([]history.Span, 60)
	for i := range spans {
		spans[i] = history.Span{At: noon.Add(time.Duration(i-59) * time.Minute), Counts: history.Counts{Calls: 3 * i, Throttled: i / 58, Completed: 2 * i, Failed: i / 50, Neurons: float64(i)}}
	}
	return spans
}

// goldenTasks are the data of the page of a task: one ended task of each kind, a failed task
// and a waiting one.
func goldenTasks(t *testing.T) map[string]any {
	t.Helper()
	words := cut(100, evil) // as the page's load does
	pages := map[string]any{
		"task-waiting": taskData{
			ID: "t_1", Kind: tasks.KindText, Lane: tasks.Bulk, Model: evil, State: "pending", Wait: words, Do: words, Until: noon, Attempts: 1, Input: words, Whole: true, Metadata: []pair{{words, words}},
			Steps: []step{{Tone: "ok", Head: "Accepted", Text: kept(true), At: noon}, {Tone: "run", Head: "Waits", Text: words}},
		},
	}
	started := noon.Add(3 * time.Second)
	for kind, output := range map[tasks.Kind]any{
		tasks.KindText:          tasks.TextOutput{Text: evil, Reasoning: evil, Refusal: evil, FinishReason: evil, InputTokens: 7, OutputTokens: 9, ToolCalls: []tasks.ToolCall{{Name: evil, Arguments: json.RawMessage(`{"city":"<p>"}`)}}},
		tasks.KindTranslation:   tasks.TranslationOutput{TranslatedText: evil},
		tasks.KindTranscription: tasks.TranscriptionOutput{Text: evil, Language: evil, Duration: 3, Segments: []tasks.Segment{{Start: 0.5, End: 1, Text: evil}}},
		tasks.KindImage:         tasks.ImageOutput{Image: "default/tasks/t_1/image.png", Width: 4, Height: 4},
		tasks.KindEmbedding:     tasks.EmbeddingOutput{Dimensions: 4, Vectors: [][]float32{{1, -1, 0.5, 0}}},
	} {
		text, err := json.Marshal(output)
		require.NoError(t, err)
		r := tasks.Result{ID: "t_1", Kind: kind, Status: tasks.Completed, Model: evil, Output: text, CreatedAt: noon, StartedAt: &started, FinishedAt: noon.Add(5 * time.Second), Attempts: 1, Usage: tasks.Usage{Neurons: 12.5, Calls: 2, Unsettled: 1}, Metadata: map[string]string{"row": evil, "retry_of": "t_0"}}
		if kind == tasks.KindImage {
			r.Artefacts = []tasks.Artefact{{Key: "default/tasks/t_1/image.png", ContentType: "image/png", Bytes: 2048}}
		}
		d := taskData{ID: r.ID}
		d.ended(&r, nil)
		pages["task-"+string(kind)] = d
	}
	failed := taskData{ID: "t_1"}
	payload := []byte(`{"prompt":"<script>` + "\u202e" + `"}`)
	failed.ended(&tasks.Result{ID: "t_1", Kind: tasks.KindText, Status: tasks.Failed, Model: evil, CreatedAt: noon, FinishedAt: noon.Add(time.Hour), Attempts: 5, Usage: tasks.Usage{Calls: 5}, Error: &tasks.TaskError{Code: tasks.CodeNoCapacity, Message: evil}}, payload)
	failed.Input, failed.Whole = indented(payload)
	failed.Commands = commandsOf(failed, payload)
	pages["task-failed"] = failed
	return pages
}

func TestPagesOfFixedDataAreTheGoldenOnes(t *testing.T) {
	u := New(Config{Base: "/ui", Version: "v1"})
	pages := goldenPages()
	maps.Copy(pages, goldenTasks(t))
	for name, data := range pages {
		t.Run(name, func(t *testing.T) {
			page, _, _ := strings.Cut(name, "-")
			p := u.pages[page]
			require.NotNil(t, p)
			var b bytes.Buffer
			require.NoError(t, p.views.Execute(&b, u.frame(httptest.NewRequest("GET", "/ui/"+name, nil), Caller{Tenant: "shop"}, p, data)))
			require.NotContains(t, b.String(), "<script>")
			require.NotContains(t, values.ReplaceAllString(b.String(), ""), "\u202e", "only what forms send back has it")
			file := filepath.Join("testdata", name+".html")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, b.Bytes(), 0o600))
			}
			golden, err := os.ReadFile(file)
			require.NoError(t, err, "go test ./internal/api/ui -run Golden -update makes it")
			require.Equal(t, string(golden), b.String(), "go test ./internal/api/ui -run Golden -update accepts the change")
		})
	}
}
