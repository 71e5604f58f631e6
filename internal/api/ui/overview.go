package ui

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

// freeNeurons is an account's free allocation of a day, by the provider's price list.
const freeNeurons = 10_000

// galleryOf is how many results the overview shows.
const galleryOf = 8

type overviewData struct {
	Tone    string // ok, wait or bad
	Head    string
	Report  monitor.Report
	Minutes []history.Span // of the tenant's tasks
	Calls   []history.Span // of the fleet
	Day     history.Counts // of the tenant since midnight UTC
	Hour    history.Counts // of the tenant
	Gates   []gateRow
	Results []preview
}

// Done counts the tasks that completed in this minute and the one before.
func (d overviewData) Done() int {
	n := 0
	for _, m := range d.Minutes[max(len(d.Minutes)-2, 0):] {
		n += m.Completed
	}
	return n
}

// Free is the part of the free allocation that is used, in percent.
func (d overviewData) Free() int { return percent(d.Day.Neurons, freeNeurons) }

// FreeNeurons is the free allocation of a day.
func (d overviewData) FreeNeurons() int { return freeNeurons }

// SparkDone, SparkFailed and SparkNeurons draw the last hour.
func (d overviewData) SparkDone() template.HTML {
	return sparkOf(d.Minutes, func(s history.Span) float64 { return float64(s.Completed) })
}

// SparkFailed draws the failed tasks of the last hour.
func (d overviewData) SparkFailed() template.HTML {
	return sparkOf(d.Minutes, func(s history.Span) float64 { return float64(s.Failed) })
}

// SparkNeurons draws the neurons of the last hour.
func (d overviewData) SparkNeurons() template.HTML {
	return sparkOf(d.Minutes, func(s history.Span) float64 { return s.Neurons })
}

func sparkOf(spans []history.Span, value func(history.Span) float64) template.HTML {
	values := make([]float64, 0, len(spans))
	for _, s := range spans {
		values = append(values, value(s))
	}
	return spark(values)
}

// Limit is the calls a minute that the gates of the models in use allow together.
func (d overviewData) Limit() int {
	total := 0
	for _, g := range d.Gates {
		if g.Pace.Source != "" && g.Calls > 0 {
			total += g.Allowed()
		}
	}
	return total
}

// Top is the highest value on the axis of the chart.
func (d overviewData) Top() int {
	most := 0
	for _, s := range d.Calls {
		most = max(most, s.Calls)
	}
	if limit := d.Limit(); limit > most && limit <= 3*most {
		most = limit
	}
	return int(ceiling(float64(most)))
}

// Chart draws the calls of the last hour.
func (d overviewData) Chart() template.HTML {
	points := make([]point, 0, len(d.Calls))
	total, bad := 0, 0
	for _, s := range d.Calls {
		points = append(points, point{s.At, float64(s.Calls), float64(s.Throttled)})
		total, bad = total+s.Calls, bad+s.Throttled
	}
	return area(points, float64(d.Top()), float64(d.Limit()), fmt.Sprintf("%d calls in the last hour, %d of them refused", total, bad), "calls")
}

func (u *UI) overview(ctx context.Context, _ *http.Request, c Caller) (any, error) {
	f, err := u.fleet(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	d := overviewData{Report: f.Report, Gates: f.Gates}
	d.Tone, d.Head = tone(f.Report)
	past, err := u.overviewPastOf(ctx, c.Tenant, now)
	if err != nil {
		return nil, err
	}
	d.Minutes, d.Calls, d.Day, d.Results = past.minutes, past.calls, past.day, past.results
	for _, m := range d.Minutes {
		d.Hour.Add(m.Counts)
	}
	return d, nil
}

// overviewPast has the counts and results of a tenant's past for the overview.
type overviewPast struct {
	minutes, calls []history.Span
	day            history.Counts
	results        []preview
}

// overviewPastFor is the lifetime of the cached past that all pages of a tenant share. Workers
// write their counts every two seconds.
const overviewPastFor = 3 * time.Second

func (u *UI) overviewPastOf(ctx context.Context, tenant string, now time.Time) (overviewPast, error) {
	return u.overviewPasts.get(tenant, "", overviewPastFor, func() (p overviewPast, err error) {
		if p.minutes, err = u.cfg.History.Minutes(ctx, tenant, now, 60); err != nil {
			return p, err
		}
		if p.calls, err = u.cfg.History.Minutes(ctx, history.Fleet, now, 60); err != nil {
			return p, err
		}
		hours, err := u.cfg.History.Hours(ctx, tenant, now, now.UTC().Hour()+1)
		if err != nil {
			return p, err
		}
		for _, h := range hours {
			p.day.Add(h.Counts)
		}
		page, err := u.cfg.Index.Find(ctx, tenant, index.Filter{Status: tasks.Completed, Limit: galleryOf})
		p.results = u.previewsOf(ctx, tenant, page.Entries)
		return p, err
	})
}

// tone returns how a report looks and its first words.
func tone(r monitor.Report) (tone, head string) {
	switch {
	case !r.Healthy:
		return "bad", "Needs you"
	case len(r.Findings) > 0:
		return "wait", "Waits"
	case r.Workers == 0:
		return "wait", "Idle"
	}
	return "ok", "All is well"
}
