package handlers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// Tasks whose model takes several texts at once ride together: while they wait for the
// gate they gather in a line, and one call carries as many as the model takes. Nobody
// waits for company: a text alone goes as soon as the gate is open.

// carpool holds the lines of this process.
type carpool struct {
	mu           sync.Mutex
	embeddings   map[route]*line[[]float32]
	translations map[route]*line[string]
}

// route is what texts must have in common to ride together.
type route struct {
	model   string
	kind    tasks.Kind
	lane    tasks.Lane
	options string
}

// seat is a part of a task that fits into one call.
type seat[T any] struct {
	j     *job
	texts []string
	size  int // tokens, estimated
	done  chan arrival[T]
}

type arrival[T any] struct {
	answers []T // one a text
	err     error
}

// line is where the seats of one route wait.
type line[T any] struct {
	h    *Handlers
	to   route
	row  catalogue.Model
	send func(context.Context, []string) ([]T, workersai.Meta, error)

	mu      sync.Mutex
	waiting []*seat[T]
	driving bool
	joined  chan struct{} // has one element after a seat joined
}

// lineTo finds or makes the line of a route.
func lineTo[T any](h *Handlers, lines *map[route]*line[T], to route, send func(context.Context, []string) ([]T, workersai.Meta, error)) *line[T] {
	h.carpool.mu.Lock()
	defer h.carpool.mu.Unlock()
	if *lines == nil {
		*lines = map[route]*line[T]{}
	}
	l := (*lines)[to]
	if l == nil {
		row, _ := catalogue.Find(to.model)
		l = &line[T]{h: h, to: to, row: row, send: send, joined: make(chan struct{}, 1)}
		(*lines)[to] = l
	}
	return l
}

// ride sends texts, together with those of other tasks, and gives one answer each.
func (l *line[T]) ride(ctx context.Context, j *job, texts []string) ([]T, error) {
	s := &seat[T]{j: j, texts: texts, done: make(chan arrival[T], 1)}
	for _, t := range texts {
		s.size += tokensOf(t, l.row)
	}
	ctx, cancel := j.turn(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	defer l.h.idles(ctx, j)()
	if err := l.join(ctx, s); err != nil {
		return nil, err
	}
	select {
	case a := <-s.done:
		return a.answers, a.err
	case <-ctx.Done():
		if l.leave(s) {
			return nil, context.Cause(ctx)
		}
		a := <-s.done // it is on its way: paid for
		return a.answers, a.err
	}
}

// join waits in the line. A queue that others want too does not give all its slots to
// one line.
func (l *line[T]) join(ctx context.Context, s *seat[T]) error {
	crowded := s.j.startedAt.IsZero() && l.h.shared(ctx, l.to.kind, l.to.lane)
	l.mu.Lock()
	defer l.mu.Unlock()
	if crowded && len(l.waiting) >= l.h.seats(l.to.kind) {
		return &limit.PauseError{Model: l.to.model, Until: time.Now(), Reason: limit.Paced}
	}
	l.waiting = append(l.waiting, s)
	select {
	case l.joined <- struct{}{}:
	default:
	}
	if !l.driving {
		l.driving = true
		go l.drive(context.WithoutCancel(ctx)) // ends when nobody waits; each seat waits for it
	}
	return nil
}

// leave takes a seat out of the line; false when it is on its way.
func (l *line[T]) leave(s *seat[T]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.waiting, s)
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return true
}

// drive passes the gate again and again, and sends off whoever waits then.
func (l *line[T]) drive(ctx context.Context) {
	for l.anyone() {
		l.gather(ctx)
		place, err := l.h.cfg.Gate.Pass(ctx, limit.Ask{
			Model: l.to.model, Kind: string(l.to.kind), Lane: string(l.to.lane),
		})
		if err != nil {
			l.turnAway(ctx, err)
			continue
		}
		group := l.board()
		if len(group) == 0 {
			_, _ = place.Done(ctx, limit.Ended, 0)
			continue
		}
		go l.carry(ctx, place, group)
	}
}

// anyone reports whether somebody waits; when not, the next to join drives.
func (l *line[T]) anyone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.driving = len(l.waiting) > 0
	return l.driving
}

// lull is a gap between arrivals after which the line takes it that nobody comes. This
// process may be out of slots, though: while it holds tasks that are called for or
// stored, bulk waits for some more gaps, since each that ends makes room for another.
const (
	lull  = 25 * time.Millisecond
	lulls = 20
)

// gather waits for a full car as long as the queue has more tasks and they keep
// coming: what waits anyway rides together, and nothing else is waited for.
func (l *line[T]) gather(ctx context.Context) {
	for gaps := 0; !l.full() && l.h.backlog(ctx, tasks.Queue(l.to.kind, l.to.lane)); {
		select {
		case <-l.joined:
			gaps = 0
		case <-time.After(lull):
			gaps++
			if l.to.lane != tasks.Bulk || gaps == lulls || l.h.held.Load() == l.length() {
				return
			}
		}
	}
}

