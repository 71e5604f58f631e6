package engine_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestAnOutageOfRedisIsLoggedOnceWhenItBeginsAndOnceWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var log lines
		r.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
		r.work()
		time.Sleep(10 * time.Second)
		require.Empty(t, log.String())
		for range 2 {
			r.link.Cut()
			time.Sleep(time.Minute)
			r.link.Mend()
			time.Sleep(time.Minute)
		}
		require.Equal(t, 2, strings.Count(log.String(), "redis cannot be reached"), log.String())
		require.Equal(t, 2, strings.Count(log.String(), "redis answers again"), log.String())
		require.Equal(t, 4, strings.Count(log.String(), "\n"), log.String())
		r.stop()
	})
}

func TestAStoppingWorkerLogsHowManyCallsItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var log lines
		r.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
		r.ai.Fault(workersaitest.Fault{Delay: time.Minute})
		r.work()
		for range 3 {
			r.enqueue(tasks.Translation{Text: "hello", TargetLang: "es"})
		}
		time.Sleep(10 * time.Second)
		r.stop()
		require.Equal(t, 1, strings.Count(log.String(), `calls=3`), log.String())
		require.Contains(t, log.String(), "the worker stops")
	})
}
