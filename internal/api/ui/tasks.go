package ui

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/tasks"
)

// taskID is the form of ids. Any other text is the id of no task.
var taskID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func idOf(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !taskID.MatchString(id) {
		return "", tasks.ErrNotFound
	}
	return id, nil
}

// taskFilter is the filter of the list, as the address has it.
type taskFilter struct {
	State, Kind, Lane, Model, Code, Since, Meta string
	After                                       string // position of the page
}

// filterNames are the words before the colon in the search, and the parameters of the
// address.
var filterNames = []string{"state", "kind", "lane", "model", "code", "since", "meta"}

func filterOf(q url.Values) taskFilter {
	get := func(name string) string { return cut(200, q.Get(name)) }
	return taskFilter{get("state"), get("kind"), get("lane"), get("model"), get("code"), get("since"), get("meta"), q.Get("after")}
}

func (f taskFilter) value(name string) string {
	return map[string]string{"state": f.State, "kind": f.Kind, "lane": f.Lane, "model": f.Model, "code": f.Code, "since": f.Since, "meta": f.Meta}[name]
}

// query returns the filter as a query with one value changed; an empty value removes it.
func (f taskFilter) query(name, value string) string {
	q := url.Values{}
	for _, n := range filterNames {
		v := f.value(n)
		if n == name {
			v = value
		}
		if v != "" {
			q.Set(n, v)
		}
	}
	if name == "after" && value != "" {
		q.Set("after", value)
	}
	return "?" + q.Encode()
}

// First returns the query of the first page.
func (f taskFilter) First() string { return f.query("after", "") }

// search turns the text of the search field into an address. The text is an id, or words such as
// "kind:image state:failed".
func search(text string) (string, bool) {
	text = strings.TrimSpace(text)
	if text == "" {
		return "/tasks", true
	}
	if !strings.Contains(text, ":") && taskID.MatchString(text) {
		return "/tasks/" + text, true
	}
	q := url.Values{}
	for word := range strings.FieldsSeq(text) {
		name, value, ok := strings.Cut(word, ":")
		if !ok || !slices.Contains(filterNames, name) || value == "" {
			return "", false
		}
		q.Set(name, value)
	}
	return "/tasks?" + q.Encode(), true
}

// taskRow is a task in the list.
type taskRow struct {
	ID, State, Model, Code, Words, Wait string
	Kind                                tasks.Kind
	Lane                                tasks.Lane
	At                                  time.Time // accepted; of ended tasks when they ended
	Attempts                            int
	Preview                             *preview
}

type tasksData struct {
	Filter taskFilter
	Ended  bool
	Rows   []taskRow
	Next   string // query of the next page; empty at the end
	First  bool
}

// chip is a filter that can be chosen.
type chip struct {
	Name, Query string
	On          bool
}

// Chips returns the values of a filter, each with the query that chooses it.
func (d tasksData) Chips(name string) []chip {
	values := map[string][]string{
		"state": {"", "pending", "active", "retry", "scheduled", "ended", "completed", "failed"},
		"lane":  {"", string(tasks.Interactive), string(tasks.Bulk)},
		"kind":  {""},
	}
	for _, s := range tasks.Specs {
		values["kind"] = append(values["kind"], string(s.Kind))
	}
	var chips []chip
	for _, v := range values[name] {
		var label string
		switch {
		case v == "" && name == "state":
			label = "not ended"
		case v == "":
			label = "all"
		default:
			label = strings.ReplaceAll(stateLabel(name, v), "_", " ")
		}
		chips = append(chips, chip{label, d.Filter.query(name, v), d.Filter.value(name) == v})
	}
	return chips
}

func stateLabel(name, v string) string {
	if name == "state" && v != "ended" {
		return stateOf(v).Word
	}
	return v
}

// Others returns the filters that are on and have no chips of their own, with the query
// that removes each.
func (d tasksData) Others() []chip {
	var chips []chip
	for _, name := range []string{"model", "code", "since", "meta"} {
		if v := d.Filter.value(name); v != "" {
			chips = append(chips, chip{name + ": " + v, d.Filter.query(name, ""), true})
		}
	}
	return chips
}

const (
	mostLive  = 50 // rows of a page
	mostEnded = 30
)

func (u *UI) tasks(ctx context.Context, r *http.Request, c Caller) (any, error) {
	if text := r.URL.Query().Get("q"); r.URL.Query().Has("q") {
		to, ok := search(text)
		if !ok {
			return nil, refusedError{http.StatusBadRequest, "Search for the id of a task, or with words such as kind:image state:failed code:no_capacity model:@cf/baai/bge-m3 since:24h."}
		}
		return nil, redirect(u.url(to))
	}
	d := tasksData{Filter: filterOf(r.URL.Query())}
	d.First = d.Filter.After == ""
	since, err := sinceOf(d.Filter.Since)
	if err != nil {
		return nil, err
	}
	switch d.Filter.State {
	case "completed", "failed", "ended":
		d.Ended = true
		err = u.endedRows(ctx, c, &d, since)
	case "", "pending", "scheduled", "active", "retry", "archived":
		err = u.liveRows(ctx, c, &d, since)
	default:
		err = refusedError{http.StatusBadRequest, "There is no such state."}
	}
	return d, err
}

