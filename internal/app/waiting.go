package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Waiting is what a task that has not ended waits for. The zero value: nothing but a
// free worker.
type Waiting struct {
	Reason string        // "paced", or why its gate is closed; empty when it is not the gate
	Ahead  int           // tasks before it in its queue or at its gate, as far as Redis knows
	Turn   time.Duration // from now, expected; 0 when that cannot be told
}

// String is one line for people.
func (w Waiting) String() string {
	text := w.Reason
	if text == "" {
		text = "a free worker"
	}
	if w.Ahead > 0 {
		text += fmt.Sprintf(", behind %d others", w.Ahead)
	}
	if w.Turn > 0 {
		text += fmt.Sprintf(", its turn in about %s", w.Turn.Round(time.Second))
	}
	return text
}

// WaitingOn says what a task waits for.
func (s *Stack) WaitingOn(ctx context.Context, g *limit.Gate, t tasks.Info) (Waiting, error) {
	states, err := g.States(ctx, t.Model, limit.Account)
	if err != nil {
		return Waiting{}, err
	}
	gate, account := states[0], states[1]
	if gate.Name == limit.Account {
		gate, account = account, gate
	}
	var w Waiting
	if w.Ahead, err = s.ahead(ctx, t); err != nil {
		return w, err
	}
	row, _ := catalogue.Find(t.Model)
	w.Turn = gate.Turn + time.Duration(w.Ahead/max(row.Texts, 1))*gate.Interval()
	switch closed := max(gate.Closed, account.Closed); {
	case gate.Held || gate.Interval() == 0 && gate.Why != "":
		w.Reason, w.Turn = gate.Why, 0
	case account.Closed > 0:
		w.Reason, w.Turn = account.Why, w.Turn+closed
	case gate.Closed > 0:
		w.Reason = gate.Why
	case gate.Turn > 0 || gate.Interactive+gate.Bulk > 0:
		w.Reason = limit.Paced
	}
	return w, nil
}

// ahead counts those that come before a task: in the parking list of its model, or in
// its queue.
func (s *Stack) ahead(ctx context.Context, t tasks.Info) (int, error) {
	queue := tasks.Queue(t.Kind, t.Lane)
	pipe := s.Redis.Pipeline()
	parked := pipe.ZRank(ctx, tasks.ParkedKey(queue, t.Model), t.ID)
	allParked := pipe.ZCard(ctx, tasks.ParkedKey(queue, t.Model))
	pending := pipe.LPos(ctx, "asynq:{"+queue+"}:pending", t.ID, redis.LPosArgs{Rank: -1})
	length := pipe.LLen(ctx, "asynq:{"+queue+"}:pending")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("find the place of %s: %w", t.ID, err)
	}
	switch {
	case parked.Err() == nil:
		return int(parked.Val()), nil
	case pending.Err() == nil: // taken from the right
		return int(length.Val()-1-pending.Val()) + int(allParked.Val()), nil
	}
	return 0, nil
}
