package maintenance

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
)

// closedFor is the longest closure of the account's gate at which tasks are still
// re-admitted.
const closedFor = time.Second

// readmit checks queues and gates once. It defers pending tasks whose gate has no room, and
// re-admits deferred tasks whose gate has room. Without deferred tasks, and while the tasks
// of each queue are of one model, it only looks whether that is still so, once a second.
func (f *fleet) readmit(ctx context.Context) (time.Duration, error) {
	queues, err := f.look(ctx, dueEvery+dueEvery/2)
	if err != nil {
		return 0, err
	}
	backlogs, err := queue.Backlogs(ctx, f.Redis, those(queues, func(h queue.Holds) bool { return h.Models }))
	if err != nil {
		return 0, err
	}
	var busy []queue.Backlog
	var errs []error
	names := []string{gate.Account}
	for _, b := range backlogs {
		deferred, err := queue.HasDeferred(ctx, f.Redis, b.Queue, b.Models)
		errs = append(errs, err)
		if deferred || len(b.Models) > 1 {
			busy, names = append(busy, b), append(names, b.Models...)
		} else if b.Pending == 0 {
			errs = append(errs, queue.ForgetModels(ctx, f.Redis, b.Queue, b.Models))
		}
	}
	if len(busy) == 0 {
		return dueEvery, errors.Join(errs...)
	}
	states, err := f.Gate.States(ctx, names...)
	if err != nil {
		return 0, err
	}
	gates := map[string]gate.State{}
	for _, s := range states {
		gates[s.Name] = s
	}
	if gates[gate.Account].Closed > closedFor {
		return 0, errors.Join(errs...) // no task can pass: all wait in place
	}
	for _, b := range busy {
		errs = append(errs, f.readmitQueue(ctx, b, gates))
	}
	return 0, errors.Join(errs...)
}

// readmitQueue defers and re-admits tasks of one queue. A task whose gate has no room is
// deferred when its queue has tasks of other models too: they reach its place in the queue.
func (f *fleet) readmitQueue(ctx context.Context, b queue.Backlog, gates map[string]gate.State) error {
	_, lane, _ := strings.Cut(b.Queue, ":")
	var full []string
	var errs []error
	for _, m := range b.Models {
		room := gates[m].Room(lane)
		if room == 0 {
			full = append(full, m)
		} else if n := f.worth(b.Queue, gates[m], room); n > 0 {
			errs = append(errs, queue.Readmit(ctx, f.Redis, b.Queue, m, n))
		}
	}
	if b.Pending > 0 && len(full) > 0 && len(b.Models) > 1 {
		errs = append(errs, queue.DeferPending(ctx, f.Redis, b.Queue, full))
	}
	if b.Pending == 0 {
		errs = append(errs, queue.ForgetModels(ctx, f.Redis, b.Queue, b.Models))
	}
	return errors.Join(errs...)
}

// worth converts a gate's room for callers to a number of tasks. For a model whose tasks
// are coalesced, each call since the last re-admission makes room for one full group.
func (f *fleet) worth(name string, s gate.State, room int) int {
	row, _ := catalogue.Find(s.Name)
	if row.Texts <= 1 {
		return room
	}
	left := s.Calls - f.calls[name+s.Name]
	f.calls[name+s.Name] = s.Calls
	if s.Interactive+s.Bulk == 0 {
		left = max(left, 1)
	}
	return min(room, left) * row.Texts
}
