package app_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/embedded"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	embedded.Main()
	os.Exit(m.Run())
}

var silent = slog.New(slog.DiscardHandler)

// through runs a task of every lane on a Redis opened by URL.
func through(t *testing.T, url string) {
	t.Helper()
	settings := app.Settings{RedisURL: url, DataDir: t.TempDir()}
	stack, err := app.Open(t.Context(), settings, false, silent)
	require.NoError(t, err)
	defer stack.Close()
	queued, err := stack.Client.Enqueue(t.Context(), tasks.Text{Prompt: "before there is a worker"})
	require.NoError(t, err)
	info, err := stack.Client.Get(t.Context(), queued.ID)
	require.NoError(t, err)
	require.Equal(t, "pending", info.State)
	listed, err := stack.Client.List(t.Context(), tasks.ListFilter{})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	worker, err := stack.Worker(settings, workersaitest.New(workersaitest.Options{}).Client(), worker.Config{}, silent)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-done) }() // before Redis is closed, also when the test fails
	requests := []tasks.Request{
		{Payload: tasks.Text{Prompt: "hi"}},
		{Payload: tasks.Embedding{Texts: []string{"a"}}, Options: []tasks.Option{tasks.WithLane(tasks.Bulk)}},
		{Payload: tasks.Translation{Text: "a", TargetLang: "es"}},
	}
	for _, accepted := range stack.Client.EnqueueMany(t.Context(), requests) {
		require.NoError(t, accepted.Err)
		result, err := stack.Client.Wait(t.Context(), accepted.ID)
		require.NoError(t, err)
		require.Equal(t, tasks.Completed, result.Status)
		_, err = stack.Client.Get(t.Context(), accepted.ID)
		require.NoError(t, err)
	}
	_, err = stack.Client.List(t.Context(), tasks.ListFilter{})
	require.NoError(t, err)
}

func TestTasksRunOnASingleRedis(t *testing.T) {
	through(t, "redis://"+realtest.Redis(t).Addr+"/0")
}

func TestTasksRunOnTheEmbeddedRedis(t *testing.T) { through(t, "embedded:") }

func TestTasksRunOnAClusterOfThreeMasters(t *testing.T) {
	through(t, "redis-cluster://"+realtest.Addrs(realtest.RedisCluster(t)))
}

func TestTasksRunBehindASentinel(t *testing.T) {
	sentinels, _ := realtest.RedisSentinel(t, "mill")
	through(t, "redis-sentinel://"+realtest.Addrs(sentinels)+"/mill")
}

func TestARedisThatCannotCarryTheQueueIsRefused(t *testing.T) {
	server := realtest.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	open := func(url string) error {
		r, err := app.OpenRedis(t.Context(), app.Settings{RedisURL: url, DataDir: t.TempDir()}, silent)
		if err == nil {
			r.Close()
		}
		return err
	}
	url := "redis://" + server.Addr
	require.NoError(t, open(url))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.ErrorContains(t, open(url), "CONFIG SET maxmemory-policy noeviction")
	require.NoError(t, client.ConfigSet(t.Context(), "requirepass", "hunter2").Err())
	require.ErrorContains(t, open(url), "password")
	err := open("redis://:hunter3@" + server.Addr)
	require.ErrorContains(t, err, "password")
	require.NotContains(t, err.Error(), "hunter3")
	for _, wrong := range []string{"127.0.0.1:6379", "redis://:secret@h:x/0", "redis-sentinel://h:1", "redis-cluster://", "http://h"} {
		err := open(wrong)
		require.ErrorContains(t, err, "NEURONMILL_REDIS_URL is not valid", wrong)
		require.NotContains(t, err.Error(), "secret")
	}
	require.ErrorContains(t, open("redis://127.0.0.1:1"), "cannot be reached")
}

func TestTheEmbeddedRedisKeepsItsDataAndIsShared(t *testing.T) {
	realtest.NeedRedis(t)
	settings := app.Settings{RedisURL: "embedded:", DataDir: t.TempDir()}
	first, err := app.OpenRedis(t.Context(), settings, silent)
	require.NoError(t, err)
	require.NoError(t, first.Set(t.Context(), "k", "v", 0).Err())
	second, err := app.OpenRedis(t.Context(), settings, silent)
	require.NoError(t, err)
	require.Equal(t, "v", second.Get(t.Context(), "k").Val())
	require.NoError(t, first.Close())
	require.Equal(t, "v", second.Get(t.Context(), "k").Val(), "it serves until the last one leaves")
	require.NoError(t, second.Close())
	_, err = net.Dial("unix", filepath.Join(settings.DataDir, "redis", "redis.sock"))
	require.Error(t, err, "the server has ended")
	third, err := app.OpenRedis(t.Context(), settings, silent)
	require.NoError(t, err)
	require.Equal(t, "v", third.Get(t.Context(), "k").Val())
	require.NoError(t, third.Close())
}

func TestTheEmbeddedRedisWorksWithoutAServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	through(t, "embedded:")
}

func TestASecretDoesNotShowItself(t *testing.T) {
	s := app.Settings{AccountID: "acc", Token: "hunter2"}
	var log bytes.Buffer
	app.Logger(&log, "info").Info("settings", "token", s.Token, "all", s)
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s", s, s, s, s.Token), log.String()} {
		require.NotContains(t, shown, "hunter2")
	}
}

func TestSettingsAreCheckedByName(t *testing.T) {
	require.ErrorContains(t, app.Settings{AccountID: "x"}.Check(), "belong together")
	require.ErrorContains(t, app.Settings{AccountID: "x/../y", Token: "t"}.Check(), "32 hexadecimal")
	require.ErrorContains(t, app.Settings{BaseURL: "api.example"}.Check(), "CLOUDFLARE_BASE_URL")
	require.NoError(t, app.Settings{}.Check())
}

func TestAnAccountAnswersElseTheEmulator(t *testing.T) {
	account := app.Settings{AccountID: "acc", Token: "tok", Emulator: "http://emulator:8787"}
	ai, note := app.OpenAI(account)
	require.Empty(t, note)
	require.Empty(t, ai.BaseURL, "the API's own address")
	require.Equal(t, "acc", ai.AccountID)

	ai, note = app.OpenAI(app.Settings{Emulator: "http://emulator:8787", EmulatorToken: "tok"})
	require.Equal(t, app.Emulated, note)
	require.Equal(t, "http://emulator:8787", ai.BaseURL)
	require.Equal(t, "tok", ai.Token)

	ai, note = app.OpenAI(app.Settings{BaseURL: "http://standin:1"})
	require.Contains(t, note, "http://standin:1 answers")
	require.Equal(t, "http://standin:1", ai.BaseURL)

	ai, note = app.OpenAI(app.Settings{})
	require.Equal(t, app.Emulated, note)
	require.NoError(t, ai.Probe(t.Context()), "in this process")
}
