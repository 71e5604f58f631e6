package ui

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

// functions are those of the templates.
var functions = template.FuncMap{
	"link": link, "count": count, "neurons": neurons, "dollars": dollars, "usd": usd, "when": when, "took": took, "clean": clean, "cut": cut,
	"short": shortModel, "kinds": func() []tasks.Spec { return tasks.Specs }, "state": stateOf, "percent": percent, "bar": bar,
	"meaning": meaning, "advice": advice, "list": func(items ...any) []any { return items }, "bytes": byteCount, "busy": busy, "begin": beginning, "runtook": runTook, "slotkey": slotKey, "pages": func() []navPage { return navPages },
}

// navPage is a page that the frame links to, for callers with the scope.
type navPage struct{ Nav, Path, Title, Scope string }

var navPages = []navPage{
	{"overview", "/", "Overview", "tasks:read"}, {"tasks", "/tasks", "Tasks", "tasks:read"}, {"batches", "/batches", "Batches", "tasks:read"}, {"schedules", "/schedules", "Schedules", "tasks:read"},
	{"errors", "/errors", "Errors", "tasks:read"}, {"gates", "/gates", "Gates", "tasks:read"}, {"workers", "/workers", "Workers", "tasks:read"}, {"usage", "/usage", "Usage", "usage:read"},
	{"webhooks", "/webhooks", "Webhooks", "tasks:read"}, {"log", "/log", "Log", "tasks:read"},
}

// count groups the digits of a number.
func count(n int) string {
	digits := strconv.Itoa(n)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// neurons writes a price with as many digits as matter.
func neurons(n float64) string {
	switch {
	case n == 0:
		return "0"
	case n < 10:
		return strconv.FormatFloat(n, 'f', 2, 64)
	case n < 100:
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return count(int(math.Round(n)))
}

// dollars is the list price of neurons beyond the free allocation.
func dollars(n float64) string { return usd(n * batch.DollarsPerNeuron) }

// usd writes an amount of dollars with as many digits as matter.
func usd(d float64) string {
	switch {
	case d == 0:
		return "$0"
	case d < 0.01: // two digits that are not zero
		return "$" + strconv.FormatFloat(d, 'f', 1-int(math.Floor(math.Log10(d))), 64)
	case d >= 1000:
		return "$" + count(int(math.Round(d)))
	}
	return "$" + strconv.FormatFloat(d, 'f', 2, 64)
}

// when is a time for people. The script of the page writes it relative to now, in the zone
// of the browser.
func when(t any) template.HTML {
	var at time.Time
	switch t := t.(type) {
	case time.Time:
		at = t
	case *time.Time:
		if t != nil {
			at = *t
		}
	}
	if at.IsZero() {
		return "–"
	}
	at = at.UTC()
	return template.HTML(`<time datetime="` + at.Format("2006-01-02T15:04:05.000Z") + `">` + at.Format("2 Jan 15:04:05") + ` UTC</time>`) //nolint:gosec // digits and names of months
}

// took is a duration for people.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "under 1 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// byteCount is a size for people.
func byteCount(n int64) string {
	switch {
	case n < 1000:
		return strconv.FormatInt(n, 10) + " bytes"
	case n < 1_000_000:
		return strconv.FormatFloat(float64(n)/1000, 'f', 1, 64) + " kB"
	}
	return strconv.FormatFloat(float64(n)/1_000_000, 'f', 1, 64) + " MB"
}

// clean makes characters visible that could reorder or hide the text around them.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError:
			return '\uFFFD'
		}
		return r
	}, s)
}

// cut cleans a text and shortens it to so many characters.
func cut(most int, s string) string {
	if len(s) > 4*most {
		s = s[:4*most]
	}
	runes := []rune(clean(strings.ToValidUTF8(s, "")))
	if len(runes) <= most {
		return string(runes)
	}
	return string(runes[:most-1]) + "…"
}

// shortModel is the last part of a model's id.
func shortModel(id string) string { return cut(60, path.Base(cmp.Or(id, "–"))) }

// mark is how a state looks: a shape, a colour and a word.
type mark struct{ Shape, Colour, Word string }

var marks = map[string]mark{
	"completed": {"tick", "ok", "completed"}, "failed": {"cross", "bad", "failed"}, "active": {"run", "accent", "running"},
	"pending": {"ring", "wait", "waiting"}, "scheduled": {"clock", "soft", "scheduled"}, "retry": {"clock", "wait", "waits to retry"},
	"cancelling": {"cross", "wait", "is cancelled"}, "archived": {"cross", "soft", "archived"},
	"open": {"tick", "ok", "open"}, "learned": {"slow", "wait", "learned"}, "narrow": {"slow", "wait", "narrow"},
	"closed": {"bars", "bad", "closed"}, "probing": {"run", "wait", "probing"}, "held": {"lock", "bad", "held"},
	"waiting": {"ring", "wait", "waiting"}, "running": {"run", "accent", "running"}, "stopping": {"bars", "wait", "stopping"},
	"cancelled": {"cross", "soft", "cancelled"}, "expired": {"clock", "bad", "expired"}, "stopped": {"cross", "bad", "stopped"},
	"fires": {"tick", "ok", "fires"}, "paused": {"bars", "wait", "paused"}, "skipped": {"skip", "wait", "skipped"}, "refused": {"cross", "bad", "refused"},
	"claimed": {"clock", "wait", "starting"}, "unknown": {"ring", "soft", "not known"},
	"delivered": {"tick", "ok", "delivered"}, "gone": {"cross", "soft", "gone"},
}

// stateOf returns the mark of a state of a task, a gate, a batch, a schedule, a worker or a delivery.
func stateOf(word any) mark {
	text := fmt.Sprint(word)
	if m, ok := marks[text]; ok {
		return m
	}
	return mark{"ring", "soft", cut(20, text)}
}

func percent(part, whole any) int {
	p, w := number(part), number(whole)
	if w <= 0 {
		return 0
	}
	return int(math.Round(100 * max(0, min(1, p/w))))
}

func number(v any) float64 {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

// busy draws the slots of a worker that have a task.
func busy(w monitor.Worker) template.HTML {
	slots, used := w.Slots()
	return bar(percent(used, slots), "use") + template.HTML(fmt.Sprintf(" %d of %d", used, slots)) //nolint:gosec // numbers
}

func meaning(code string) string { return codeInfo(code).Meaning }
func advice(code string) string  { return codeInfo(code).Advice }

func codeInfo(code string) tasks.CodeInfo {
	if i := slices.IndexFunc(tasks.Codes, func(c tasks.CodeInfo) bool { return c.Code == code }); i >= 0 {
		return tasks.Codes[i]
	}
	return tasks.CodeInfo{Code: code}
}
