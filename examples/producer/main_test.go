package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestTheProducerGetsItsTranslationAndPaysOnce(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	emulator := workersaitest.New(workersaitest.Options{})
	w, err := worker.New(worker.Config{
		Redis: rdb, Store: storage.NewMemory(), AI: emulator.Client(), Kinds: []tasks.Kind{tasks.KindTranslation},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-done) }()

	client := tasks.NewClient(tasks.Config{Redis: rdb})
	for range 2 {
		text, err := translate(t.Context(), client, "order-7", "Good morning")
		require.NoError(t, err)
		require.Equal(t, "[es] buenos días", text)
	}
	require.Len(t, emulator.Requests(), 1)
}

func TestTheREADMEShowsThisProgram(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, code, _ := strings.Cut(string(program), "package main\n")
	require.Contains(t, string(readme), "```go\npackage main\n"+code+"```", "README.md and examples/producer/main.go differ")
}
