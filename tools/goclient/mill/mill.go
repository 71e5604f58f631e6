// Package mill starts the real binary for the tests of the generated client.
package mill

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// root is the folder of the product, from those of the tests.
var root = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/neuronmill/neuronmill").Output()
	return string(bytes.TrimSpace(out)), err
})

// Start builds the binary and starts everything in one process, on a real Redis and a real
// S3 server, until the test ends. It returns the URL.
func Start(t *testing.T) string {
	t.Helper()
	dir, err := root()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "neuronmill")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/neuronmill")
	build.Dir = dir
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	address, store := realtest.FreeAddr(t), realtest.S3(t) // which sets the credentials
	cmd := exec.Command(program, "dev", "--listen", address)
	cmd.Env = append(os.Environ(), "NEURONMILL_REDIS_URL="+fmt.Sprintf("redis://%s/0", realtest.Redis(t).Addr), "NEURONMILL_STORE_URL="+store, "NEURONMILL_DATA_DIR="+t.TempDir())
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s", logs.String())
		}
	})
	realtest.WaitTCP(t, address)
	return "http://" + address
}
