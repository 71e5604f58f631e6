package monitor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
)

// Report describes the state of the fleet: waiting work, its reasons, their end and the
// remedy. Surfaces share it.
type Report struct {
	Healthy  bool      `json:"healthy" doc:"Nothing needs a person."`
	Verdict  string    `json:"verdict" doc:"One sentence."`
	Workers  int       `json:"workers"`
	Waiting  int       `json:"waiting" doc:"Tasks that wait for a worker or for a gate."`
	Findings []Finding `json:"findings"`
}

// Finding is one thing that makes tasks wait.
type Finding struct {
	About  string     `json:"about" doc:"A gate, a kind of tasks with its lane, or budget."`
	Reason string     `json:"reason"`
	Tasks  int        `json:"tasks" doc:"Tasks that wait for it."`
	Until  *time.Time `json:"until" doc:"It holds at least until then; null when unknown."`
	Do     string     `json:"do,omitempty" doc:"What a person can do; absent when waiting is enough."`
}

// Report finds out how the fleet is.
func (m *Monitor) Report(ctx context.Context, g *gate.Gate) (Report, error) {
	f, err := m.Fleet(ctx, g)
	if err != nil {
		return Report{}, err
	}
	return f.Report(), nil
}

// Report says how the fleet is.
func (f Fleet) Report() Report {
	r := Report{Healthy: true, Workers: len(f.Workers), Waiting: f.Waiting(), Findings: []Finding{}}
	for _, q := range f.Queues {
		if q.Pending == 0 {
			continue
		}
		if text := Missing(f.Workers, q.Kind, q.Lane); text != "" {
			r.Findings = append(r.Findings, Finding{About: q.Name(), Reason: text, Tasks: q.Pending, Do: "neuronmill worker --kinds " + string(q.Kind)})
		}
	}
	for _, s := range f.Gates {
		finding, closed := findingOf(s, f.At)
		if closed {
			finding.Tasks = f.DeferredAt(s.Name) + s.Interactive + s.Bulk
			r.Findings = append(r.Findings, finding)
		}
	}
	if f.OverBudget > 0 {
		midnight := f.At.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		r.Findings = append(r.Findings, Finding{About: "budget", Reason: "caps of the day are spent", Tasks: f.OverBudget, Until: &midnight})
	}
	r.judge()
	return r
}

// findingOf describes a closed gate.
func findingOf(s gate.State, now time.Time) (Finding, bool) {
	f := Finding{About: s.Name, Reason: s.Why}
	if s.Closed > 0 {
		until := now.Add(s.Closed).UTC().Truncate(time.Second)
		f.Until = &until
	}
	switch {
	case s.Refused:
		f.Do = "neuronmill doctor; then neuronmill gate open " + s.Name
	case s.Closed > 0 && s.Name == gate.Account:
	case s.Closed > 0:
	case s.Pace.PerMinute <= 0 && s.Name != gate.Account && s.Pace.Source != "":
		f.Do = "neuronmill gate set " + s.Name + " default"
	default:
		return f, false
	}
	return f, true
}

// judge writes the verdict.
func (r *Report) judge() {
	for _, f := range r.Findings {
		if f.Do == "" {
			continue
		}
		r.Healthy = false
		r.Verdict = fmt.Sprintf("%s: %s; %s for it. Do: %s.", f.About, f.Reason, tasksWait(f.Tasks), f.Do)
		return
	}
	switch {
	case len(r.Findings) > 0:
		f := r.Findings[0]
		r.Verdict = fmt.Sprintf("%s: %s", f.About, f.Reason)
		if f.Until != nil {
			r.Verdict += " until " + f.Until.Format(time.RFC3339)
		}
		r.Verdict += "; it goes on by itself."
	case r.Workers == 0:
		r.Verdict = "No worker runs, and nothing waits."
	case r.Waiting == 0:
		r.Verdict = fmt.Sprintf("All is well: %s, and nothing waits.", workersRun(r.Workers))
	default:
		r.Verdict = fmt.Sprintf("All is well: %s, and %s to be run.", workersRun(r.Workers), tasksWait(r.Waiting))
	}
}

func tasksWait(n int) string {
	if n == 1 {
		return "1 task waits"
	}
	return fmt.Sprintf("%d tasks wait", n)
}

func workersRun(n int) string {
	if n == 1 {
		return "1 worker runs"
	}
	return fmt.Sprintf("%d workers run", n)
}

// Text returns the report as lines for people.
func (r Report) Text() string { return r.lines("", "") }

// Markdown returns the report as Markdown.
func (r Report) Markdown() string { return r.lines("**", "- ") }

func (r Report) lines(bold, bullet string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s%s\n", bold, r.Verdict, bold)
	if bullet != "" && len(r.Findings) > 0 {
		b.WriteByte('\n')
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s%s: %s, %s", bullet, f.About, f.Reason, tasksWait(f.Tasks))
		if f.Until != nil {
			b.WriteString(", until " + f.Until.Format(time.RFC3339))
		}
		if f.Do != "" {
			b.WriteString("; do: " + f.Do)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
