package main

import (
	"context"
	"sync"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/redis/go-redis/v9"
)

// streamer prints the texts of tasks while models write them, one task at a time. A part
// that it misses comes with the result.
type streamer struct {
	g     *globals
	hub   *events.Hub
	begun func() // called before the first text
	stop  func() // the caller calls it at the end
}

// newStreamer starts a streamer.
func newStreamer(g *globals, r redis.UniversalClient, begun func()) *streamer {
	s := &streamer{g: g, hub: events.NewHub(r, g.log), begun: begun}
	ctx, cancel := context.WithCancel(g.ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = s.hub.Run(ctx) }) // it returns nil
	s.stop = func() {
		cancel()
		running.Wait()
	}
	return s
}

// follow prints the text of a task until finish is called, which returns the text that was
// printed of the last attempt.
func (s *streamer) follow(id string, snapshot events.Snapshot) (finish func() string) {
	ctx, cancel := context.WithCancel(s.g.ctx)
	out := followed{g: s.g}
	var done sync.WaitGroup
	done.Go(func() {
		f, err := s.hub.Follow(ctx, id, 0, snapshot)
		if err != nil {
			s.g.log.Debug("the text of a task is not followed", "task", id, "error", err)
			return
		}
		defer f.Close()
		for {
			e, err := f.Next(ctx)
			if err != nil {
				return
			}
			if e.Type == events.Text {
				s.begun()
			}
			if e.Type != events.Text && e.Type != events.Running {
				continue // the progress says why a task waits
			}
			if out.print(e) != nil {
				return
			}
		}
	})
	return func() string {
		cancel()
		done.Wait()
		return out.text.String()
	}
}
