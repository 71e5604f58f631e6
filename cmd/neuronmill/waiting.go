package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

const (
	endsWithin = 5 * time.Second // after its deadline, if a worker owns the task
	callGrace  = time.Minute     // from a call's time limit to its stored result
)

// overdueError reports that a command stopped waiting for a task: its deadline has passed
// and no call is in progress.
type overdueError struct{ waited string }

func (e *overdueError) Error() string {
	return "its deadline has passed; it was waiting: " + e.waited
}

// await waits for the result of a task until its deadline. If a call is in progress then,
// it also waits for its result.
func await(g *globals, stack *app.Stack, id string, deadline time.Time) outcome {
	ctx, cancel := context.WithDeadline(g.ctx, deadline.Add(endsWithin))
	defer cancel()
	r, err := stack.Client.Wait(ctx, id)
	if err == nil || g.ctx.Err() != nil || ctx.Err() == nil {
		return outcome{r, err}
	}
	info, why := reason(g, stack, id)
	if info.Result != nil {
		return outcome{result: info.Result}
	}
	if !info.called {
		return outcome{err: &overdueError{why}}
	}
	spec, _ := tasks.SpecOf(info.Kind)
	ctx, cancel = context.WithTimeout(g.ctx, spec.Timeout+callGrace)
	defer cancel()
	if r, err = stack.Client.Wait(ctx, id); err != nil && g.ctx.Err() == nil {
		err = &overdueError{why}
	}
	return outcome{r, err}
}

// standing is the state of a task.
type standing struct {
	tasks.Info
	called bool // a call is in progress
}

// reason returns the reason why a task waits, in one line.
func reason(g *globals, stack *app.Stack, id string) (standing, string) {
	info, err := stack.Client.Get(g.ctx, id)
	if err != nil || info.Result != nil {
		return standing{Info: info}, troubleText(err)
	}
	waiting, err := stack.Monitor().WaitingOn(g.ctx, stack.Gate(g.settings, 0, g.log), info)
	if err != nil {
		return standing{Info: info}, troubleText(err)
	}
	return standing{info, waiting.Called}, waiting.String()
}

// troubleText explains why the reason for waiting is unknown.
func troubleText(err error) string {
	switch {
	case err == nil:
		return "its result"
	case errors.Is(err, tasks.ErrNotFound):
		return "neither Redis nor the bucket knows the task"
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok {
		err = dial
	}
	return fmt.Sprintf("Redis or the bucket cannot be reached: %v", err)
}

// explainer shows, beside the progress, why the next task in order waits. It starts after
// explainAfter.
type explainer struct {
	mu    sync.Mutex
	id    string
	since time.Time
	quit  func()
	said  map[string]bool
}

const (
	explainAfter = time.Second // short waits need no explanation
	explainEvery = 3 * time.Second
)

// explain starts an explainer; stop ends it.
func explain(g *globals, stack *app.Stack, bar *progress) *explainer {
	ctx, cancel := context.WithCancel(g.ctx)
	e := &explainer{said: map[string]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() { e.run(ctx, g, stack, bar) })
	e.quit = func() { cancel(); wg.Wait() }
	return e
}

func (e *explainer) stop() { e.quit() }

// of sets the task that the command waits for; empty means none.
func (e *explainer) of(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.id, e.since = id, time.Now()
}

// waited returns the id of the task if the command has waited for explainAfter, otherwise
// "".
func (e *explainer) waited() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.since) < explainAfter {
		return ""
	}
	return e.id
}

func (e *explainer) run(ctx context.Context, g *globals, stack *app.Stack, bar *progress) {
	inner := *g
	inner.ctx = ctx
	tick := time.NewTicker(explainAfter / 2)
	defer tick.Stop()
	var asked time.Time
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		id := e.waited()
		if id == "" {
			bar.waitsFor("")
			continue
		}
		if id == last && time.Since(asked) < explainEvery {
			continue
		}
		_, why := reason(&inner, stack, id)
		if ctx.Err() == nil && e.waited() == id {
			bar.waitsFor(why)
			e.sayLong(bar, why)
		}
		last, asked = id, time.Now()
	}
}

// sayLong prints a text once if it does not fit beside the bar.
func (e *explainer) sayLong(bar *progress, why string) {
	if !bar.tooLong(why) {
		return
	}
	// The same reason recurs with other times and request ids.
	kind := strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, why)
	kind = kind[:min(len(kind), 40)]
	if !e.said[kind] {
		e.said[kind] = true
		bar.say("waiting: %s", why)
	}
}
