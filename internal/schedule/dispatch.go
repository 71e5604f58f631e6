package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// dispatcher enqueues the work of slots of one tenant.
type dispatcher struct {
	store   storage.Store
	client  *tasks.Client
	batches *batch.Batches
	tenant  string
	owner   string // this process, in claims
	now     func() time.Time
	log     *slog.Logger
}

const (
	// claimFor is how long a claim without a task belongs to the scheduler that made it.
	// Afterwards others take it over; the id of the task follows from the slot, so that even
	// two of them at once enqueue one task.
	claimFor = 10 * time.Second
	// reasonBytes bounds the reason of a run that was refused.
	reasonBytes = 300
)

// errClaimed: another scheduler has just claimed the slot.
var errClaimed = errors.New("another scheduler has claimed the slot and not enqueued its task yet")

// dispatch fires a slot unless that was done. It claims the slot by creating its run in
// the bucket, enqueues the task under an id that follows from the slot, and stores the id
// in the run. Whoever finds a claim without a task after claimFor continues it.
func (d *dispatcher) dispatch(ctx context.Context, e Entry, slot time.Time, manual bool) (Run, error) {
	runs := ledgerOf(d.store, d.tenant, e.Name)
	r, mine, err := runs.claim(ctx, Run{Slot: slot.UTC(), Manual: manual, Status: Claimed, ClaimedAt: d.now().UTC(), By: d.owner})
	switch age := d.now().Sub(r.ClaimedAt); {
	case err != nil:
		return r, err
	case r.Status != Claimed:
		d.log.Debug("slot was fired by another scheduler", "schedule", e.Name, "slot", slot)
		return r, nil
	case r.By != d.owner && age >= 0 && age < claimFor:
		return r, errClaimed
	}
	refs, err := runs.refs(ctx, 2*KeptRuns)
	if err != nil {
		return r, err
	}
	if mine && forgotten(refs, slot) {
		d.log.Warn("slot given up: it is older than all runs that are kept", "schedule", e.Name, "slot", slot)
		r.Status = Skipped
		return r, d.store.Delete(ctx, runs.key(slot, manual))
	}
	if r, err = d.submit(ctx, e, runs, refs, r); err != nil {
		return r, err
	}
	if err := runs.put(ctx, r); err != nil {
		return r, err
	}
	d.prune(ctx, e, refs)
	return r, nil
}

// forgotten reports whether the run of a slot may have been pruned before: all runs that
// are kept are newer.
func forgotten(refs []slotRef, slot time.Time) bool {
	newer := 0
	for _, ref := range refs {
		if ref.slot.After(slot) {
			newer++
		}
	}
	return newer >= KeptRuns
}

// submit decides about a claimed slot, and submits its work. An error means that the slot
// must be tried again.
func (d *dispatcher) submit(ctx context.Context, e Entry, runs ledger, refs []slotRef, r Run) (Run, error) {
	log := d.log.With("schedule", e.Name, "slot", r.Slot)
	blocking, err := d.overlapping(ctx, e, runs, refs, r)
	if err != nil {
		return r, err
	}
	if blocking != nil {
		r.Status, r.After = Skipped, blocking.Slot
		r.Reason = "the run of " + blocking.Slot.Format(time.RFC3339) + " had not ended"
		log.Info("slot skipped: the run before it has not ended", "running", blocking.Slot)
		return r, nil
	}
	deadline := e.deadline(r.Slot)
	if !deadline.IsZero() && !deadline.After(d.now()) {
		r.Status, r.Reason = Skipped, "its deadline had passed"
		log.Warn("slot skipped: its deadline has passed", "deadline", deadline)
		return r, nil
	}
	switch {
	case e.File != nil:
		r, err = d.submitFile(ctx, e, r, deadline)
	case e.New != nil:
		r, err = d.submitNew(ctx, e, runs, refs, r, deadline)
	default:
		return d.submitTask(ctx, e, r, deadline)
	}
	if r.Status == Refused {
		log.Error("slot given up: its lines are refused", "reason", r.Reason)
	}
	return r, err
}

