package budget

import (
	"context"
	"fmt"
	"sync"
)

// Purse caps the cost of work that one process at a time drives, such as a batch. A call
// reserves its highest price before it is sent, and releases it once its price is part of
// what was spent, so that the cap is never exceeded.
type Purse struct {
	cap   float64
	spent func() float64

	mu       sync.Mutex
	reserved int64         // millionths of neurons
	freed    chan struct{} // closed by the next release
}

// NewPurse returns a purse. spent returns the neurons that the work has cost so far.
func NewPurse(neurons float64, spent func() float64) *Purse {
	return &Purse{cap: neurons, spent: spent, freed: make(chan struct{})}
}

// SpentError refuses a call that might exceed the cap of a purse.
type SpentError struct{ Cap, Spent, Needs float64 }

func (e *SpentError) Error() string {
	return fmt.Sprintf("%.6g of its %.6g neurons are spent, and the next call may cost %.4g", e.Spent, e.Cap, e.Needs)
}

// Reserve reserves the highest price of a call. It waits for the calls under way while they
// may leave enough, and returns a *SpentError when none is and the rest is too small.
func (p *Purse) Reserve(ctx context.Context, most float64) error {
	for {
		freed, err := p.try(most)
		if freed == nil {
			return err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// try returns a channel to wait for if calls under way have reserved too much.
func (p *Purse) try(most float64) (freed chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	spent := p.spent()
	switch {
	case micro(spent)+p.reserved+micro(most) <= micro(p.cap):
		p.reserved += micro(most)
		return nil, nil
	case p.reserved == 0 || micro(spent)+micro(most) > micro(p.cap):
		return nil, &SpentError{Cap: p.cap, Spent: spent, Needs: most}
	}
	return p.freed, nil
}

// Release ends the reservation of a call, after its price was added to the sum.
func (p *Purse) Release(most float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved -= micro(most)
	close(p.freed)
	p.freed = make(chan struct{})
}
