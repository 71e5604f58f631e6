package main

import "github.com/neuronmill/neuronmill/internal/traces"

// openTraces starts the traces of this process if the environment asks for them, and returns what
// exports the rest of them and ends them.
func (g *globals) openTraces() (stop func(), err error) {
	if g.tracer, err = traces.FromEnv(g.ctx, builtVersion(), g.log); err != nil {
		return nil, err
	}
	return func() {
		if err := g.tracer.Close(); err != nil {
			g.log.Warn("the last traces are not exported", "error", err)
		}
	}, nil
}
