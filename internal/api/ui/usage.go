package ui

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/usage"
)

const (
	usageFor  = 5 * time.Second // a reading is used again
	usageDays = 31              // of the chart
	mostRows  = 100             // of the table; the CSV has all
)

// usageData is what tasks have cost. The query of the page is that of GET /v1/usage.
type usageData struct {
	Whole  bool // of the account, with all tenants; else of the caller's tenant
	Days   int
	By     string
	Day    string // the last day as the address has it; empty is today
	Report usage.Report
	Past   []usage.Figures // the last days, oldest first, until today
	Today  usage.Forecast
	Month  usage.Forecast
}

// usageQuery reads the parameters of the page.
func usageQuery(r *http.Request, c Caller) (q usage.Query, err error) {
	get := r.URL.Query().Get
	q = usage.Query{Tenant: tenantOf(c), Last: cut(20, get("day")), Days: 1, By: usage.Dimension(cut(20, get("by")))}
	if text := get("days"); text != "" {
		if q.Days, err = strconv.Atoi(text); err != nil || q.Days < 1 || q.Days > usage.MostDays {
			return q, refusedError{http.StatusBadRequest, fmt.Sprintf("days must be from 1 to %d.", usage.MostDays)}
		}
	}
	return q, nil
}

// tenantOf is whose usage a caller sees: that of the key's tenant, or of the whole account on an
// open server, which has no keys.
func tenantOf(c Caller) string {
	if c.KeyID == "" && c.Scopes == nil {
		return ""
	}
	return c.Tenant
}

func (u *UI) usage(ctx context.Context, r *http.Request, c Caller) (any, error) {
	q, err := usageQuery(r, c)
	if err != nil {
		return nil, err
	}
	if q.By == "" {
		q.By = usage.ByModel
	}
	page := fmt.Sprintf("%q", []string{q.Tenant, q.Last, strconv.Itoa(q.Days), string(q.By)})
	return u.usages.get(c.Tenant, page, usageFor, func() (usageData, error) { return u.readUsage(ctx, q, time.Now()) })
}

func (u *UI) readUsage(ctx context.Context, q usage.Query, now time.Time) (usageData, error) {
	d := usageData{Whole: q.Tenant == "", Days: q.Days, By: string(q.By), Day: q.Last}
	var err error
	if d.Report, err = u.cfg.Usage.Report(ctx, q, now); err != nil {
		return d, refusedQuery(err)
	}
	past, err := u.cfg.Usage.Report(ctx, usage.Query{Tenant: q.Tenant, Days: usageDays + 1, By: usage.ByDay}, now)
	if err != nil {
		return d, err
	}
	d.Past = past.Rows
	if past.Forecast != nil {
		d.Today = *past.Forecast
		d.Month = usage.Month(past.Rows, d.Today, d.free())
	}
	return d, nil
}

// refusedQuery explains a query that is not valid without its value.
func refusedQuery(err error) error {
	if invalid, ok := errors.AsType[usage.InvalidQuery](err); ok {
		field, _, _ := strings.Cut(invalid.Error(), ":")
		wants := map[string]string{"day": "day must be a day such as 2026-11-27.", "by": "by must be model, key, batch, schedule or day; the whole account also has tenant."}
		return refusedError{http.StatusBadRequest, wants[field]}
	}
	return err
}

