// Command bench measures neuronmill beside what one would use instead, on one emulator
// and one Redis, and writes docs/benchmarks.md with a plot of each measurement.
//
//	go run -C bench . all            everything, about 25 minutes
//	go run -C bench . closure        one measurement; the others stay as they were
//	go run -C bench . all --quick    a look at all of it in about three minutes
//
// It starts redis-server, node and the workers itself, all on loopback, and ends them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type cli struct {
	All      allCmd      `cmd:"" help:"Measure everything."`
	Limit    limitCmd    `cmd:"" help:"How much of the limit is used, and how many calls are refused."`
	Gate     gateCmd     `cmd:"" help:"Redis commands a call, by the number of processes that wait."`
	Riding   ridingCmd   `cmd:"" help:"Calls and time for 10,000 embedding tasks of one text."`
	Latency  latencyCmd  `cmd:"" help:"From enqueue to call, idle and behind 100,000 bulk tasks."`
	Overhead overheadCmd `cmd:"" help:"What a task costs beside bare asynq."`
	Closure  closureCmd  `cmd:"" help:"What a 429 with Retry-After leads to."`
	Batch    batchCmd    `cmd:"" help:"A file of a million embedding lines: lines a second, memory, Redis."`
	HTTP     httpCmd     `cmd:"" name:"http" help:"The HTTP interface: submits, a large upload, many who follow, looks under load."`
	Render   renderCmd   `cmd:"" help:"Write the page again from the figures of the last runs."`
	Rival    rivalCmd    `cmd:"" hidden:"" help:"A worker that is measured beside ours."`
	Waiters  waitersCmd  `cmd:"" hidden:"" help:"Processes that wait at a gate."`
	Ours     oursCmd     `cmd:"" hidden:"" help:"Our worker, profiled."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed := kong.Parse(&cli{}, kong.Name("bench"), kong.UsageOnError(), groups, kong.BindTo(ctx, (*context.Context)(nil)))
	if err := parsed.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.Is(err, errMissed) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}
