package usage

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/history"
)

// ByDay sums by day, where a Dimension sums by value.
const ByDay Dimension = "day"

// MostDays is the most days of a report.
const MostDays = int(KeptFor / (24 * time.Hour))

// Query selects the content of a report.
type Query struct {
	Tenant string    // only this tenant; empty means all
	Last   string    // the last day; empty means today
	Days   int       // how many days until then; 0 means 1
	By     Dimension // empty means ByModel for one day, ByDay for several
}

// Report is usage as people and programs get it.
type Report struct {
	From  string    `json:"from" doc:"The first day, in UTC." example:"2026-11-27"`
	To    string    `json:"to" doc:"The last day."`
	By    Dimension `json:"by" enum:"day,tenant,key,model,batch,schedule"`
	Rows  []Figures `json:"rows" doc:"The dearest first; days in their order. Tasks without a key, batch or schedule are in no row by it."`
	Total Figures   `json:"total"`
	// Billed is missing in the report of one tenant: the free allocation is the account's.
	Billed   *float64  `json:"billed_dollars,omitempty" doc:"Price of all days beyond the free 10,000 neurons of each; only for the whole account."`
	Forecast *Forecast `json:"forecast,omitempty" doc:"Of today, when the report ends with it."`
}

// Figures are the figures of a row.
type Figures struct {
	Value     string  `json:"value,omitempty" doc:"The day, or the name of what is summed; (other) sums what is beyond 200 names a day."`
	Neurons   float64 `json:"neurons"`
	Dollars   float64 `json:"dollars" doc:"List price, without the free allocation."`
	Tasks     int     `json:"tasks" doc:"That have ended."`
	Calls     int     `json:"calls"`
	Unsettled int     `json:"unsettled" doc:"Calls that may have been billed, at a price that is not known: a worker or connection broke."`
}

// Forecast is the cost of a day at its end.
type Forecast struct {
	Day     string  `json:"day"`
	Neurons float64 `json:"neurons" doc:"So far, and to the end of the day at the pace of the last hour."`
	Dollars float64 `json:"dollars" doc:"List price; for the whole account beyond the free allocation."`
}

func figures(value string, s Sum) Figures {
	return Figures{Value: value, Neurons: s.Neurons(), Dollars: s.Dollars(), Tasks: s.Tasks, Calls: s.Calls, Unsettled: s.Unsettled}
}

// dates returns the days of a query, or its faults.
func (q *Query) dates(now time.Time) ([]string, error) {
	last := now.UTC()
	if q.Last != "" {
		var err error
		if last, err = time.ParseInLocation(time.DateOnly, q.Last, time.UTC); err != nil {
			return nil, fmt.Errorf("day: %q is not a day such as 2026-11-27", q.Last)
		}
	}
	if q.Days == 0 {
		q.Days = 1
	}
	if q.Days < 1 || q.Days > MostDays {
		return nil, fmt.Errorf("days: must be from 1 to %d", MostDays)
	}
	if q.By == "" {
		if q.By = ByModel; q.Days > 1 {
			q.By = ByDay
		}
	}
	if q.By != ByDay && !slices.Contains(Dimensions, q.By) {
		return nil, fmt.Errorf("by: %q is none of day, %s", q.By, joined())
	}
	if q.By == ByTenant && q.Tenant != "" {
		return nil, errors.New("by: one tenant cannot be summed by tenant")
	}
	return LastDays(last, q.Days), nil
}

func joined() string {
	names := make([]string, len(Dimensions))
	for i, d := range Dimensions {
		names[i] = string(d)
	}
	return strings.Join(names, ", ")
}

// InvalidQuery is the error of a Query that is not valid; its text begins with the field.
type InvalidQuery struct{ error }

