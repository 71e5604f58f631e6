package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

type emulatorCmd struct {
	Listen   string        `default:"127.0.0.1:8787" help:"Where to listen."`
	Latency  time.Duration `help:"Before each answer."`
	NoLimits bool          `help:"Do not enforce the limits a minute."`
	Window   string        `enum:"sliding,fixed,bucket" default:"sliding" help:"How a minute is counted: sliding, fixed or bucket."`
}

// Help is shown by --help.
func (emulatorCmd) Help() string {
	return `It answers for every model in the API's own forms, refuses what the API refuses and enforces limits a minute.
It accepts any token, or with NEURONMILL_EMULATOR_TOKEN only that one; beyond this machine it listens only with one.

  neuronmill emulator --latency 200ms
  NEURONMILL_EMULATOR_URL=http://127.0.0.1:8787/client/v4 neuronmill worker

Its log of calls, two calls that fail as the API's code 3040 says, and a clean slate:

  curl http://127.0.0.1:8787/_emulator/requests
  curl http://127.0.0.1:8787/_emulator/faults -d '{"Model": "@cf/baai/bge-m3", "From": 1, "To": 2, "Code": 3040}'
  curl -X POST http://127.0.0.1:8787/_emulator/reset`
}

// Run serves until Ctrl-C.
func (c *emulatorCmd) Run(g *globals) error {
	token := string(g.settings.EmulatorToken)
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return app.Usage(fmt.Errorf("--listen: %w", err))
	}
	if ip := net.ParseIP(host); token == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return app.Usage(errors.New("--listen: beyond this machine it wants NEURONMILL_EMULATOR_TOKEN to be set"))
	}
	emulator := workersaitest.New(workersaitest.Options{
		Latency: c.Latency, NoLimits: c.NoLimits, Window: c.Window, Token: token, Limits: g.settings.Limits,
	})
	server := &http.Server{Addr: c.Listen, Handler: emulator, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(g.ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(g.ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
	defer stop()
	fmt.Fprintf(g.stderr, "the emulator listens: NEURONMILL_EMULATOR_URL=http://%s/client/v4\n", c.Listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	return nil
}