// submitTask enqueues the task of a slot. An error means that the slot must be tried again.
func (d *dispatcher) submitTask(ctx context.Context, e Entry, r Run, deadline time.Time) (Run, error) {
	log := d.log.With("schedule", e.Name, "slot", r.Slot)
	options := append(e.options(), tasks.WithScheduleSlot(e.Name, r.Slot))
	if !deadline.IsZero() {
		options = append(options, tasks.WithDeadline(deadline))
	}
	if e.Spend == tasks.SpendFree {
		if err := d.batches.KeepFree(ctx); err != nil {
			return r, err
		}
	}
	payload, err := e.payload(r.Slot)
	var accepted tasks.Receipt
	if err == nil {
		accepted, err = d.client.Enqueue(ctx, payload, options...)
	}
	invalid, refused := errors.AsType[tasks.ValidationError](err)
	switch {
	case err == nil:
		r.Status, r.Task = Running, accepted.ID
		log.Info("slot enqueued", "task", accepted.ID, "by_another", accepted.Existing)
	case errors.Is(err, tasks.ErrIdempotencyMismatch):
		r.Status, r.Reason = Refused, "the slot already had another task"
		log.Error("slot was enqueued with another task; is a scheduler running with an older file?", "error", err)
	case refused:
		r = refuse(r, invalid)
		log.Error("slot given up: its task is refused", "error", err)
	default:
		return r, fmt.Errorf("enqueue: %w", err)
	}
	return r, nil
}

// overlapping returns the run before a slot if that has not ended and the slot must be
// skipped. It cancels that run instead if the schedule says so.
func (d *dispatcher) overlapping(ctx context.Context, e Entry, runs ledger, refs []slotRef, r Run) (*Run, error) {
	before, err := d.before(ctx, runs, refs, r)
	if err != nil || before == nil || before.Status == Claimed { // an abandoned claim must not stop the schedule
		return nil, err
	}
	settled, err := runs.settle(ctx, d.client, d.batches, *before)
	if e.Overlap != OverlapSkip && e.Overlap != OverlapCancel {
		return nil, nil // the end is stored when the next slot or a person looks
	}
	if err != nil || settled.ended() {
		return nil, err
	}
	if e.Overlap == OverlapSkip {
		return &settled, nil
	}
	if err := d.cancel(ctx, settled); err != nil {
		return nil, fmt.Errorf("cancel the run of %s: %w", settled.Slot.Format(time.RFC3339), err)
	}
	d.log.Info("the run before the slot is cancelled", "schedule", e.Name, "slot", r.Slot, "task", settled.Task, "batch", settled.Batch)
	return nil, nil
}

// cancel ends the work of a run, unless it has ended.
func (d *dispatcher) cancel(ctx context.Context, r Run) error {
	if r.Batch != "" {
		err := d.batches.Cancel(ctx, r.Batch)
		if errors.Is(err, batch.ErrEnded) || errors.Is(err, batch.ErrNotFound) {
			return nil
		}
		return err
	}
	err := d.client.Cancel(ctx, r.Task)
	if errors.Is(err, tasks.ErrEnded) || errors.Is(err, tasks.ErrNotFound) {
		return nil
	}
	return err
}

// before returns the latest run before a slot that was not skipped because of another one;
// nil when there is none.
func (d *dispatcher) before(ctx context.Context, runs ledger, refs []slotRef, r Run) (*Run, error) {
	at := r.Slot
	for _, ref := range refs {
		if !ref.slot.Before(at) {
			continue
		}
		found, err := runs.read(ctx, ref.key)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			continue // pruned meanwhile
		case err != nil:
			return nil, err
		case found.Status == Skipped && !found.After.IsZero():
			at = found.After.Add(time.Second)
			continue
		}
		return &found, nil
	}
	return nil, nil
}

// prune deletes the oldest runs beyond those that are kept.
func (d *dispatcher) prune(ctx context.Context, e Entry, refs []slotRef) {
	if len(refs) <= KeptRuns {
		return
	}
	keys := make([]string, 0, len(refs)-KeptRuns)
	for _, ref := range refs[KeptRuns:] {
		keys = append(keys, ref.key)
		if e.New != nil {
			keys = append(keys, d.freshKey(e, foundName(ref.slot, ref.manual)))
		}
	}
	if err := storage.DeleteMany(ctx, d.store, keys); err != nil {
		d.log.Debug("old runs stay in the bucket until the next slot", "error", err)
	}
}
