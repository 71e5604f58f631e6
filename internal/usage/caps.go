package usage

import (
	"context"
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

// spentUnder returns what the tasks under a cap have cost on a day.
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
