package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// Status is the state of a run.
type Status string

// The states of a run. A claimed run has no task yet: a scheduler is about to enqueue it,
// or has died and another one is about to.
const (
	Claimed   Status = "claimed"
	Running   Status = "running" // its work is in the queue or under way
	Completed Status = "completed"
	Failed    Status = "failed"
	Skipped   Status = "skipped" // it was left out; Reason says why
	Refused   Status = "refused" // its work was not accepted; Reason says why
	Unknown   Status = "unknown" // its task is gone, and its result was deleted before anybody looked
)

// Run is what became of one slot. It is the object that makes each slot fire once.
type Run struct {
	Slot      time.Time `json:"slot"`
	Manual    bool      `json:"manual,omitempty"` // a person started it
	Status    Status    `json:"status"`
	ClaimedAt time.Time `json:"claimed_at"`
	By        string    `json:"by"` // the scheduler that claimed it; random, one each start
	Task      string    `json:"task,omitempty"`
	Batch     string    `json:"batch,omitempty"`  // of a schedule with a file
	Reason    string    `json:"reason,omitempty"` // why it was skipped, refused or has failed
	// After is the slot of the run that had not ended when this one was skipped.
	After   time.Time `json:"after,omitzero"`
	EndedAt time.Time `json:"ended_at,omitzero"`
	Neurons float64   `json:"neurons"` // of all calls; 0 until the run has ended
	Calls   int       `json:"calls"`   // 0 for a batch
}

// ended reports whether nothing will change the run any more.
func (r Run) ended() bool { return r.Status != Claimed && r.Status != Running }

// KeptRuns is how many runs of a schedule the bucket keeps.
const KeptRuns = 100

// ledger keeps the runs of one schedule in the bucket, one object each. Newer slots sort
// before older ones, so that a listing begins with the latest.
type ledger struct {
	store  storage.Store
	prefix string
}

func ledgerOf(s storage.Store, tenant, schedule string) ledger {
	return ledger{s, tenant + "/schedule-runs/" + schedule + "/"}
}

const (
	lastSecond   = 99_999_999_999 // later than any slot
	manualSuffix = "-manual"
)

// slotRef is a run in a listing.
type slotRef struct {
	key    string
	slot   time.Time
	manual bool
}

func (l ledger) key(slot time.Time, manual bool) string {
	suffix := ""
	if manual {
		suffix = manualSuffix
	}
	return fmt.Sprintf("%s%011d%s.json", l.prefix, lastSecond-slot.Unix(), suffix)
}

// refs lists the latest runs, newest slot first; n is the most.
func (l ledger) refs(ctx context.Context, n int) ([]slotRef, error) {
	var refs []slotRef
	for info, err := range l.store.List(ctx, l.prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the runs: %w", err)
		}
		name, manual := strings.CutSuffix(strings.TrimSuffix(strings.TrimPrefix(info.Key, l.prefix), ".json"), manualSuffix)
		inverted, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			continue // none of ours
		}
		refs = append(refs, slotRef{info.Key, time.Unix(lastSecond-inverted, 0).UTC(), manual})
		if len(refs) == n {
			break
		}
	}
	return refs, nil
}

func (l ledger) read(ctx context.Context, key string) (r Run, err error) {
	return r, readJSON(ctx, l.store, key, &r)
}

// claim creates the run of a slot. mine is false, and the run is the one in the bucket, if
// another scheduler has created it.
func (l ledger) claim(ctx context.Context, r Run) (claimed Run, mine bool, err error) {
	key := l.key(r.Slot, r.Manual)
	document, err := json.Marshal(r)
	if err != nil {
		return r, false, fmt.Errorf("encode the run: %w", err)
	}
	err = l.store.Create(ctx, key, bytes.NewReader(document), "application/json")
	if errors.Is(err, storage.ErrExists) {
		claimed, err = l.read(ctx, key)
		return claimed, false, err
	}
	if err != nil {
		return r, false, fmt.Errorf("create %s: %w", key, err)
	}
	return r, true, nil
}

// put replaces a run.
func (l ledger) put(ctx context.Context, r Run) error {
	return putJSON(ctx, l.store, l.key(r.Slot, r.Manual), r)
}

// latest returns the newest slot up to a time, zero when there is none, and whether its
// run is only claimed. Slots after now come from a clock that was ahead.
func (l ledger) latest(ctx context.Context, now time.Time) (slot time.Time, claimed bool, err error) {
	refs, err := l.refs(ctx, 2*KeptRuns)
	if err != nil {
		return time.Time{}, false, err
	}
	for _, ref := range refs {
		if ref.manual || ref.slot.After(now) {
			continue
		}
		r, err := l.read(ctx, ref.key)
		if errors.Is(err, storage.ErrNotFound) {
			continue // pruned meanwhile
		}
		return ref.slot, r.Status == Claimed, err
	}
	return time.Time{}, false, nil
}

// settle finds out whether a run has ended, and stores its end, so that the history
// outlives the results.
func (l ledger) settle(ctx context.Context, client *tasks.Client, batches *batch.Batches, r Run) (Run, error) {
	if r.Status != Running {
		return r, nil
	}
	if r.Batch != "" {
		settled, err := settleBatch(ctx, batches, r)
		if err != nil || !settled.ended() {
			return r, err
		}
		return settled, l.put(ctx, settled)
	}
	info, err := client.Get(ctx, r.Task)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		r.Status = Unknown
		return r, l.put(ctx, r)
	case err != nil:
		return r, fmt.Errorf("look for %s: %w", r.Task, err)
	case info.Result == nil:
		return r, nil
	}
	result := info.Result
	r.Status, r.EndedAt, r.Neurons, r.Calls = Completed, result.FinishedAt, result.Usage.Neurons, result.Usage.Calls
	if result.Status == tasks.Failed {
		r.Status = Failed
		if result.Error != nil {
			r.Reason = result.Error.Code
		}
	}
	return r, l.put(ctx, r)
}

func readJSON(ctx context.Context, s storage.Store, key string, into any) error {
	body, err := s.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	defer body.Close()
	document, err := io.ReadAll(io.LimitReader(body, 4<<20))
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(document, into); err != nil {
		return fmt.Errorf("decode %s: %w", key, err)
	}
	return nil
}

func putJSON(ctx context.Context, s storage.Store, key string, v any) error {
	document, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if err := s.Put(ctx, key, bytes.NewReader(document), "application/json"); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}
