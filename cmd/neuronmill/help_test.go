package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

func TestTheHelpOfEachCommandShowsHowToCallIt(t *testing.T) {
	var c cli
	parser, err := kong.New(&c, kong.Name("neuronmill"))
	require.NoError(t, err)
	for _, command := range parser.Model.Leaves(true) {
		words := strings.Fields(command.Path())
		path := strings.Join(words[:commandWords(words)], " ")
		var help, errs bytes.Buffer
		code := run(t.Context(), append(strings.Fields(path), "--help"), strings.NewReader(""), &help, &errs)
		require.Zero(t, code, "%s: %s", path, errs.String())
		require.Contains(t, help.String(), "\n    neuronmill "+path, "an example")
	}
}

// commandWords is how many words come before the first argument of a path like
// "task get <id>".
func commandWords(words []string) int {
	for i, w := range words {
		if strings.ContainsAny(w[:1], "<[") {
			return i
		}
	}
	return len(words)
}
