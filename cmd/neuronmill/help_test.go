package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func help(t *testing.T, path string) string {
	t.Helper()
	var help, errs safeBuffer
	code := run(t.Context(), append(strings.Fields(path), "--help"), strings.NewReader(""), &help, &errs)
	require.Zero(t, code, "%s: %s", path, errs.String())
	return help.String()
}

func TestTheHelpOfEachCommandShowsHowToCallIt(t *testing.T) {
	for _, path := range commands(t) {
		text := help(t, path)
		examples, arguments := strings.Index(text, "\nExamples:\n\n"), strings.Index(text, "\nFlags:")
		require.Positive(t, examples, path)
		require.Greater(t, arguments, examples, path)
		require.Contains(t, text[examples:arguments], "\n    neuronmill "+path, "an example")
		for line := range strings.Lines(text) {
			require.LessOrEqual(t, len(line), 81, "%s: %s", path, line)
		}
	}
}

func TestTheHelpOfACommandShowsItsOwnFlagsFirstAndOnlySettingsThatMatter(t *testing.T) {
	inOrder := func(path string, want ...string) {
		text, at := help(t, path), 0
		for _, w := range want {
			i := strings.Index(text[at:], w)
			require.GreaterOrEqual(t, i, 0, "%s: %s comes not after those before it: %s", path, w, text)
			at += i
		}
	}
	inOrder("run image", "Flags:", "--output", "--seed", "Options of a task:", "--deadline", "Settings:", "--redis-url")
	inOrder("task list", "Flags:", "--state", "Settings:", "--redis-url")
	for _, path := range []string{"version", "models"} {
		require.NotContains(t, help(t, path), "Settings:")
	}
	require.NotContains(t, help(t, "emulator"), "--redis-url")
	require.NotContains(t, help(t, "enqueue image"), "--output")
	require.Contains(t, help(t, ""), "--redis-url")
}

// A field of a payload has its help in its "doc" tag.
func TestEachFlagOfAKindSaysWhatItDoes(t *testing.T) {
	parser, err := kong.New(newCLI(), kong.Name("neuronmill"))
	require.NoError(t, err)
	kinds := 0
	for _, command := range parser.Model.Leaves(true) {
		if command.Parent.Name != "run" && command.Parent.Name != "enqueue" {
			continue
		}
		kinds++
		for _, f := range command.Flags {
			require.NotEmpty(t, f.Help, "%s --%s", command.FullPath(), f.Name)
		}
	}
	require.Equal(t, 2*len(tasks.Specs), kinds, "run and enqueue have a command for each kind")
}

// commands returns the paths of all commands.
func commands(t *testing.T) []string {
	c := newCLI()
	parser, err := kong.New(c, kong.Name("neuronmill"))
	require.NoError(t, err)
	var paths []string
	for _, command := range parser.Model.Leaves(true) {
		words := strings.Fields(command.Path())
		paths = append(paths, strings.Join(words[:commandWords(words)], " "))
	}
	return paths
}

// commandWords returns how many words precede the aliases and arguments of a path such as "task
// get <id>".
func commandWords(words []string) int {
	for i, w := range words {
		if strings.ContainsAny(w[:1], "<[(") {
			return i
		}
	}
	return len(words)
}

func TestHelpIsACommandToo(t *testing.T) {
	for _, path := range []string{"", "run text"} {
		var out, errs safeBuffer
		require.Zero(t, run(t.Context(), append([]string{"help"}, strings.Fields(path)...), strings.NewReader(""), &out, &errs), errs.String())
		require.Equal(t, help(t, path), out.String())
	}
}
