package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// command runs the program as a shell would, on its own embedded stack.
func command(ctx context.Context, t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, append(args, "--data-dir", t.TempDir()), stdin, &out, &errs)
	return code, out.String(), errs.String()
}

func TestTheExitCodeTellsWorkThatFailedFromWrongUsage(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // the Redis in this process is the quickest
	for name, c := range map[string]struct {
		args  string
		stdin string
		want  int
	}{
		"all completed":                  {"run translation hello --target-lang es", "", 0},
		"help":                           {"run text --help", "", 0},
		"a task failed":                  {"run image nsfw", "", 1},
		"one of several failed":          {"run image nsfw mill", "", 1},
		"a lane that is none":            {"run text x --lane fast", "", 2},
		"a wrong field":                  {"run translation hello", "", 2},
		"a wrong model":                  {"run text x --model @cf/microsoft/phi-2", "", 2},
		"a file that is missing":         {"run transcription no-such.wav", "", 2},
		"no command":                     {"poem", "", 2},
		"a setting":                      {"worker --store-url http://x", "", 2},
		"every line refused":             {"enqueue translation -", "a\nb\n", 2},
		"a line among others is refused": {"enqueue text --payload -", "{\"prompt\": \"a\"}\n{}\n", 1},
		"no lines":                       {"enqueue text -", "", 0},
		"a task that is not there":       {"task result t_x", "", 1},
		"a state that is none":           {"task list --state lost", "", 2},
	} {
		code, _, stderr := command(t.Context(), t, strings.NewReader(c.stdin), strings.Fields(c.args)...)
		require.Equal(t, c.want, code, "%s: %s", name, stderr)
		if c.want == 2 {
			require.Contains(t, stderr, "neuronmill: ", name)
		}
	}
}

// A terminal on which nobody types, and Ctrl-C.
func TestAnInterruptEndsACommandThatWaitsForStdin(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, verb := range []string{"run", "enqueue"} {
		terminal, keys := io.Pipe()
		ctx, interrupt := context.WithCancel(t.Context())
		ended := make(chan string)
		go func() {
			_, stdout, stderr := command(ctx, t, terminal, verb, "text", "-")
			ended <- stdout + stderr
		}()
		_, err := io.WriteString(keys, "three rivers\n")
		require.NoError(t, err)
		_, err = io.WriteString(keys, "three lakes\n") // the first line has been taken
		require.NoError(t, err)
		interrupt()
		require.Contains(t, <-ended, "interrupted", verb)
		require.NoError(t, keys.Close())
	}
}
