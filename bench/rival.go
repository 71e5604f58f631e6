package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

// The ways that are compared with neuronmill.
const (
	ours        = "neuronmill"
	backoff     = "asynq, its own exponential backoff"
	recipe      = "asynq, the wiki's rate limit recipe"
	bullWindow  = "BullMQ limiter, the API's window"
	bullEvenly  = "BullMQ limiter, one call an interval"
	bareAsynq   = "asynq, empty handler"
	storedAsynq = "asynq, empty handler and a stored result"
	folderAsynq = "asynq, empty handler and a result in a folder"
)

// rivalCmd is a worker on asynq alone, written as its documentation says.
type rivalCmd struct {
	Way     string
	Redis   string
	URL     string
	Pace    float64 // calls per second of this process, for the recipe
	Bucket  string
	Servers int `default:"1"`
}

// slots is the concurrency of every worker of every way.
const slots = 16

// Run works until the process is stopped.
func (c *rivalCmd) Run(ctx context.Context) error {
	client := redis.NewClient(&redis.Options{Addr: c.Redis})
	defer client.Close()
	config := asynq.Config{Concurrency: slots, LogLevel: asynq.ErrorLevel}
	likeOurs(&config)
	handle, err := c.handler(ctx, &config)
	if err != nil {
		return err
	}
	for i := range c.Servers {
		config.Queues = map[string]int{"default": 1}
		if i > 0 {
			config.Queues = map[string]int{"bulk": 1}
		}
		server := asynq.NewServerFromRedisClient(client, config)
		if err := server.Start(handle); err != nil {
			return err
		}
		defer server.Shutdown()
	}
	<-ctx.Done()
	return nil
}

func (c *rivalCmd) handler(ctx context.Context, config *asynq.Config) (asynq.HandlerFunc, error) {
	switch c.Way {
	case backoff:
		return func(ctx context.Context, t *asynq.Task) error { return c.call(ctx, t.Payload()) }, nil
	case recipe:
		config.IsFailure = func(err error) bool { return !isRateLimit(err) }
		config.RetryDelayFunc = func(n int, err error, t *asynq.Task) time.Duration {
			if limited, ok := errors.AsType[*rateLimitError](err); ok {
				return limited.RetryIn
			}
			return asynq.DefaultRetryDelayFunc(n, err, t)
		}
		// The wiki has 10 per second with a burst of 30. Each process has its own
		// limiter, so the limit is divided by the number of processes.
		limiter := rate.NewLimiter(rate.Limit(c.Pace), max(1, int(3*c.Pace)))
		return func(ctx context.Context, t *asynq.Task) error {
			if !limiter.Allow() {
				return &rateLimitError{RetryIn: time.Duration(rand.IntN(10)) * time.Second}
			}
			return c.call(ctx, t.Payload())
		}, nil
	case bareAsynq:
		return func(context.Context, *asynq.Task) error { return nil }, nil
	case lineAsynq:
		store, _, err := app.OpenStore(ctx, app.Settings{StoreURL: c.Bucket})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t *asynq.Task) error { return c.embedLine(ctx, store, t) }, nil
	case storedAsynq, folderAsynq:
		store, _, err := app.OpenStore(ctx, app.Settings{StoreURL: c.Bucket})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t *asynq.Task) error {
			id, _ := asynq.GetTaskID(ctx)
			return storeResult(ctx, store, id)
		}, nil
	}
	return nil, fmt.Errorf("there is no way %q", c.Way)
}

// likeOurs gives a server the same intervals as neuronmill's workers.
func likeOurs(config *asynq.Config) {
	config.TaskCheckInterval, config.DelayedTaskCheckInterval = 50*time.Millisecond, 500*time.Millisecond
}

// storeResult stores a document as large as our result of a short translation.
func storeResult(ctx context.Context, s storage.Store, id string) error {
	document := fmt.Sprintf(`{"id":%q,"status":"completed","output":{"translated_text":%q}}`, id, strings.Repeat("x", 400))
	return s.Create(ctx, "default/tasks/"+id+"/result.json", strings.NewReader(document), "application/json")
}

// rateLimitError and isRateLimit are copied from the wiki.
type rateLimitError struct{ RetryIn time.Duration }

func (e *rateLimitError) Error() string { return fmt.Sprintf("rate limited (retry in %v)", e.RetryIn) }

