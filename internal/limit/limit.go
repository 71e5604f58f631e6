// Package limit is the gate: it says when a model may be called, and closes when
// the API says stop. Local keeps one process to its pace; it is the same interface
// that a gate shared by the fleet has.
package limit

import (
	"context"
	"fmt"
	"time"
)

// Ask is one question to the gate: may this model be called now?
type Ask struct {
	Model    string
	Kind     string
	Lane     string        // "interactive" or "bulk"
	Patience time.Duration // how long the turn may be waited for in place; 0 means the default of Patience
}

// Gate paces the calls to each model. It is safe for concurrent use.
type Gate interface {
	// Wait returns nil when a call may be sent now. When the turn is further away
	// than is worth holding a worker slot for, it returns *PauseError without waiting.
	Wait(ctx context.Context, a Ask) error
	// Close stops all calls to the model, or to every model when it is "", until then.
	Close(ctx context.Context, model string, until time.Time, reason string) error
}

// Paced is the reason of a PauseError when nothing is wrong but the pace.
const Paced = "paced"

// PauseError says: hand the task back and come again at Until. It is never counted
// as an attempt.
type PauseError struct {
	Model  string
	Until  time.Time
	Reason string // Paced, or "closed: " and why
}

func (e *PauseError) Error() string {
	return fmt.Sprintf("gate of %s: %s until %s", e.Model, e.Reason, e.Until.UTC().Format(time.RFC3339))
}
