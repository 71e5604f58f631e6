package handlers_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/stretchr/testify/require"
)

// without is the environment variable that switches protections off in every rig:
//
//	NEURONMILL_TEST_WITHOUT=create-only go test ./handlers -run TestName
const without = "NEURONMILL_TEST_WITHOUT"

func switchedOff() []string {
	return strings.FieldsFunc(os.Getenv(without), func(r rune) bool { return r == ',' })
}

// twins names, for each protection, the test that must fail without it.
var twins = map[string]string{
	"result-first": "TestATaskThatHasAResultIsNotPaidAgain",
}

// A test of a protection that passes without the protection shows nothing. Each runs
// in a process of its own, since it is meant to fail there.
func TestEachProtectionsTestFailsWithoutIt(t *testing.T) {
	if os.Getenv(without) != "" {
		t.Skip("this is a twin")
	}
	for guard, name := range twins {
		require.Contains(t, handlers.Guards(), guard)
		t.Run(guard, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$", "-test.v", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), without+"="+guard)
			out, err := cmd.CombinedOutput()
			require.Contains(t, string(out), "=== RUN   "+name, "there is no such test")
			require.Error(t, err, "%s passes without the protection", name)
		})
	}
}
