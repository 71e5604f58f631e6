package ui

import (
	"context"
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/history"
)

// gatePast is the last hour of a gate.
type gatePast struct {
	Name     string
	Minutes  []history.GateSpan
	Closures []history.Closure // the latest first, at most mostClosures
	More     int               // closures beyond those
	At       time.Time         // the end of the hour
}

const (
	mostClosures = 5                // of a gate on its page
	mostPlots    = 12               // gates with a plot: those that were used in the last hour
	pastFor      = 10 * time.Second // lifetime of the past that all pages share
)

// past returns the last hour of the gates that were used in it, at most some seconds old.
func (u *UI) past(ctx context.Context, gates []gateRow) ([]gatePast, error) {
	return u.gatePasts.get(history.Fleet, "", pastFor, func() ([]gatePast, error) {
		now := time.Now()
		var names []string
		for _, g := range gates {
			if g.Pace.Source != "" && len(names) < 2*mostPlots {
				names = append(names, g.Name)
			}
		}
		minutes, err := u.cfg.History.GateMinutes(ctx, names, now, 60)
		if err != nil {
			return nil, err
		}
		closures, err := u.cfg.History.Closures(ctx, now.Add(-time.Hour))
		return pastOf(names, minutes, closures, now), err
	})
}

func pastOf(names []string, minutes map[string][]history.GateSpan, closures []history.Closure, now time.Time) []gatePast {
	var gates []gatePast
	for _, name := range names {
		g := gatePast{Name: name, Minutes: minutes[name], At: now}
		for _, c := range closures {
			switch {
			case c.Gate != name:
			case len(g.Closures) == mostClosures:
				g.More++
			default:
				g.Closures = append(g.Closures, c)
			}
		}
		if (g.calls() > 0 || len(g.Closures) > 0) && len(gates) < mostPlots {
			gates = append(gates, g)
		}
	}
	return gates
}

func (g gatePast) calls() int {
	n := 0
	for _, m := range g.Minutes {
		n += m.Calls
	}
	return n
}

// Top is the highest value on the axis.
func (g gatePast) Top() int {
	calls, pace := 0, 0
	for _, m := range g.Minutes {
		calls, pace = max(calls, m.Calls, m.Throttled), max(pace, m.Pace)
	}
	if pace <= 3*calls {
		calls = max(calls, pace)
	}
	return int(ceiling(float64(calls)))
}

// Chart draws the calls, the refusals as bars, the pace of the gate as a dashed line and its
// closures as bands.
func (g gatePast) Chart() template.HTML {
	var b strings.Builder
	n := len(g.Minutes)
	if n == 0 {
		return ""
	}
	top, step, refused := float64(g.Top()), chartWidth/float64(n), 0
	y := func(v int) float64 { return chartHeight - 4 - (chartHeight-12)*min(float64(v)/top, 1) }
	for i := range 3 {
		at := y(int(top) * i / 2)
		fmt.Fprintf(&b, `<line class="grid" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartWidth, at, at)
	}
	for _, c := range g.Closures {
		from, until := g.place(c.From), g.place(g.At)
		if !c.Until.IsZero() {
			until = g.place(c.Until)
		}
		fmt.Fprintf(&b, `<rect class="closed" x="%.1f" y="0" width="%.1f" height="%.0f"><title>closed: %s</title></rect>`, from, max(until-from, 1.5), chartHeight, template.HTMLEscapeString(clean(c.Why)))
	}
	var line strings.Builder
	for i, m := range g.Minutes {
		fmt.Fprintf(&line, "%.1f,%.1f %.1f,%.1f ", float64(i)*step, y(m.Calls), float64(i+1)*step, y(m.Calls))
	}
	fmt.Fprintf(&b, `<polygon class="fill" points="0,%.1f %s%.1f,%.1f"/><polyline class="line" points="%s"/>`, y(0), line.String(), chartWidth, y(0), line.String())
	var pace strings.Builder
	for i, m := range g.Minutes {
		x := float64(i) * step
		refused += m.Throttled
		if m.Throttled > 0 {
			fmt.Fprintf(&b, `<rect class="bad" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x+1, y(m.Throttled), step-2, y(0)-y(m.Throttled))
		}
		if m.Pace >= 0 && float64(m.Pace) <= top { // a limit far above the calls is out of the picture
			fmt.Fprintf(&pace, "%.1f,%.1f %.1f,%.1f ", x, y(m.Pace), x+step, y(m.Pace))
		}
		if m.Calls > 0 || m.Throttled > 0 {
			fmt.Fprintf(&b, `<rect class="hit" x="%.1f" y="0" width="%.1f" height="%.0f"><title>%s: %s calls, %s refused</title></rect>`, x, step, chartHeight, m.At.UTC().Format("15:04"), count(m.Calls), count(m.Throttled))
		}
	}
	if pace.Len() > 0 {
		fmt.Fprintf(&b, `<polyline class="limit" fill="none" points="%s"/>`, pace.String())
	}
	return template.HTML(fmt.Sprintf(`<svg class="chart" viewBox="0 0 %.0f %.0f" preserveAspectRatio="none" role="img" aria-label="%d calls in the last hour, %d of them refused, closed %d times">%s</svg>`, //nolint:gosec // numbers and escaped texts
		chartWidth, chartHeight, g.calls(), refused, len(g.Closures)+g.More, b.String()))
}

// place is where a time is in the chart, from 0 to chartWidth.
func (g gatePast) place(at time.Time) float64 {
	first := g.Minutes[0].At
	span := time.Duration(len(g.Minutes)) * time.Minute
	return chartWidth * min(max(float64(at.Sub(first))/float64(span), 0), 1)
}