// sinceOf reads a time or a duration before now.
func sinceOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return time.Now().Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, refusedError{http.StatusBadRequest, "since must be a duration such as 24h, or a time such as 2026-11-26T15:04:05Z."}
	}
	return at, nil
}

var errPosition = refusedError{http.StatusBadRequest, "The page is not known any more. Go to the first one."}

func (u *UI) liveRows(ctx context.Context, c Caller, d *tasksData, since time.Time) error {
	f := d.Filter
	var at tasks.Position
	if f.After != "" {
		section, offset, ok := strings.Cut(f.After, ".")
		var err, err2 error
		at.Section, err = strconv.Atoi(section)
		at.Offset, err2 = strconv.Atoi(offset)
		if errors.Join(err, err2) != nil || !ok || at.Section < 0 || at.Section > 1000 || at.Offset < 0 || at.Offset > 1<<40 {
			return errPosition
		}
	}
	metaKey, metaValue, _ := strings.Cut(f.Meta, ":")
	list, next, err := u.cfg.Client(c.Tenant).ListFrom(ctx, tasks.ListFilter{Kind: tasks.Kind(f.Kind), Lane: tasks.Lane(f.Lane), State: f.State, Limit: mostLive}, at, func(t tasks.Info) bool {
		return (f.Model == "" || t.Model == f.Model) && !t.CreatedAt.Before(since) && (f.Meta == "" || t.Metadata[metaKey] == metaValue)
	})
	if err != nil {
		return err
	}
	for _, t := range list {
		row := taskRow{ID: t.ID, State: t.State, Kind: t.Kind, Lane: t.Lane, Model: t.Model, At: t.CreatedAt, Attempts: t.Attempts, Words: firstWords(t.Payload), Wait: cut(120, t.LastError)}
		if t.Cancelled {
			row.State = "cancelling"
		}
		d.Rows = append(d.Rows, row)
	}
	if next.Section >= 0 {
		d.Next = f.query("after", strconv.Itoa(next.Section)+"."+strconv.Itoa(next.Offset))
	}
	return nil
}

func (u *UI) endedRows(ctx context.Context, c Caller, d *tasksData, since time.Time) error {
	f := d.Filter
	if f.Meta != "" {
		return refusedError{http.StatusBadRequest, "meta selects tasks that have not ended; the results have the metadata of the others."}
	}
	after, err := index.ParseCursor(f.After)
	if err != nil {
		return errPosition
	}
	filter := index.Filter{Kind: tasks.Kind(f.Kind), Lane: tasks.Lane(f.Lane), Model: f.Model, Code: f.Code, Since: since, After: after, Limit: mostEnded}
	if f.State != "ended" {
		filter.Status = tasks.Status(f.State)
	}
	page, err := u.cfg.Index.Find(ctx, c.Tenant, filter)
	if err != nil {
		return err
	}
	found := map[string]preview{}
	for _, p := range u.previewsOf(ctx, c.Tenant, page.Entries) {
		found[p.ID] = p
	}
	for _, e := range page.Entries {
		row := taskRow{ID: e.ID, State: string(e.Status), Kind: e.Kind, Lane: e.Lane, Model: e.Model, At: e.FinishedAt, Code: e.Code}
		if p, ok := found[e.ID]; ok {
			row.Preview, row.Words, row.Attempts = &p, p.Text, p.Attempts
		}
		d.Rows = append(d.Rows, row)
	}
	if !page.Next.IsZero() {
		d.Next = f.query("after", page.Next.String())
	}
	return nil
}

// firstWords returns the first words of the main field of a payload.
func firstWords(payload []byte) string {
	var p struct {
		Prompt   string   `json:"prompt"`
		Text     string   `json:"text"`
		Texts    []string `json:"texts"`
		Messages []struct {
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
		Audio tasks.Audio `json:"audio"`
	}
	if len(payload) == 0 || json.Unmarshal(payload, &p) != nil {
		return ""
	}
	switch {
	case p.Prompt != "":
		return cut(120, p.Prompt)
	case p.Text != "":
		return cut(120, p.Text)
	case len(p.Texts) > 0:
		return cut(120, strings.Join(p.Texts[:min(3, len(p.Texts))], " · "))
	case len(p.Messages) > 0:
		return cut(120, strings.Trim(string(p.Messages[len(p.Messages)-1].Content), `"`))
	}
	return cut(120, p.Audio.Key+p.Audio.URL)
}
