// Command neuronmill has all of neuronmill: producers, workers, schedules, the emulator
// and tools. See "neuronmill --help".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/embedded"
	"github.com/neuronmill/neuronmill/internal/traces"
)

func main() {
	embedded.Main()
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
	Run       runCmd       `cmd:"" help:"Do tasks, wait, print the results: run text, run image, ..."`
	Enqueue   enqueueCmd   `cmd:"" help:"Put tasks into the queue, print their ids: enqueue text, ..."`
	Batch     batchCmd     `cmd:"" help:"Work on files of many lines: run, plan, submit, status, wait, tail, results, cancel, retry, list."`
	Task      taskCmd      `cmd:"" help:"Look at tasks: get, wait, result, fetch, list, cancel, retry."`
	Dead      deadCmd      `cmd:"" help:"Deal with failed tasks: ls, show, retry, drop."`
	Recover   recoverCmd   `cmd:"" help:"Rebuild the queue from the bucket after Redis was lost."`
	Serve     serveCmd     `cmd:"" help:"Serve the HTTP interface until Ctrl-C."`
	Webhook   webhookCmd   `cmd:"" help:"Show and replay webhooks, and the keys to verify them."`
	Key       keyCmd       `cmd:"" help:"Make, list and revoke the API keys of the HTTP interface."`
	Usage     usageCmd     `cmd:"" help:"Show what tasks have cost: by day, model, tenant, key, batch or schedule."`
	Budget    budgetCmd    `cmd:"" help:"Cap what a day may cost: list, set, remove."`
	Worker    workerCmd    `cmd:"" help:"Take tasks from the queue until Ctrl-C."`
	Workers   workersCmd   `cmd:"" help:"List the worker processes that run."`
	Schedule  scheduleCmd  `cmd:"" help:"Keep schedules: add, list, show, next, history, pause, resume, run, remove."`
	Scheduler schedulerCmd `cmd:"" help:"Run schedules until Ctrl-C."`
	Top       topCmd       `cmd:"" help:"One page of what waits, runs and is held up, refreshed in place."`
	Gates     gatesCmd     `cmd:"" help:"Show what each model's gate does: pace, who waits, closed until when and why."`
	Gate      gateCmd      `cmd:"" help:"Change a gate: set its pace, open it."`
	Models    modelsCmd    `cmd:"" help:"List the models, their limits and prices."`
	Emulator  emulatorCmd  `cmd:"" help:"Stand in for Workers AI on a local address."`
	Doctor    doctorCmd    `cmd:"" help:"Check Redis, bucket and account, and say how to mend them."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

// globals is what all commands use.
type globals struct {
	ctx      context.Context
	settings app.Settings
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	logs     *logWriter // stderr for log lines; prints above a bar
	log      *slog.Logger
	asJSON   bool           // set by the run command
	tracer   *traces.Tracer // nil without traces; set by openTraces
}

const description = `A job queue for Cloudflare Workers AI.

Examples:

  neuronmill demo
  neuronmill run translation "Good morning" --target-lang es
  neuronmill run transcription call.mp3
  neuronmill enqueue embedding - --lane bulk < lines.txt

Without settings everything runs on this machine: an embedded Redis, a folder as the bucket, an emulator of Workers AI.

Account: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (never flags: those show in lists of processes).

Exit codes: 0 done, 1 a task failed, 2 wrong usage or settings.`

// newCLI returns the command line before it is parsed.
func newCLI() *cli {
	c := &cli{}
	c.Run.derive()
	c.Enqueue.derive()
	return c
}

// run runs the program with its environment passed in, and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help") // as other programs have it: help run text
	}
	c := newCLI()
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
	parser, err := kong.New(c, kong.Name("neuronmill"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited{code}) }), kong.UsageOnError(), kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100, NoExpandSubcommands: true, FlagsLast: true}),
		kong.ExplicitGroups([]kong.Group{{Key: "settings", Title: "Settings:"}, {Key: "options", Title: "Options of a task:"}}))
	if err != nil {
		return app.Code(err, stderr)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if err := checkArguments(args); err != nil {
		return app.Code(app.Usage(err), stderr)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return app.Code(app.Usage(errors.New(err.Error()+" (see "+helpFor(err)+")")), stderr)
	}
	c.FromEnvironment()
	logs := &logWriter{w: stderr}
	g := &globals{ctx: ctx, settings: c.Settings, stdin: stdin, stdout: stdout, stderr: stderr, logs: logs, log: app.Logger(logs, c.LogLevel), asJSON: c.Run.JSON}
	if err := c.Check(); err != nil {
		return app.Code(app.Usage(err), stderr)
	}
	err = parsed.Run(g)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	return app.Code(err, stderr)
}

// checkArguments refuses arguments that the parser or JSON would change.
func checkArguments(args []string) error {
	for i, a := range args {
		what := fmt.Sprintf("the argument %q", a)
		if i > 0 && strings.HasPrefix(args[i-1], "--") && !strings.Contains(args[i-1], "=") {
			what = args[i-1]
		}
		switch {
		case !utf8.ValidString(a):
			return errors.New(what + " is not valid UTF-8")
		case strings.ContainsRune(a, 0):
			return errors.New(what + " has a NUL character")
		}
	}
	return nil
}

// helpFor returns the help call for the command that an error is about.
func helpFor(err error) string {
	if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context != nil {
		if node := e.Context.Selected(); node != nil && len(node.Children) == 0 {
			return node.FullPath() + " --help"
		}
	}
	return "neuronmill --help"
}
