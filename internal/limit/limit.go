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
	Lane     string    // "interactive" or "bulk"
	Deadline time.Time // an expected turn behind it is refused at once; zero means none
}

// Gate paces the calls to each model. It is safe for concurrent use.
type Gate interface {
	// Wait returns nil when a call may be sent now. When the turn is further away
	// than is worth holding a worker slot for, it returns *PauseError without waiting.
	Wait(ctx context.Context, a Ask) error
	// Close stops all calls to the model, or to every model when it is "", until then.
	Close(ctx context.Context, model string, until time.Time, reason string) error
}

// PauseError says: hand the task back and come again at Until. It is never counted
// as an attempt.
type PauseError struct {
	Model  string
	Until  time.Time
	Reason string // "paced", "closed: throttled", ...
}

func (e *PauseError) Error() string {
	return fmt.Sprintf("gate of %s: %s until %s", e.Model, e.Reason, e.Until.UTC().Format(time.RFC3339))
}
