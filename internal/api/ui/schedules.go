package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/schedule"
)

const (
	stripSlots    = 30 // of a schedule
	mostSchedules = 20 // rows of a page: each costs some requests to the bucket
	nextSlots     = 5
	schedulesFor  = 5 * time.Second // a reading is used again
)

// scheduleView is a schedule as pages show it.
type scheduleView struct {
	*schedule.Overview
	At time.Time // of the reading
}

// PageTitle is the title of the page.
func (v scheduleView) PageTitle() string { return "Schedule " + cut(64, v.Name) }

// State is the word of its mark.
func (v scheduleView) State() string {
	if v.Paused {
		return "paused"
	}
	return "fires"
}

// Does names the work of a run: a task of a kind, or a batch.
func (v scheduleView) Does() string {
	if v.File != nil || v.New != nil {
		return "batch"
	}
	return string(v.Kind)
}

// Words says when it fires, as people say it; empty when the expression has no simple words.
func (v scheduleView) Words() string { return cronWords(v.Cron) }

// Zone is the time zone of the expression.
func (v scheduleView) Zone() string {
	if v.TimeZone == "" {
		return "UTC"
	}
	return cut(64, v.TimeZone)
}

// Strip draws the latest slots.
func (v scheduleView) Strip() template.HTML {
	return slotStrip(v.Overview.Strip(v.Runs, v.At, stripSlots))
}

// Coming returns the next slots.
func (v scheduleView) Coming() []schedule.Slot { return v.Overview.Coming(v.At, nextSlots) }

// Mean is the mean price in neurons of the runs that completed, 0 when there is none.
func (v scheduleView) Mean() float64 {
	sum, n := 0.0, 0
	for _, r := range v.Runs {
		if r.Status == schedule.Completed {
			sum, n = sum+r.Neurons, n+1
		}
	}
	return sum / float64(max(n, 1))
}

// Completed counts the latest runs that completed.
func (v scheduleView) Completed() int { return v.count(schedule.Completed) }

// Failed counts the latest runs that failed or were refused.
func (v scheduleView) Failed() int { return v.count(schedule.Failed, schedule.Refused) }

func (v scheduleView) count(statuses ...schedule.Status) int {
	n := 0
	for _, r := range v.Runs {
		if slices.Contains(statuses, r.Status) {
			n++
		}
	}
	return n
}

// Document is the definition as JSON, shortened.
func (v scheduleView) Document() string {
	text, err := json.Marshal(v.Definition)
	if err != nil {
		return ""
	}
	short, _ := indented(text)
	return short
}

// runTook is how long a run took, in words; empty when it has not ended.
func runTook(r schedule.Run) string {
	if r.EndedAt.IsZero() {
		return ""
	}
	return took(r.EndedAt.Sub(r.ClaimedAt))
}

type schedulesData struct {
	Schedules []scheduleView
	Next      string // name to continue after; empty at the end
	First     bool
}

func (u *UI) schedules(ctx context.Context, r *http.Request, c Caller) (any, error) {
	after := cut(mostName, r.URL.Query().Get("after"))
	return u.scheduleLists.get(c.Tenant, after, schedulesFor, func() (schedulesData, error) {
		page, next, err := u.cfg.Schedules(c.Tenant).Page(ctx, after, mostSchedules, stripSlots)
		d := schedulesData{Next: next, First: after == ""}
		for _, one := range page {
			d.Schedules = append(d.Schedules, scheduleView{one, time.Now()})
		}
		return d, err
	})
}

// mostName is the most characters of the name of a schedule.
const mostName = 64

func (u *UI) schedule(ctx context.Context, r *http.Request, c Caller) (any, error) {
	name := r.PathValue("name")
	if len(name) > mostName {
		return nil, schedule.ErrNotFound
	}
	return u.scheduleViews.get(c.Tenant, name, schedulesFor, func() (scheduleView, error) {
		one, err := u.cfg.Schedules(c.Tenant).Look(ctx, name, stripSlots)
		return scheduleView{one, time.Now()}, err
	})
}

// changeSchedule pauses or resumes a schedule, or fires it now.
func (u *UI) changeSchedule(w http.ResponseWriter, r *http.Request, c Caller) {
	all, name, do := u.cfg.Schedules(c.Tenant), r.PathValue("name"), r.PostFormValue("do")
	var err error
	done := ""
	switch do {
	case "pause":
		done, err = "paused", all.Pause(r.Context(), name)
	case "resume":
		done, err = "resumed", all.Resume(r.Context(), name)
	case "run":
		var run schedule.Run
		run, err = all.RunNow(r.Context(), name)
		if done = "fired"; err == nil && run.Task == "" && run.Batch == "" {
			done = "not_fired"
		}
	default:
		err = refusedError{http.StatusBadRequest, "The action is not known."}
	}
	u.scheduleLists.forget(c.Tenant)
	u.scheduleViews.forget(c.Tenant)
	u.acted(w, r, c, acted{err: err, did: do + " schedule", about: name, count: 1, to: "/schedules/" + name, done: done})
}

// cronWords says when a cron expression fires, for the simple forms; empty for others.
func cronWords(cron string) string {
	if words, ok := map[string]string{
		"@hourly": "every hour", "@daily": "every day at 00:00", "@midnight": "every day at 00:00", "@weekly": "every Sunday at 00:00",
		"@monthly": "on the 1st of each month at 00:00", "@yearly": "every 1 January at 00:00", "@annually": "every 1 January at 00:00",
	}[cron]; ok {
		return words
	}
	fields := strings.Fields(cron)
	if len(fields) != 5 || fields[3] != "*" {
		return ""
	}
	minute, hour, date, weekday := fields[0], fields[1], fields[2], fields[4]
	days := daysWords(date, weekday)
	if days == "" {
		return ""
	}
	m, fixedMinute := within(minute, 59)
	h, fixedHour := within(hour, 23)
	each := days == "every day"
	switch n, steps := within(strings.TrimPrefix(minute, "*/"), 59); {
	case fixedMinute && fixedHour:
		return fmt.Sprintf("%s at %02d:%02d", days, h, m)
	case fixedMinute && hour == "*" && each:
		return fmt.Sprintf("every hour at %02d past", m)
	case minute == "*" && hour == "*" && each:
		return "every minute"
	case steps && n > 0 && strings.HasPrefix(minute, "*/") && hour == "*" && each:
		return fmt.Sprintf("every %d minutes", n)
	}
	return ""
}

// daysWords names the days of a cron expression; empty if it has no simple words.
func daysWords(date, weekday string) string {
	names := []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	d, fixedDate := within(date, 31)
	w, fixedWeekday := within(weekday, 7)
	switch {
	case date == "*" && weekday == "*":
		return "every day"
	case date == "*" && weekday == "1-5":
		return "Monday to Friday"
	case date == "*" && fixedWeekday:
		return "every " + names[w]
	case fixedDate && weekday == "*":
		return fmt.Sprintf("on day %d of each month", d)
	}
	return ""
}

// within reads a number from 0 to a maximum.
func within(text string, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0 && n <= most
}
