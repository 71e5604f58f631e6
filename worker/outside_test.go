package worker_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A module of its own may not import internal packages, neither itself nor by the types of
// a Config.
func TestAProgramOutsideTheModuleRunsAWorkerAndItsTests(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	outside := t.TempDir()
	for _, name := range []string{"examples/service/main.go", "examples/service/main_test.go", "go.sum"} {
		file, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(outside, filepath.Base(name)), file, 0o600))
	}
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	own := strings.Replace(string(module), "module github.com/neuronmill/neuronmill", "module example.com/service", 1) +
		"\nrequire github.com/neuronmill/neuronmill v0.0.0\n\nreplace github.com/neuronmill/neuronmill => " + root + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(outside, "go.mod"), []byte(own), 0o600))

	test := exec.CommandContext(t.Context(), "go", "test", "./...")
	test.Dir, test.Env = outside, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
	out, err := test.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "ok  \texample.com/service")
}
