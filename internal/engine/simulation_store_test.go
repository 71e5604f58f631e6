package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// bucket is a process' way to the store: each request may be refused, be slow, or be
// carried out and yet answered with an error. What becomes of the nth request of a
// sort for a task depends on the seed alone, however the goroutines interleave.
type bucket struct {
	p *process
}

var (
	errSlowDown = errors.New("503: slow down")
	errTimeout  = fmt.Errorf("the store did not answer: %w", context.DeadlineExceeded)
)

// sortOf names the kind of object that a key belongs to, and the task.
func sortOf(key string) (sort, id string) {
	if rest, ok := strings.CutPrefix(key, "default/pending/"); ok {
		return "pending", strings.TrimSuffix(rest, ".json")
	}
	if rest, ok := strings.CutPrefix(key, "default/tasks/"); ok {
		id, name, _ := strings.Cut(rest, "/")
		if name == "result.json" {
			return "result", id
		}
		return "artefact", id
	}
	return "file", ""
}

func (b bucket) do(ctx context.Context, method, key string, effect func() error) error {
	sort, id := sortOf(key)
	at := "store." + method + " " + sort
	if err := b.p.step(at + " before"); err != nil {
		return err
	}
	fate := b.p.sim.storeFate(method, sort, id)
	if fate.slow > 0 {
		t := time.NewTimer(fate.slow)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fate.refused {
		return errSlowDown
	}
	err := effect()
	if dead := b.p.step(at + " after"); dead != nil {
		return dead
	}
	if fate.lied {
		return errTimeout
	}
	return err
}

func (b bucket) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return b.do(ctx, "put", key, func() error {
		all, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		b.p.sim.learn(key, all)
		if sort, _ := sortOf(key); sort == "result" {
			b.p.sim.violate("%s was put over: a result is created once", key)
		}
		err = b.p.sim.store.Put(ctx, key, bytes.NewReader(all), contentType)
		if err == nil {
			b.p.sim.kept(key)
		}
		return err
	})
}

func (b bucket) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return b.do(ctx, "create", key, func() error {
		all, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		b.p.sim.learn(key, all)
		err = b.p.sim.store.Create(ctx, key, bytes.NewReader(all), contentType)
		if sort, id := sortOf(key); err == nil && sort == "result" {
			b.p.sim.ended(id)
		}
		if err == nil {
			b.p.sim.kept(key)
		}
		return err
	})
}

func (b bucket) Get(ctx context.Context, key string) (body io.ReadCloser, err error) {
	err = b.do(ctx, "get", key, func() error {
		body, err = b.p.sim.store.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

func (b bucket) Head(ctx context.Context, key string) (info storage.Info, err error) {
	err = b.do(ctx, "head", key, func() error {
		info, err = b.p.sim.store.Head(ctx, key)
		return err
	})
	return info, err
}

func (b bucket) Delete(ctx context.Context, key string) error {
	return b.do(ctx, "delete", key, func() error {
		if sort, _ := sortOf(key); sort == "result" {
			b.p.sim.violate("%s was deleted", key)
		}
		return b.p.sim.store.Delete(ctx, key)
	})
}

func (b bucket) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := b.do(ctx, "list", prefix, func() error { return nil }); err != nil {
			yield(storage.Info{}, err)
			return
		}
		for info, err := range b.p.sim.store.List(ctx, prefix, after) {
			if !yield(info, err) {
				return
			}
		}
	}
}

// learn finds out which task of the plan has an id.
func (s *sim) learn(key string, body []byte) {
	sort, record := sortOf(key)
	for line := range bytes.Lines(body) {
		var t tasks.Task
		if sort != "pending" || json.Unmarshal(line, &t) != nil {
			return
		}
		s.mu.Lock()
		s.names[t.ID] = t.Metadata["sim"]
		if s.names[record] == "" {
			s.names[record] = t.Metadata["sim"] // a shared record is known by its first task
		}
		s.mu.Unlock()
	}
}

func (s *sim) ended(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endedAt[id] = time.Now()
}

// kept notes when an answer was stored: a checkpoint or the result.
func (s *sim) kept(key string) {
	_, id := sortOf(key)
	name := key[strings.LastIndexByte(key, '/')+1:]
	if id == "" || name != "result.json" && !strings.HasPrefix(name, "answer") && !strings.HasPrefix(name, "image.") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stored[id] == nil {
		s.stored[id] = map[string][]time.Time{}
	}
	s.stored[id][name] = append(s.stored[id][name], time.Now())
}

// storeFate draws what becomes of a request to the store.
func (s *sim) storeFate(method, sort, id string) storeFate {
	if s.healed.Load() {
		return storeFate{}
	}
	s.mu.Lock()
	name := s.names[id]
	what := method + " " + sort + " of " + name
	s.asked[what]++
	nth := s.asked[what]
	away := time.Now().Before(s.storeAway) || time.Now().Before(s.readOnly) && writes(method)
	s.mu.Unlock()
	if away {
		return storeFate{refused: true}
	}
	return s.plan.storeFate(fmt.Sprint(what, " ", nth), method)
}
