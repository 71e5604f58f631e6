// Command neuronmill is the whole of neuronmill: producers, workers, schedules, the
// emulator and the tools around them. "neuronmill --help" teaches.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/app"
)

func main() {
	ctx, stop := app.Signals(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// cli is the command line.
type cli struct {
	app.Settings

	Demo      demoCmd      `cmd:"" help:"Run a task of every kind here, now, with nothing set up."`
	Dev       devCmd       `cmd:"" help:"Run everything in one process until Ctrl-C."`
	Run       runCmd       `cmd:"" help:"Do tasks, wait, print the results."`
	Enqueue   enqueueCmd   `cmd:"" help:"Put tasks into the queue, print their ids."`
	Task      taskCmd      `cmd:"" help:"Look at tasks: get, wait, list, cancel, retry, result."`
	Dead      deadCmd      `cmd:"" help:"Deal with failed tasks: ls, show, retry, drop."`
	Recover   recoverCmd   `cmd:"" help:"Rebuild the queue from the bucket after Redis was lost."`
	Worker    workerCmd    `cmd:"" help:"Take tasks from the queue until Ctrl-C."`
	Scheduler schedulerCmd `cmd:"" help:"Enqueue tasks by the clock."`
	Gates     gatesCmd     `cmd:"" help:"Show what each model's gate does: pace, who waits, closed until when and why."`
	Gate      gateCmd      `cmd:"" help:"Change a gate: set its pace, open it."`
	Models    modelsCmd    `cmd:"" help:"List the models, their limits and prices."`
	Emulator  emulatorCmd  `cmd:"" help:"Stand in for Workers AI on a local address."`
	Doctor    doctorCmd    `cmd:"" help:"Check Redis, bucket and account, and say how to mend them."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

// globals is what every command works with.
type globals struct {
	ctx      context.Context
	settings app.Settings
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	log      *slog.Logger
	asJSON   bool // of run
}

const description = `A job queue for Cloudflare Workers AI.

Without settings everything runs on this machine: an embedded Redis, a folder as the bucket, an emulator of Workers AI.

  neuronmill demo
  neuronmill run translation "Good morning" --target-lang es
  neuronmill run transcription call.mp3
  neuronmill enqueue embedding - --lane bulk < lines.txt

Account: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (never flags: those show in lists of processes).
Exit codes: 0 done, 1 a task failed, 2 wrong usage or settings.`

// run is the program with its surroundings passed in; it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	var c cli
	type exited struct{ code int }
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = e.code
		}
	}()
	parser, err := kong.New(&c, kong.Name("neuronmill"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited{code}) }), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ExplicitGroups([]kong.Group{{Key: "settings", Title: "Settings:"}, {Key: "options", Title: "Options of a task:"}}))
	if err != nil {
		return app.Code(err, stderr)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return app.Code(app.Usage(errors.New(err.Error()+" (see neuronmill --help)")), stderr)
	}
	c.FromEnvironment()
	g := &globals{ctx, c.Settings, stdin, stdout, stderr, app.Logger(stderr, c.LogLevel), c.Run.JSON}
	if err := c.Check(); err != nil {
		return app.Code(app.Usage(err), stderr)
	}
	err = parsed.Run(g)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	return app.Code(err, stderr)
}
