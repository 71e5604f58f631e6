package ui

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/schedule"
)

// The charts are SVG without styles: the style sheet has their colours. They stretch to
// their place, so texts of axes are HTML beside them.

// point is a span of time in a chart.
type point struct {
	At    time.Time
	Value float64
	Bad   float64 // part of the value that went wrong
}

const (
	chartWidth  = 600.0
	chartHeight = 150.0
)

// ceiling is a round number at or above a value, for the top of an axis.
func ceiling(v float64) float64 {
	if v <= 5 {
		return 5
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10} {
		if step*unit >= v {
			return step * unit
		}
	}
	return 10 * unit
}

// area draws the points as an area below a line, what went wrong as bars, and the limit as a
// dashed line; limit 0 means none. The last span is not over and is drawn hatched.
func area(points []point, top, limit float64, says, unit string) template.HTML {
	var b strings.Builder
	step := chartWidth / float64(max(len(points), 1))
	y := func(v float64) float64 { return chartHeight - 4 - (chartHeight-12)*min(v/max(top, 1), 1) }
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" preserveAspectRatio="none" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(says))
	for i := range 4 {
		at := y(top * float64(i+1) / 4)
		fmt.Fprintf(&b, `<line class="grid" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartWidth, at, at)
	}
	over := points[:max(len(points)-1, 0)]
	if len(over) > 0 {
		var line strings.Builder
		for i, p := range over {
			fmt.Fprintf(&line, "%.1f,%.1f %.1f,%.1f ", float64(i)*step, y(p.Value), float64(i+1)*step, y(p.Value))
		}
		fmt.Fprintf(&b, `<polygon class="fill" points="0,%.1f %s%.1f,%.1f"/><polyline class="line" points="%s"/>`, y(0), line.String(), float64(len(over))*step, y(0), line.String())
	}
	for i, p := range points {
		x := float64(i) * step
		if i == len(points)-1 && p.Value > 0 {
			fmt.Fprintf(&b, `<rect class="now" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x+1, y(p.Value), step-2, y(0)-y(p.Value))
		}
		if p.Bad > 0 {
			fmt.Fprintf(&b, `<rect class="bad" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x+1, y(p.Bad), step-2, y(0)-y(p.Bad))
		}
	}
	if limit > 0 && limit <= top {
		fmt.Fprintf(&b, `<line class="limit" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartWidth, y(limit), y(limit))
	}
	for i, p := range points {
		if p.Value > 0 || p.Bad > 0 {
			fmt.Fprintf(&b, `<rect class="hit" x="%.1f" y="0" width="%.1f" height="%.0f"><title>%s: %s %s</title></rect>`, float64(i)*step, step, chartHeight, p.At.UTC().Format("15:04"), count(int(p.Value)), unit)
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, and an escaped sentence
}

// spark draws a small line. It has no words of its own: a number stands beside it.
func spark(values []float64) template.HTML {
	var b strings.Builder
	top := 1.0
	for _, v := range values {
		top = max(top, v)
	}
	step := 120 / float64(max(len(values)-1, 1))
	for i, v := range values {
		fmt.Fprintf(&b, "%.1f,%.1f ", float64(i)*step, 30-26*v/top)
	}
	points := b.String()
	return template.HTML(`<svg class="spark" viewBox="0 0 120 32" preserveAspectRatio="none" aria-hidden="true"><polygon class="fill" points="0,31 ` + points + //nolint:gosec // numbers
		`120,31"/><polyline class="line" points="` + points + `"/></svg>`)
}

// part is a piece of a bar.
type part struct {
	Percent int
	Class   string
}

// bar draws how much of a whole is used. Words stand beside it.
func bar(parts ...any) template.HTML {
	var b strings.Builder
	b.WriteString(`<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="whole" width="100" height="8"/>`)
	x := 0
	for i := 0; i+1 < len(parts); i += 2 {
		p := part{parts[i].(int), parts[i+1].(string)}
		if p.Percent > 0 {
			fmt.Fprintf(&b, `<rect class="%s" x="%d" width="%d" height="8"/>`, template.HTMLEscapeString(p.Class), x, min(p.Percent, 100-x))
			x += min(p.Percent, 100-x)
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers and escaped names of classes
}

// stripBars is how many bars a vector has.
const stripBars = 96

// strip draws a vector: a bar for each group of its values, darker the further the group is
// from zero, with one colour for each sign.
func strip(vector []float32) template.HTML {
	n := min(stripBars, len(vector))
	sums, most := make([]float64, n), 0.0
	for i, v := range vector {
		sums[i*n/len(vector)] += float64(v)
	}
	for _, s := range sums {
		most = max(most, math.Abs(s))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="strip" viewBox="0 0 %d 40" preserveAspectRatio="none" role="img" aria-label="The vector as %d bars">`, n*4, n)
	for i, s := range sums {
		class := "up"
		if s < 0 {
			class = "down"
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%d" width="3" height="40" opacity="%.2f"/>`, class, i*4, 0.08+0.92*math.Abs(s)/max(most, 1e-9))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers
}

// slotShapes are how the outcomes of slots look: each has a shape and a colour of its own, in
// a cell of 10 by 24. The key below a strip uses them too.
var slotShapes = map[string]string{
	"completed": `<rect class="good" x="1" y="2" width="8" height="20" rx="2"/>`,
	"failed":    `<rect class="wrong" x="1" y="2" width="8" height="20" rx="2"/><path class="cut" d="M3 9.5l4 5M7 9.5l-4 5"/>`,
	"skipped":   `<path class="warn" d="M1 22l4-8 4 8z"/>`,
	"missed":    `<rect class="none" x="1.75" y="2.75" width="6.5" height="18.5" rx="2"/>`,
	"running":   `<rect class="use" x="1" y="12" width="8" height="10" rx="2"/>`,
}

// slotWords are the outcomes in the order of the key.
var slotWords = []string{"completed", "failed", "skipped", "missed", "running"}

// outcome is the word of a slot in a strip.
func outcome(p schedule.Past) string {
	if p.Run == nil {
		return "missed"
	}
	switch p.Run.Status {
	case schedule.Completed:
		return "completed"
	case schedule.Failed, schedule.Refused:
		return "failed"
	case schedule.Skipped:
		return "skipped"
	case schedule.Unknown:
		return "missed"
	}
	return "running"
}

// slotStrip draws what became of the slots of a schedule, the latest at the right.
func slotStrip(slots []schedule.Past) template.HTML {
	var b strings.Builder
	counts := map[string]int{}
	for i, p := range slots {
		word := outcome(p)
		counts[word]++
		fmt.Fprintf(&b, `<g transform="translate(%d 0)">%s<title>%s UTC: %s</title></g>`, 10*(stripSlots-len(slots)+i), slotShapes[word], p.Slot.UTC().Format("2 Jan 15:04"), word)
	}
	var says []string
	for _, word := range slotWords {
		if counts[word] > 0 {
			says = append(says, fmt.Sprintf("%d %s", counts[word], word))
		}
	}
	if len(says) == 0 {
		says = []string{"none yet"}
	}
	return template.HTML(fmt.Sprintf(`<svg class="slots" viewBox="0 0 %d 24" preserveAspectRatio="xMinYMid" role="img" aria-label="The latest slots: %s">%s<line class="grid" x1="0" x2="%d" y1="23.5" y2="23.5"/></svg>`, //nolint:gosec // numbers and words of this package
		10*stripSlots, strings.Join(says, ", "), b.String(), 10*stripSlots))
}

// slotKey explains the shapes of strips.
func slotKey() template.HTML {
	var b strings.Builder
	for _, word := range slotWords {
		fmt.Fprintf(&b, `<span><svg class="slot" viewBox="0 0 10 24" aria-hidden="true">%s</svg>%s</span>`, slotShapes[word], word)
	}
	return template.HTML(`<p class="key after">` + b.String() + `</p>`) //nolint:gosec // words of this package
}

// days draws a bar for each day, and the limit as a dashed line; limit 0 means none. The part of
// a bar above the limit has another colour. The last day is not over and is drawn lighter.
func days(points []point, top, limit float64, says string) template.HTML {
	var b strings.Builder
	step := chartWidth / float64(max(len(points), 1))
	y := func(v float64) float64 { return chartHeight - 4 - (chartHeight-12)*min(v/max(top, 1), 1) }
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" preserveAspectRatio="none" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(says))
	for i := range 5 {
		at := y(top * float64(i) / 4)
		fmt.Fprintf(&b, `<line class="grid" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartWidth, at, at)
	}
	block := func(class string, x, from, to float64) {
		if to > from {
			fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, class, x+step/6, y(to), step*2/3, y(from)-y(to))
		}
	}
	for i, p := range points {
		x, class := float64(i)*step, "day"
		if i == len(points)-1 {
			class = "day now"
		}
		if limit > 0 {
			block(class, x, 0, min(p.Value, limit))
			block(strings.Replace(class, "day", "day over", 1), x, limit, p.Value)
		} else {
			block(class, x, 0, p.Value)
		}
		fmt.Fprintf(&b, `<rect class="hit" x="%.1f" y="0" width="%.1f" height="%.0f"><title>%s: %s neurons</title></rect>`, x, step, chartHeight, p.At.Format("2 Jan"), neurons(p.Value))
	}
	if limit > 0 && limit <= top {
		fmt.Fprintf(&b, `<line class="limit" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartWidth, y(limit), y(limit))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, and an escaped sentence
}
