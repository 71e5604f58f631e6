package ui

import (
	"context"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
)

// batchView is a batch as pages show it.
type batchView struct {
	*batch.State
	Problems []*batch.Failures
}

// PageTitle is the title of the page.
func (b batchView) PageTitle() string { return "Batch " + cut(60, b.Label()) }

// Label is the name of the file, or the id.
func (b batchView) Label() string {
	if b.Name != "" {
		return b.Name
	}
	return b.ID
}

// Ended reports whether the round has ended.
func (b batchView) Ended() bool { return !b.EndedAt.IsZero() }

// Bar draws the completed and the failed lines.
func (b batchView) Bar() template.HTML {
	return bar(percent(b.Completed, b.Lines), "good", percent(b.Failed, b.Lines), "wrong")
}

// Left is the lines that have not ended.
func (b batchView) Left() int { return max(b.Lines-b.Completed-b.Failed, 0) }

// Estimate is the list price of all lines in neurons.
func (b batchView) Estimate() float64 {
	total := 0.0
	for _, d := range b.Demands {
		total += d.Neurons
	}
	return total
}

type batchesData struct {
	Batches []batchView
	More    bool // there are others, which are not shown
}

const (
	mostBatches = 50  // rows of the page
	mostIDs     = 500 // names that are looked at: each costs a request to the bucket
	batchesFor  = 5 * time.Second
)

// batches lists the latest batches. Callers within some seconds share one reading.
func (u *UI) batches(ctx context.Context, _ *http.Request, c Caller) (any, error) {
	return u.batchLists.get(c.Tenant, "", batchesFor, func() (batchesData, error) { return u.readBatches(ctx, c.Tenant) })
}

func (u *UI) readBatches(ctx context.Context, tenant string) (d batchesData, err error) {
	all := u.cfg.Batches(tenant)
	ids, more, err := all.Latest(ctx, mostBatches, mostIDs)
	if err != nil {
		return d, err
	}
	slices.Reverse(ids) // most ids have their time, and later ones sort after earlier ones
	d.More = more || len(ids) > mostBatches
	for _, id := range ids[:min(len(ids), 2*mostBatches)] {
		s, err := all.State(ctx, id)
		if err != nil {
			continue // it is being written or deleted
		}
		d.Batches = append(d.Batches, batchView{State: s})
	}
	slices.SortStableFunc(d.Batches, func(a, b batchView) int { return b.CreatedAt.Compare(a.CreatedAt) })
	d.Batches = d.Batches[:min(len(d.Batches), mostBatches)]
	return d, nil
}

func (u *UI) batch(ctx context.Context, r *http.Request, c Caller) (any, error) {
	id := r.PathValue("id")
	if !taskID.MatchString(id) {
		return nil, batch.ErrNotFound
	}
	all := u.cfg.Batches(c.Tenant)
	s, err := all.State(ctx, id)
	if err != nil {
		return nil, err
	}
	v := batchView{State: s}
	if v.Failed > 0 && v.Ended() && v.Lines <= mostGrouped {
		if v.Problems, err = all.FailuresOf(ctx, id); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// mostGrouped is the lines of a batch whose failures the page groups: it reads them all.
const mostGrouped = 20_000

// changeBatch cancels a batch or runs its failed lines again.
func (u *UI) changeBatch(w http.ResponseWriter, r *http.Request, c Caller) {
	id, do := r.PathValue("id"), r.PostFormValue("do")
	if !taskID.MatchString(id) {
		u.fail(w, r, c, batch.ErrNotFound)
		return
	}
	var err error
	done := "batch_cancelled"
	switch do {
	case "cancel":
		err = u.cfg.Batches(c.Tenant).Cancel(r.Context(), id)
	case "retry":
		done = "batch_retried"
		_, err = u.cfg.Batches(c.Tenant).Retry(r.Context(), id, batch.RetryOptions{})
	default:
		err = refusedError{http.StatusBadRequest, "The action is not known."}
	}
	u.batchLists.forget(c.Tenant)
	u.acted(w, r, c, acted{err: err, did: do + " batch", about: id, count: 1, to: "/batches/" + id, done: done})
}

// downloadBatch sends the output so far.
func (u *UI) downloadBatch(w http.ResponseWriter, r *http.Request, c Caller) {
	id := r.PathValue("id")
	if !taskID.MatchString(id) {
		u.fail(w, r, c, batch.ErrNotFound)
		return
	}
	if _, err := u.cfg.Batches(c.Tenant).Get(r.Context(), id); err != nil {
		u.fail(w, r, c, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/jsonl")
	h.Set("Content-Disposition", `attachment; filename="`+strings.Trim(id, `"`)+`.jsonl"`)
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	if _, err := u.cfg.Batches(c.Tenant).WriteOutput(r.Context(), id, w); err != nil {
		u.cfg.Log.Warn("output of a batch not sent", "batch", id, "error", err)
		panic(http.ErrAbortHandler) // the reader must notice that lines are missing
	}
}
