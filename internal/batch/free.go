package batch

import (
	"context"
	"math"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
)

// startFree makes all calls of the fleet count against the free allocation before the first
// call of a batch that may spend nothing else.
func (d *driver) startFree(ctx context.Context) error {
	return d.patiently(ctx, "redis", d.keepFree)
}

// keepFree does that again while the batch runs, since Redis may have lost it.
func (d *driver) keepFree(ctx context.Context) error {
	if d.batch.Spend != tasks.SpendFree {
		return nil
	}
	return d.KeepFree(ctx)
}

// KeepFree makes all calls of the fleet count against the free allocation. It goes before work
// that may spend nothing else.
func (b *Batches) KeepFree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ledger := usage.Ledger{Redis: b.Redis}
	return ledger.KeepFree(ctx, &budget.Caps{Redis: b.Redis, Store: b.Store}, time.Now())
}

// Outlook has the end of a batch and its cost.
type Outlook struct {
	At      time.Time `json:"at"`
	Dollars float64   `json:"dollars"`
}

// mostDays bounds an Outlook: ten years.
const mostDays = 3653

// OutlookOf forecasts a batch from its neurons and the time of its calls at the pace of their
// models. left is the rest of the free allocation of today. paid is the outlook of a batch
// that may cost money, free that of one that uses the free allocation only. Its time is zero
// if it takes more than ten years.
func OutlookOf(now time.Time, neurons float64, took time.Duration, left float64) (paid, free Outlook) {
	took = max(took, time.Second)
	rate := neurons / took.Seconds()
	paid = Outlook{At: now.Add(took)}
	at, allocation, rest := now, left, neurons
	for at.Before(paid.At) {
		end := budget.NextDay(at)
		if paid.At.Before(end) {
			end = paid.At
		}
		spent := min(rate*end.Sub(at).Seconds(), rest)
		paid.Dollars += max(spent-allocation, 0) * DollarsPerNeuron
		at, allocation, rest = end, budget.FreePerDay, rest-spent
	}
	at, allocation, rest = now, left, neurons
	for range mostDays {
		end := budget.NextDay(at)
		spent := min(rate*end.Sub(at).Seconds(), rest, allocation)
		if rest-spent <= 1e-6*neurons {
			seconds := took.Seconds()
			if rate > 0 {
				seconds = rest / rate
			}
			free.At = at.Add(time.Duration(math.Round(seconds)) * time.Second)
			return paid, free
		}
		at, allocation, rest = end, budget.FreePerDay, rest-spent
	}
	return paid, free
}
