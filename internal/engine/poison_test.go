package engine_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Some prompts kill their worker: the story stops the worker as a kill would.
func TestATaskThatKillsItsWorkersIsPoisonedAndItsNeighboursAreNot(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Delay: time.Minute}) // so that the neighbours of the poison fall with it
		var ids []string
		for i := range 12 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("task ", i, ".")}))
		}
		deaths, fallen := r.killer(ids[5])
		require.Equal(t, 3, deaths)
		require.LessOrEqual(t, fallen, 12)
		for i, id := range ids {
			result := r.wait(id)
			if i == 5 {
				require.NotNil(t, result.Error)
				require.Equal(t, tasks.CodePoisoned, result.Error.Code)
				continue
			}
			require.Equal(t, tasks.Completed, result.Status, "%d: %v", i, result.Error)
		}
	})
}

// killer simulates workers that die as soon as the poison is in their request. It repeats
// this until no worker dies, and returns how many died.
func (r *rig) killer(poison string) (deaths, fallen int) {
	for range 8 {
		cfg := r.cfg
		cut := &cable{}
		client := redis.NewClient(r.redis.Options())
		client.AddHook(cut)
		cfg.Redis = client
		cfg.Store = &deadStore{Store: r.store, cable: cut}
		dead := make(chan struct{})
		var once sync.Once
		cfg.AI = r.ai.Client()
		cfg.AI.HTTP = &http.Client{Transport: mortal{next: cfg.AI.HTTP.Transport, cable: cut, die: func(body string) {
			if strings.Contains(body, "task 5.") {
				time.Sleep(30 * time.Second) // until the worker has called for as many tasks as it can hold
				once.Do(func() { cut.cut(true); close(dead) })
			}
		}}}
		one := *r
		one.cfg, one.redis = cfg, client
		one.work()
		select {
		case <-dead:
			deaths++
			fallen += len(r.redis.LRange(r.t.Context(), textQueue+"active", 0, -1).Val())
			go one.stop()
			time.Sleep(2 * time.Minute)
		case <-time.After(15 * time.Minute):
			one.stop()
			client.Close()
			return deaths, fallen
		}
		client.Close()
	}
	return deaths, fallen
}

// mortal is the connection to Workers AI of a worker that can die.
type mortal struct {
	next  http.RoundTripper
	cable *cable
	die   func(body string)
}

func (m mortal) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	if !strings.Contains(string(body), "task 5.") {
		time.Sleep(2 * time.Second) // others join the request before the poison acts
	}
	if m.cable.gone() == nil {
		m.die(string(body))
	}
	if err := m.cable.gone(); err != nil {
		time.Sleep(time.Minute)
		return nil, err
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return m.next.RoundTrip(req)
}

// deadStore is a bucket that a dead worker cannot reach.
type deadStore struct {
	storage.Store
	cable *cable
}

func (s *deadStore) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.cable.gone(); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, body, contentType)
}

func (s *deadStore) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.cable.gone(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func TestAPanicInAGoroutineOfAHandlerEndsItsTaskAlone(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		ai := r.ai.Client()
		ai.HTTP = &http.Client{Transport: panics{ai.HTTP.Transport}}
		r.cfg.AI = ai
		r.work()
		bad := r.wait(r.enqueue(tasks.Embedding{Texts: []string{"panic now"}}))
		require.Equal(t, tasks.CodeInternalError, bad.Error.Code)
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Embedding{Texts: []string{"good"}})).Status)
	})
}

type panics struct{ next http.RoundTripper }

func (p panics) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(body), "panic now") {
		panic("out of range")
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return p.next.RoundTrip(req)
}