// usageCSV sends the rows of a report as a file.
func (u *UI) usageCSV(w http.ResponseWriter, r *http.Request, c Caller) {
	q, err := usageQuery(r, c)
	var report usage.Report
	if err == nil {
		report, err = u.cfg.Usage.Report(r.Context(), q, time.Now())
	}
	if err != nil {
		u.fail(w, r, c, refusedQuery(err))
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="usage-%s-%s.csv"`, report.To, report.By))
	if err := report.WriteCSV(w); err != nil {
		u.cfg.Log.Debug("usage not sent", "error", err)
	}
}

// free is the neurons of a day that cost nothing: the allocation is the account's.
func (d usageData) free() float64 {
	if d.Whole {
		return usage.FreePerDay
	}
	return 0
}

// Spent is the neurons of today so far.
func (d usageData) Spent() float64 {
	if len(d.Past) == 0 {
		return 0
	}
	return d.Past[len(d.Past)-1].Neurons
}

// FreeBar draws how much of the free allocation is used today.
func (d usageData) FreeBar() template.HTML {
	used, class := percent(d.Spent(), usage.FreePerDay), "good"
	switch {
	case used >= 90:
		class = "wrong"
	case used >= 70:
		class = "warn"
	}
	return bar(used, class)
}

// FreeNeurons is the free allocation of a day.
func (d usageData) FreeNeurons() int { return usage.FreePerDay }

// query returns the address of the page with other parameters.
func (d usageData) query(days int, by, day string) string {
	text := strconv.Itoa(days)
	if days == 1 {
		text = ""
	}
	return link("", "", "days", text, "by", by, "day", day)
}

// Spans are the lengths of time to choose from.
func (d usageData) Spans() []chip {
	chips := []chip{{"day", d.query(1, d.By, d.Day), d.Days == 1}, {"7 days", d.query(7, d.By, d.Day), d.Days == 7}, {"31 days", d.query(31, d.By, d.Day), d.Days == 31}}
	if d.Day != "" {
		chips = append(chips, chip{"until " + d.Report.To, d.query(d.Days, d.By, d.Day), true}, chip{"until today", d.query(d.Days, d.By, ""), false})
	}
	return chips
}

// Groups are the kinds of rows.
func (d usageData) Groups() []chip {
	names := []usage.Dimension{usage.ByModel, usage.ByKey, usage.ByBatch, usage.BySchedule, usage.ByDay}
	if d.Whole {
		names = slices.Insert(names, 1, usage.ByTenant)
	}
	chips := make([]chip, len(names))
	for i, name := range names {
		chips[i] = chip{string(name), d.query(d.Days, string(name), d.Day), d.By == string(name)}
	}
	return chips
}

// CSV is the query of the file of the same rows.
func (d usageData) CSV() string { return d.query(d.Days, d.By, d.Day) }

// Rows are the rows of the table.
func (d usageData) Rows() []usage.Figures { return d.Report.Rows[:min(len(d.Report.Rows), mostRows)] }

// Hidden is how many rows only the file has.
func (d usageData) Hidden() int { return len(d.Report.Rows) - len(d.Rows()) }

// Share draws the part of a row in the dearest one.
func (d usageData) Share(f usage.Figures) template.HTML {
	most := 0.0
	for _, r := range d.Report.Rows {
		most = max(most, r.Neurons)
	}
	return bar(percent(f.Neurons, most), "use")
}

// Path is the page of a row's subject; empty if it has none.
func (d usageData) Path(value string) string {
	switch usage.Dimension(d.By) {
	case usage.ByModel:
		return link("", "/tasks", "state", "ended", "model", value)
	case usage.ByBatch:
		if taskID.MatchString(value) {
			return "/batches/" + value
		}
	case usage.BySchedule:
		if len(value) <= mostName && value != usage.Other {
			return "/schedules/" + url.PathEscape(value)
		}
	case usage.ByDay:
		return "/usage" + d.query(1, string(usage.ByModel), value)
	}
	return ""
}

// Top is the highest value on the axis of the chart.
func (d usageData) Top() int {
	most := 0.0
	for _, day := range d.Past {
		most = max(most, day.Neurons)
	}
	if free := d.free(); free > most && free <= 3*most {
		most = free
	}
	return int(ceiling(most))
}

// Chart draws the neurons of each day.
func (d usageData) Chart() template.HTML {
	points := make([]point, 0, len(d.Past))
	total := 0.0
	for _, f := range d.Past {
		at, err := time.Parse(time.DateOnly, f.Value)
		if err != nil {
			continue
		}
		points = append(points, point{At: at, Value: f.Neurons})
		total += f.Neurons
	}
	return days(points, float64(d.Top()), d.free(), fmt.Sprintf("%s neurons in %d days, %s of them today", neurons(total), len(points), neurons(d.Spent())))
}

// Ends are the first and the last day of the chart.
func (d usageData) Ends() []string {
	if len(d.Past) == 0 {
		return nil
	}
	return []string{d.Past[0].Value, "today"}
}