// length is how many tasks wait.
func (l *line[T]) length() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.waiting))
}

func (l *line[T]) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	texts := 0
	for _, s := range l.waiting {
		texts += len(s.texts)
	}
	return texts >= l.row.Texts
}

// backlog reports whether a queue has tasks that no worker has taken.
func (h *Handlers) backlog(ctx context.Context, queue string) bool {
	n, err := h.cfg.Redis.LLen(ctx, "asynq:{"+queue+"}:pending").Result()
	return err == nil && n > 0
}

// board takes as many seats as fit into one call, in the order of the line.
func (l *line[T]) board() []*seat[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	var group []*seat[T]
	texts, size := 0, 0
	for _, s := range l.waiting {
		if texts += len(s.texts); len(group) > 0 && (texts > l.row.Texts || l.row.CallTokens > 0 && size+s.size > l.row.CallTokens) {
			break
		}
		size += s.size
		group = append(group, s)
	}
	l.waiting = slices.Delete(l.waiting, 0, len(group))
	return group
}

// turnAway tells those who wait why the gate does not let them through, where others
// want their slots. Who has something paid for in hand stays.
func (l *line[T]) turnAway(ctx context.Context, err error) {
	pause, closed := errors.AsType[*limit.PauseError](err)
	if !closed || pause.Model != limit.Account && l.h.shared(ctx, l.to.kind, l.to.lane) {
		l.mu.Lock()
		l.waiting = slices.DeleteFunc(l.waiting, func(s *seat[T]) bool {
			if !s.j.startedAt.IsZero() {
				return false
			}
			s.done <- arrival[T]{err: err}
			return true
		})
		l.mu.Unlock()
	}
	if !closed {
		pause = &limit.PauseError{Until: time.Now().Add(look)}
	}
	_ = wait(ctx, again(pause))
}

// carry makes one call for a group and tells each seat how it went.
func (l *line[T]) carry(ctx context.Context, place *limit.Place, group []*seat[T]) {
	answers, err := l.call(ctx, place, group)
	if len(group) > 1 && ends(group, err) && l.h.cfg.on(guardSplit) {
		l.split(ctx, group)
		return
	}
	for _, s := range group {
		a := arrival[T]{err: err}
		if err == nil {
			a.answers, answers = answers[:len(s.texts)], answers[len(s.texts):]
		}
		s.done <- a
	}
}

// ends reports whether one of a group would fail by what its call met. One text can be
// to blame for that, be it refused as invalid or break the call each time.
func ends[T any](group []*seat[T], err error) bool {
	return err != nil && slices.ContainsFunc(group, func(s *seat[T]) bool {
		return judge(err, s.j.counts, s.j.spec).fail != nil
	})
}

// alone is the size up to which a refused group is taken apart wholly.
const alone = 10

// split sends the parts of a group by themselves: as many as the root of its
// size, then each seat alone. That finds the bad one of a hundred with at most three
// sendings of each text.
func (l *line[T]) split(ctx context.Context, group []*seat[T]) {
	size := 1
	if len(group) > alone {
		size = min(alone, int(math.Ceil(math.Sqrt(float64(len(group))))))
	}
	for part := range slices.Chunk(group, size) {
		last := slices.MinFunc(part, func(a, b *seat[T]) int { return a.j.task.Deadline.Compare(b.j.task.Deadline) })
		place, err := l.h.cfg.Gate.Pass(ctx, limit.Ask{
			Model: l.to.model, Kind: string(l.to.kind), Lane: string(l.to.lane), Patience: time.Until(last.j.task.Deadline),
		})
		if err != nil {
			for _, s := range part {
				s.done <- arrival[T]{err: err}
			}
			continue
		}
		l.carry(ctx, place, part)
	}
}

func (l *line[T]) call(ctx context.Context, place *limit.Place, group []*seat[T]) ([]T, error) {
	var texts []string
	var jobs []*job
	total := 0
	for _, s := range group {
		texts, jobs, total = append(texts, s.texts...), append(jobs, s.j), total+s.size
	}
	var answers []T
	meta, err := l.h.call(ctx, place, jobs, func(ctx context.Context) (meta workersai.Meta, err error) {
		answers, meta, err = l.send(ctx, texts)
		return meta, err
	})
	for _, s := range group {
		s.j.neurons += meta.Neurons * float64(s.size) / float64(total)
	}
	if err == nil && len(answers) != len(texts) {
		err = fmt.Errorf("%d answers came for %d texts", len(answers), len(texts))
	}
	return answers, err
}

// tokensOf is an estimate on the safe side: few texts have more than one token in
// three bytes, and none counts for more than the model reads of it.
func tokensOf(text string, m catalogue.Model) int {
	n := len(text)/3 + 2
	if m.TextTokens > 0 {
		n = min(n, m.TextTokens)
	}
	return n
}
