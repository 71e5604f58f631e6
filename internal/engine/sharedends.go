package engine

import (
	"context"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/redis/go-redis/v9"
)

// sharedEnds collects the ended tasks of shared pending records and writes them to Redis
// once a second. The reconciler deletes a record when all its tasks have ended. It asks the
// bucket for the results of tasks that a process did not write before it died.
type sharedEnds struct {
	redis redis.UniversalClient
	mu    sync.Mutex
	ended map[objects.SharedRecord][]any // indexes of the tasks
	timer *time.Timer                    // of the next write; nil while there is nothing to write
	write sync.WaitGroup                 // scheduled and running writes
}

const (
	sharedEndsEvery = time.Second
	sharedEndsWait  = 5 * time.Second // limit of one write
)

// add adds a task that has ended and left nothing behind.
func (s *sharedEnds) add(record objects.SharedRecord, index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[objects.SharedRecord][]any{}
	}
	s.ended[record] = append(s.ended[record], index)
	if s.timer == nil {
		s.write.Add(1)
		s.timer = time.AfterFunc(sharedEndsEvery, func() {
			defer s.write.Done()
			s.flush()
		})
	}
}

// flush writes the collected tasks. Those that Redis does not take are dropped: the
// reconciler asks the bucket for their results.
func (s *sharedEnds) flush() {
	s.mu.Lock()
	ended := s.ended
	s.ended, s.timer = nil, nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), sharedEndsWait)
	defer cancel()
	for record, indexes := range ended {
		if taskstate.AddSharedEnds(ctx, s.redis, record.First(), indexes...) != nil {
			return
		}
	}
}

// close writes the rest and waits for running writes.
func (s *sharedEnds) close() {
	s.mu.Lock()
	stopped := s.timer != nil && s.timer.Stop()
	s.mu.Unlock()
	if stopped {
		s.flush()
		s.write.Done()
	}
	s.write.Wait()
}
