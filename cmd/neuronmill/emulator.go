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
	return examples(
		"neuronmill emulator --latency 200ms",
		"export NEURONMILL_EMULATOR_URL=http://127.0.0.1:8787/client/v4",
	) + `
It answers for every model in the API's own forms, refuses what the API refuses and enforces limits a minute.
It accepts any token, or with NEURONMILL_EMULATOR_TOKEN only that one; beyond this machine it listens only with one.

Its log of calls, two calls that fail as the API's code 3040 says, and a clean slate:

  curl http://127.0.0.1:8787/_emulator/requests
  curl http://127.0.0.1:8787/_emulator/faults \
      -d '{"Model": "@cf/baai/bge-m3", "To": 2, "Code": 3040}'
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
	listener, err := new(net.ListenConfig).Listen(g.ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	server := &http.Server{Handler: emulator, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(g.ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(g.ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
	defer stop()
	fmt.Fprintln(g.stderr, "the emulator listens: NEURONMILL_EMULATOR_URL="+emulatorURL(host, listener.Addr()))
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", c.Listen, err)
	}
	return nil
}

// emulatorURL returns an address that a client on this machine can use. If the emulator
// listens on all addresses, other machines use this machine's name instead.
func emulatorURL(host string, at net.Addr) string {
	_, port, err := net.SplitHostPort(at.String())
	if err != nil {
		port = "0"
	}
	ip := net.ParseIP(host)
	if host != "" && (ip == nil || !ip.IsUnspecified()) {
		return "http://" + net.JoinHostPort(host, port) + "/client/v4"
	}
	return "http://" + net.JoinHostPort("127.0.0.1", port) + "/client/v4 (from other machines with this one's name)"
}