func isRateLimit(err error) bool {
	_, ok := errors.AsType[*rateLimitError](err)
	return ok
}

// call requests one translation. The recipe treats a 429 as a rate limit, with the API's
// Retry-After where present.
func (c *rivalCmd) call(ctx context.Context, text []byte) error {
	body, err := json.Marshal(map[string]string{"text": string(text), "target_lang": "es"})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/accounts/bench/ai/run/@cf/meta/m2m100-1.2b", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer bench")
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct{ Success bool }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	switch {
	case response.StatusCode == http.StatusTooManyRequests && c.Way == recipe:
		advice, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		if advice == 0 {
			advice = rand.IntN(10)
		}
		return &rateLimitError{RetryIn: time.Duration(advice) * time.Second}
	case !answer.Success:
		return fmt.Errorf("the API answered %d", response.StatusCode)
	}
	return nil
}

// pace is a limit in the form that a rival needs.
type pace struct {
	PerMinute int
	Window    time.Duration // of the emulator
}

// perWindow returns the calls allowed per window.
func (p pace) perWindow() int { return int(float64(p.PerMinute) * p.Window.Minutes()) }

// interval returns the time between two calls at the limit.
func (p pace) interval() time.Duration { return time.Minute / time.Duration(p.PerMinute) }

// fillRival fills the queue of a way with n tasks.
func (s *site) fillRival(way string, n int) error {
	if isBull(way) {
		if err := s.installBull(); err != nil {
			return err
		}
		if out, err := s.bull(way, pace{1, time.Minute}, "add", strconv.Itoa(n)).CombinedOutput(); err != nil {
			return fmt.Errorf("fill BullMQ's queue: %w: %s", err, out)
		}
		return nil
	}
	client := asynq.NewClientFromRedisClient(s.redis)
	for i := range n {
		if _, err := client.EnqueueContext(s.ctx, asynq.NewTask("translate", []byte(textOf(i)))); err != nil {
			return err
		}
	}
	return nil
}

func isBull(way string) bool { return way == bullWindow || way == bullEvenly }

// rivals starts the processes of a way.
func (s *site) rivals(way string, processes int, p pace) error {
	for range processes {
		if isBull(way) {
			if err := s.launch(s.bull(way, p, "work"), "bullmq"); err != nil {
				return err
			}
			continue
		}
		if err := s.asynqRival(way, 1, float64(p.PerMinute)/60/float64(processes)); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) asynqRival(way string, servers int, perSecond float64) error {
	return s.launch(exec.Command(s.self, "rival", "--way", way, "--redis", "127.0.0.1:"+s.port, "--url", s.url,
		"--pace", fmt.Sprint(perSecond), "--bucket", s.bucket, "--servers", strconv.Itoa(servers)), "rival")
}

func textOf(i int) string { return fmt.Sprintf("good morning number %d", i) }

// The measured versions; a lock file would name a registry.
const bullVersions = "bullmq@6.7.0 ioredis@6.0.0"

// bull returns the Node program for BullMQ, whose workers share one limiter.
func (s *site) bull(way string, p pace, args ...string) *exec.Cmd {
	most, duration := p.perWindow(), p.Window
	if way == bullEvenly {
		most, duration = 1, p.interval()
	}
	cmd := exec.Command("node", append([]string{"worker.mjs"}, args...)...)
	cmd.Dir = s.bullmq
	cmd.Env = append(os.Environ(), "REDIS_PORT="+s.port, "API="+s.url, "CONCURRENCY="+strconv.Itoa(slots),
		"MAX="+strconv.Itoa(most), "DURATION="+strconv.FormatInt(duration.Milliseconds(), 10))
	return cmd
}

// installBull installs the Node program and its packages in the lab's folder, once.
func (l *lab) installBull() error {
	l.bullOnce.Do(func() {
		dir := filepath.Join(l.dir, "bullmq")
		program, err := os.ReadFile(filepath.Join("bullmq", "worker.mjs"))
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "worker.mjs"), program, 0o600)
		}
		if err == nil {
			_, err = l.output(dir, "npm", append([]string{"install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"}, strings.Fields(bullVersions)...)...)
		}
		l.bullmq, l.bullErr = dir, err
	})
	return l.bullErr
}
