package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Delivery is a task that a Server has taken from its queue.
type Delivery struct {
	Queue, ID string
	Kind      string
	Payload   []byte
}

// RetryError returns a task to its queue, to be retried later. Redis stores only its text:
// one clean line.
type RetryError interface {
	error
	RetryAfter() time.Duration
}

// unknownRetry is the delay of a retry after an error that is no RetryError.
const unknownRetry = 10 * time.Second

// ServerConfig holds the settings of a Server. The caller closes Redis.
type ServerConfig struct {
	Redis   redis.UniversalClient
	Breaker *Breaker // a hook of Redis
	Slots   []Slots
	Poll    time.Duration // interval of polling on a Redis without pub/sub; 0 waits for announcements
	// ShutdownTimeout is how long Shutdown waits for handlers. Then it requeues their tasks.
	ShutdownTimeout time.Duration
	Log             *slog.Logger
}

// Server takes tasks from queues and hands them to a handler. It is one asynq server, whose
// takes an Intake directs.
type Server struct {
	cfg    ServerConfig
	intake *Intake
	asynq  *asynq.Server
}

// never is the interval of asynq's jobs that this package does otherwise.
const never = 365 * 24 * time.Hour

// NewServer returns a Server; Start starts it.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{cfg: cfg, intake: NewIntake(cfg.Slots, cfg.Poll, cfg.Log)}
	s.intake.doubt = cfg.Breaker.sick
	cfg.Breaker.onSuspicion(s.intake.suspect)
	s.asynq = asynq.NewServerFromRedisClient(s.intake.Client(cfg.Redis), asynq.Config{
		Concurrency:              s.intake.Concurrency(),
		Queues:                   s.intake.Queues(),
		TaskCheckInterval:        1, // the intake waits
		DelayedTaskCheckInterval: never,
		JanitorInterval:          never,
		ShutdownTimeout:          cfg.ShutdownTimeout,
		RetryDelayFunc:           retryDelay,
		IsFailure:                func(error) bool { return false }, // our own counters decide, and asynq must never archive
		Logger:                   asynqLog{cfg.Log, cfg.Breaker},
		LogLevel:                 asynq.WarnLevel,
	})
	return s
}

// Start begins to take tasks. Each handler runs in its own goroutine and holds a slot until
// it returns. Nil acknowledges the task; any error returns it to its queue, see RetryError.
func (s *Server) Start(handle func(context.Context, Delivery) error) error {
	err := s.asynq.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		d := Delivery{Kind: t.Type(), Payload: t.Payload()}
		d.Queue, _ = asynq.GetQueueName(ctx)
		d.ID, _ = asynq.GetTaskID(ctx)
		defer s.intake.occupy(d.Queue, d.ID)()
		return handle(ctx, d)
	}))
	if err != nil {
		return fmt.Errorf("start the queue's server: %w", err)
	}
	return nil
}

// Run listens for announcements of tasks until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.intake.Run(ctx, s.cfg.Redis) }

// Shutdown takes no more tasks and waits for the handlers.
func (s *Server) Shutdown() {
	s.intake.Stop()
	s.asynq.Shutdown()
}

// retryDelay returns the delay of a retry; a task with an expired lease is retried at once.
func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	var retry RetryError
	switch {
	case errors.As(err, &retry):
		return retry.RetryAfter()
	case errors.Is(err, asynq.ErrLeaseExpired):
		return 0
	}
	return unknownRetry
}

// asynqLog writes asynq's log to ours. While Redis refuses or is unreachable its lines are
// at debug level, since the cause is already logged.
type asynqLog struct {
	log     *slog.Logger
	breaker *Breaker
}

func (l asynqLog) say(level slog.Level, args []any) {
	text := fmt.Sprint(args...)
	if strings.HasPrefix(text, refusedSubscription) {
		return
	}
	if level >= slog.LevelWarn && namesBrokenConnection(text) {
		l.breaker.away.mentioned(text)
	}
	if l.breaker.sick() {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, oneLine(text))
}

func (l asynqLog) Debug(args ...any) { l.say(slog.LevelDebug, args) }
func (l asynqLog) Info(args ...any)  { l.say(slog.LevelDebug, args) }
func (l asynqLog) Warn(args ...any)  { l.say(slog.LevelWarn, args) }
func (l asynqLog) Error(args ...any) { l.say(slog.LevelError, args) }
func (l asynqLog) Fatal(args ...any) {
	l.say(slog.LevelError, args)
	os.Exit(1)
}
