package main

import (
	"context"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// command runs the program as a shell does, on its own embedded stack.
func command(ctx context.Context, t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs safeBuffer
	code = run(ctx, append(args, "--data-dir", t.TempDir()), stdin, &out, &errs)
	return code, out.String(), errs.String()
}

func TestTheExitCodeTellsWorkThatFailedFromWrongUsage(t *testing.T) {
	realtest.Long(t)
	t.Setenv("PATH", t.TempDir()) // without redis-server: the in-memory Redis starts fastest
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

// A terminal without input, and Ctrl-C.
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
		_, err = io.WriteString(keys, "three lakes\n") // returns after the first line was read
		require.NoError(t, err)
		interrupt()
		require.Contains(t, <-ended, "interrupted", verb)
		require.NoError(t, keys.Close())
	}
}

func TestLinesOfStdinPassInLittleMemory(t *testing.T) {
	const count = 100_000
	line := strings.Repeat("word ", 200) + "\n" // 100 MB in all
	reader, writer := io.Pipe()
	go func() {
		for range count {
			if _, err := io.WriteString(writer, line); err != nil {
				break
			}
		}
		writer.Close()
	}()
	n, most := 0, uint64(0)
	for in := range inputs(t.Context(), []string{"-"}, reader) {
		require.NoError(t, in.err)
		if n++; n%20_000 == 0 {
			most = max(most, heap())
		}
	}
	require.Equal(t, count, n)
	require.Less(t, most, uint64(32<<20))
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
