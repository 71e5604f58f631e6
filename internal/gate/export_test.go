package gate

import (
	"context"
	"time"
)

// Listen makes a gate take it that messages reach it.
func (g *Gate) Listen() { g.listening.Store(true) }

// Process is the name of the process at the gates.
func (g *Gate) Process() string { return g.process }

// Question puts one question to a gate's script and returns its answer as it came.
func (g *Gate) Question(ctx context.Context, name string, a Request, slot int64) (what string, wait time.Duration, err error) {
	r, err := g.ask(ctx, name, a, turn{slot: slot})
	return r.what, r.wait, err
}
