package ui

import (
	"bytes"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
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

// goldenPages are the data of each page that shows lists and figures.
func goldenPages() map[string]any {
	priced, filter := 120.0, bulk.Filter{State: "failed", Code: "no_capacity", Message: evil}
	state := &batch.State{}
	state.ID, state.Name, state.Lines, state.Completed, state.Failed, state.CreatedAt = "b_00000001", evil, 100, 60, 5, noon
	return map[string]any{
		"schedules": schedulesData{Schedules: []scheduleView{goldenSchedule()}, Next: "report", First: true},
		"schedule":  goldenSchedule(),
		"usage":     goldenUsage(),
		"plan":      planData{bulk.Plan{Action: bulk.Retry, Filter: filter, Before: noon, Count: 2000, More: true, Neurons: &priced, Dollars: &priced, Token: "token"}, "/errors"},
		"action":    stateData{bulk.State{ID: "a_1", Action: bulk.Cancel, Filter: bulk.Filter{Kind: tasks.KindImage}, Before: noon, Status: bulk.Running, Count: 40, Changed: 10, Unchanged: 1, StartedAt: noon, UpdatedAt: noon.Add(3 * time.Second)}},
		"batches":   batchesData{Batches: []batchView{{State: state}}, More: true},
		"errors":    errorsData{Groups: []errorGroup{{Code: tasks.CodeNoCapacity, Model: evil, Message: evil, Kind: tasks.KindText, Count: 7, First: noon, Last: noon.Add(time.Hour), Examples: []string{"t_1", "t_2"}}}, Read: 7},
		"gates":     gatesData{Gates: []gateRow{{State: gate.State{Name: "@cf/a/" + evil, Calls: 10}, Rate: 3}}},
		"workers":   workersData{Workers: []monitor.Worker{{Host: evil, PID: 7, Status: "running", Started: noon, Queues: []monitor.WorkerQueue{{Kind: tasks.KindText, Lane: tasks.Bulk, Slots: 8, Busy: 2}}}}, Missing: []string{evil}},
		"webhooks":  webhooksData{Entries: []webhook.Entry{{ID: "m_1", Task: "t_1", Time: noon, Attempt: 2, Host: evil, State: "waiting", Answer: evil, Next: noon.Add(time.Minute)}}},
		"log":       logData{Actions: []history.Action{{At: noon, Key: "0123456789abcdef", Did: "retry many: ended", About: evil, Count: 5}}},
		"tasks":     tasksData{Filter: taskFilter{State: "failed", Model: cut(200, evil)}, Ended: true, First: true, Rows: []taskRow{{ID: "t_1", State: "failed", Kind: tasks.KindText, Lane: tasks.Bulk, Model: evil, Code: evil, Words: cut(120, evil), At: noon}}},
	}
}

func TestPagesOfFixedDataAreTheGoldenOnes(t *testing.T) {
	u := New(Config{Base: "/ui", Version: "v1"})
	for name, data := range goldenPages() {
		t.Run(name, func(t *testing.T) {
			p := u.pages[name]
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
