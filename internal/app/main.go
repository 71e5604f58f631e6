package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// The exit codes.
const (
	ExitDone   = 0
	ExitFailed = 1 // a task failed, or the work could not be done
	ExitUsage  = 2 // the command line or a setting is wrong
)

// Exit is an error with its own exit code. With a nil Err nothing is printed.
type Exit struct {
	Code int
	Err  error
}

func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Exit) Unwrap() error { return e.Err }

// Usage wraps an error of the command line or the settings in ExitUsage; nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &Exit{ExitUsage, err}
}

// Signals returns a context that ends at the first interrupt or SIGTERM. A second signal
// ends the process at once.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	var once sync.Once
	go func() {
		select {
		case <-signals:
			cancel()
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(130)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		once.Do(func() { close(done) })
		cancel()
	}
}

// Code returns the exit code of an error and writes the error to w.
func Code(err error, w io.Writer) int {
	if err == nil {
		return ExitDone
	}
	if exit, ok := errors.AsType[*Exit](err); ok {
		if exit.Err != nil {
			fmt.Fprintln(w, "neuronmill:", exit.Err)
		}
		return exit.Code
	}
	fmt.Fprintln(w, "neuronmill:", err)
	return ExitFailed
}

// Logger returns a logger that writes text lines to w. An unknown level means info. The
// Redis client's own messages are logged at debug.
func Logger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
	redis.SetLogger(redisLog{log})
	return log
}

type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, args...))
}