// Report sums the usage of the days of a query. The error is an InvalidQuery if the query is
// not valid.
func (l *Ledger) Report(ctx context.Context, q Query, now time.Time) (Report, error) {
	dates, err := q.dates(now)
	if err != nil {
		return Report{}, InvalidQuery{err}
	}
	report := Report{From: dates[0], To: dates[len(dates)-1], By: q.By, Rows: []Figures{}}
	var all, last Day
	billed := 0.0
	for _, date := range dates {
		if last, err = l.day(ctx, date, q); err != nil {
			return Report{}, err
		}
		if q.By == ByDay {
			report.Rows = append(report.Rows, figures(date, last.Total))
		}
		billed += last.Total.Billed()
		all.Total = all.Total.Add(last.Total)
		for value, s := range last.By[q.By] {
			all.addTo(q.By, value, s)
		}
	}
	for _, row := range all.Rows(q.By) {
		if row.Sum != (Sum{}) {
			report.Rows = append(report.Rows, figures(row.Value, row.Sum))
		}
	}
	report.Total = figures("", all.Total)
	if q.Tenant == "" {
		report.Billed = &billed
	}
	if last.Date == DayOf(now) {
		report.Forecast, err = l.forecast(ctx, last, q.Tenant, now)
	}
	return report, err
}

func (l *Ledger) day(ctx context.Context, date string, q Query) (Day, error) {
	switch {
	case q.Tenant != "":
		return l.Tenant(ctx, date, q.Tenant)
	case q.By == ByDay || q.By == ByTenant:
		return l.totals(ctx, date)
	}
	return l.Account(ctx, date)
}

// forecast adds the pace of the last hour to the cost of a day so far.
func (l *Ledger) forecast(ctx context.Context, today Day, tenant string, now time.Time) (*Forecast, error) {
	tenants := []string{tenant}
	if tenant == "" {
		tenants = nil
		for t := range today.By[ByTenant] {
			tenants = append(tenants, t)
		}
	}
	past := &history.History{Redis: l.Redis}
	hour := 0.0
	for _, t := range tenants {
		minutes, err := past.Minutes(ctx, t, now, 60)
		if err != nil {
			return nil, err
		}
		for _, m := range minutes {
			hour += m.Neurons
		}
	}
	now = now.UTC()
	left := now.Truncate(24*time.Hour).AddDate(0, 0, 1).Sub(now).Hours()
	s := Sum{MicroNeurons: today.Total.MicroNeurons + int64(hour*left*1e6)}
	f := &Forecast{Day: today.Date, Neurons: s.Neurons(), Dollars: s.Dollars()}
	if tenant == "" {
		f.Dollars = s.Billed()
	}
	return f, nil
}

// meanOf is the days before today whose mean a forecast of the month continues.
const meanOf = 7

// Month forecasts the calendar month of the last of the days, which is today, from the days of a
// report by day: those of the month so far, today as forecast, and the others at the mean of the
// seven days before today. Dollars are the list price of each day beyond so many free neurons.
func Month(days []Figures, today Forecast, free float64) Forecast {
	last, err := time.Parse(time.DateOnly, today.Day)
	if err != nil || len(days) == 0 {
		return Forecast{}
	}
	before := days[:len(days)-1]
	price := func(neurons float64) float64 { return max(neurons-free, 0) * DollarsPerNeuron }
	month := Forecast{Day: today.Day[:len("2026-11")], Neurons: today.Neurons, Dollars: price(today.Neurons)}
	for _, d := range before {
		if strings.HasPrefix(d.Value, month.Day) {
			month.Neurons += d.Neurons
			month.Dollars += price(d.Neurons)
		}
	}
	recent := before[max(0, len(before)-meanOf):]
	left := float64(last.AddDate(0, 1, -last.Day()).Day() - last.Day())
	for _, d := range recent {
		month.Neurons += d.Neurons * left / float64(len(recent))
		month.Dollars += price(d.Neurons) * left / float64(len(recent))
	}
	return month
}

// WriteCSV writes the rows as comma-separated values with a header.
func (r Report) WriteCSV(to io.Writer) error {
	w := csv.NewWriter(to)
	rows := [][]string{{string(r.By), "neurons", "dollars", "tasks", "calls", "unsettled"}}
	for _, f := range r.Rows {
		rows = append(rows, []string{
			f.Value, strconv.FormatFloat(f.Neurons, 'f', -1, 64), strconv.FormatFloat(f.Dollars, 'f', -1, 64),
			strconv.Itoa(f.Tasks), strconv.Itoa(f.Calls), strconv.Itoa(f.Unsettled),
		})
	}
	if err := w.WriteAll(rows); err != nil {
		return fmt.Errorf("write the usage: %w", err)
	}
	return nil
}
