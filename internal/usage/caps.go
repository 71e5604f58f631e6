package usage

import (
	"context"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
)

// SetCap sets a cap. What tasks that have ended today have cost counts against it.
func (l *Ledger) SetCap(ctx context.Context, caps *budget.Caps, c budget.Cap, now time.Time) error {
	if err := caps.Set(ctx, c); err != nil {
		return err
	}
	spent, err := l.spentUnder(ctx, c, DayOf(now))
	if err != nil {
		return err
	}
	return budget.Seed(ctx, l.Redis, c, spent.Neurons(), now)
}

// KeepFree sees to it that all calls of the fleet count against the free allocation, and that
// what ended tasks have cost today does. Whoever runs work that may spend the free allocation
// only calls it before, and from time to time.
func (l *Ledger) KeepFree(ctx context.Context, caps *budget.Caps, now time.Time) error {
	all, err := caps.List(ctx)
	if err != nil {
		return err
	}
	c := budget.FreeCap
	if !slices.ContainsFunc(all, func(one budget.Cap) bool { return one.Scope == budget.Free }) {
		return l.SetCap(ctx, caps, c, now)
	}
	day, err := l.totals(ctx, DayOf(now))
	if err != nil {
		return err
	}
	return budget.Seed(ctx, l.Redis, c, day.Total.Neurons(), now)
}

// FreeLeft returns the neurons that are left today of the free allocation, without those that
// calls under way have reserved.
func (l *Ledger) FreeLeft(ctx context.Context, caps *budget.Caps, now time.Time) (float64, error) {
	all, err := caps.List(ctx)
	if err != nil {
		return 0, err
	}
	c := budget.FreeCap
	if at := slices.IndexFunc(all, func(one budget.Cap) bool { return one.Scope == budget.Free }); at >= 0 {
		c = all[at]
	}
	spent, reserved, err := budget.Spent(ctx, l.Redis, []budget.Cap{c}, now)
	if err != nil {
		return 0, err
	}
	day, err := l.totals(ctx, DayOf(now))
	if err != nil {
		return 0, err
	}
	return max(c.Neurons-max(spent[0]+reserved[0], day.Total.Neurons()), 0), nil
}

// spentUnder returns the cost of the tasks under a cap on a day.
func (l *Ledger) spentUnder(ctx context.Context, c budget.Cap, date string) (Sum, error) {
	if c.Scope == budget.Tenant {
		day, err := l.Tenant(ctx, date, c.Name)
		return day.Total, err
	}
	day, err := l.Account(ctx, date)
	if c.Scope == budget.Key {
		return day.By[ByKey][c.Name], err
	}
	return day.Total, err
}
