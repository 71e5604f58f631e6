package ui

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/errtext"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/tasks"
)

// errorGroup is failed tasks with one code, model and message, apart from digits.
type errorGroup struct {
	Code, Model, Message string
	Kind                 tasks.Kind
	Count                int
	First, Last          time.Time
	Examples             []string
}

type errorsData struct {
	Groups []errorGroup
	Read   int  // dead letters that were looked at
	More   bool // there are others
}

// mostLetters bounds how many dead letters one page groups, and one action changes.
const mostLetters = 1000

// lettersFor is how long groups are used again.
const lettersFor = 5 * time.Second

func (u *UI) errors(ctx context.Context, _ *http.Request, c Caller) (any, error) {
	return u.groups.get(c.Tenant, "", lettersFor, func() (errorsData, error) { return u.readGroups(ctx, c.Tenant) })
}

// readGroups groups dead letters, at one request to the bucket for each.
func (u *UI) readGroups(ctx context.Context, tenant string) (errorsData, error) {
	d := errorsData{}
	places := map[string]int{}
	for letter, err := range u.cfg.Client(tenant).DeadLetters(ctx, tasks.DeadLetterFilter{Limit: mostLetters + 1}) {
		if err != nil {
			return d, err
		}
		if d.Read == mostLetters {
			d.More = true
			break
		}
		d.Read++
		name := groupOf(letter)
		at, ok := places[name]
		if !ok {
			at = len(d.Groups)
			places[name] = at
			d.Groups = append(d.Groups, errorGroup{Code: letter.Error.Code, Model: letter.Model, Message: letter.Error.Message, Kind: letter.Kind, First: letter.FailedAt, Last: letter.FailedAt})
		}
		d.Groups[at].add(letter)
	}
	slices.SortStableFunc(d.Groups, func(a, b errorGroup) int { return cmp.Or(b.Last.Compare(a.Last), b.Count-a.Count) })
	return d, nil
}

const examples = 3

func (g *errorGroup) add(l tasks.DeadLetter) {
	g.Count++
	if l.FailedAt.Before(g.First) {
		g.First = l.FailedAt
	}
	if l.FailedAt.After(g.Last) {
		g.Last = l.FailedAt
	}
	if len(g.Examples) < examples {
		g.Examples = append(g.Examples, l.ID)
	}
}

// groupOf names the group of a dead letter.
func groupOf(l tasks.DeadLetter) string {
	return strings.Join([]string{l.Error.Code, l.Model, errtext.Normal(l.Error.Message)}, "\x00")
}

type workersData struct {
	Workers []monitor.Worker
	Missing []string // what no worker does although tasks wait for it
}

func (u *UI) workers(ctx context.Context, _ *http.Request, _ Caller) (any, error) {
	workers, err := u.cfg.Monitor.Workers(ctx)
	if err != nil {
		return nil, err
	}
	f, err := u.fleet(ctx)
	if err != nil {
		return nil, err
	}
	d := workersData{Workers: workers}
	for _, finding := range f.Report.Findings {
		if strings.Contains(finding.About, ":") && strings.HasPrefix(finding.Do, "neuronmill worker") {
			d.Missing = append(d.Missing, finding.About+": "+finding.Reason)
		}
	}
	return d, nil
}

type webhooksData struct{ Entries []webhook.Entry }

// mostDeliveries is the rows of the page.
const mostDeliveries = 100

func (u *UI) webhooks(ctx context.Context, _ *http.Request, c Caller) (any, error) {
	entries, err := u.cfg.Webhooks.Log(ctx, c.Tenant, mostDeliveries)
	return webhooksData{entries}, err
}

func (u *UI) replay(w http.ResponseWriter, r *http.Request, c Caller) {
	id := r.PostFormValue("id")
	err := error(refusedError{http.StatusNotFound, "There is no such delivery any more; they are kept for seven days."})
	if len(id) < 100 {
		if found := u.cfg.Webhooks.Replay(r.Context(), c.Tenant, id); !errors.Is(found, webhook.ErrUnknown) {
			err = found
		}
	}
	u.acted(w, r, c, acted{err: err, did: "replay webhook", about: cut(100, id), count: 1, to: "/webhooks", done: "replayed"})
}

type logData struct{ Actions []history.Action }

func (u *UI) actions(ctx context.Context, _ *http.Request, c Caller) (any, error) {
	list, err := u.cfg.History.Actions(ctx, c.Tenant, 100)
	return logData{list}, err
}
