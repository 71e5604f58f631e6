package main

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachProtectionChangesItsFileOnce(t *testing.T) {
	t.Chdir("../..")
	all, err := load("tools/mutants/protections.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	names := map[string]bool{}
	for _, m := range all {
		require.False(t, names[m.Name], "%s stands twice", m.Name)
		names[m.Name] = true
		_, err := m.mutated()
		require.NoError(t, err, m.Name)
	}
}

// Only a failed assertion of the mutant's own test shows that the protection is needed.
func TestOnlyAFailedAssertionKillsAMutant(t *testing.T) {
	failed := &exec.ExitError{}
	m := mutant{Test: "TestX"}
	for _, c := range []struct {
		out    string
		err    error
		killed bool
	}{
		{"=== RUN   TestX\n    x_test.go:1: Error: Not equal\n--- FAIL: TestX (0.00s)", failed, true},
		{"=== RUN   TestX\n--- PASS: TestX (0.00s)", nil, false},
		{"=== RUN   TestX\n--- SKIP: TestX (0.00s)", nil, false},
		{"=== RUN   TestX\npanic: test timed out after 5m", failed, false},
		{"=== RUN   TestX\npanic: index out of range\ngoroutine 1", failed, false},
		{"testing: warning: no tests to run", nil, false},
		{"=== RUN   TestX\n", errors.New("no go"), false},
	} {
		require.Equal(t, c.killed, judgeOutput(m, c.out, c.err).killed, c.out)
	}
	m.Crash = true
	require.True(t, judgeOutput(m, "=== RUN   TestX\npanic: in a goroutine\ngoroutine 1", failed).killed)
	require.False(t, judgeOutput(m, "=== RUN   TestX\n--- FAIL: TestX (0.00s)", failed).killed)
	require.False(t, judgeOutput(m, "=== RUN   TestX\npanic: test timed out after 5m", failed).killed)
}

func TestASampleChangesOneThingAtATime(t *testing.T) {
	none, err := changeFile("sample.go", -1)
	require.NoError(t, err)
	require.Greater(t, none.n, 20)
	seen := map[string]bool{}
	for i := range none.n {
		c, err := changeFile("sample.go", i)
		require.NoError(t, err)
		require.False(t, seen[string(c.text)], "%d: line %d %s", i, c.line, c.what)
		seen[string(c.text)] = true
	}
}

func TestThePartsOfAListAreTheWhole(t *testing.T) {
	all := []mutant{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "e"}}
	var parts []mutant
	for _, text := range []string{"0/3", "1/3", "2/3"} {
		some, err := part(all, text)
		require.NoError(t, err)
		parts = append(parts, some...)
	}
	require.ElementsMatch(t, all, parts)
	whole, err := part(all, "")
	require.NoError(t, err)
	require.Equal(t, all, whole)
	for _, text := range []string{"3/3", "-1/3", "1", "x/y"} {
		_, err := part(all, text)
		require.ErrorContains(t, err, "-part", text)
	}
}
