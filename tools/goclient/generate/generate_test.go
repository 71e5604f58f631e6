// Package generate compares the generated client with the document of the real server. It is
// apart from the client's own tests, which need not compile when the document has changed.
package generate

import (
	"bytes"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/neuronmill/neuronmill/tools/goclient/mill"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write client.gen.go anew")

// TestTheClientIsTheOneOfTheDocument generates the client from the document of the real
// server.
func TestTheClientIsTheOneOfTheDocument(t *testing.T) {
	res, err := http.Get(mill.Start(t) + "/openapi-3.0.json")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	document, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	dir := t.TempDir()
	source, target := filepath.Join(dir, "openapi.json"), filepath.Join(dir, "client.gen.go")
	require.NoError(t, os.WriteFile(source, document, 0o600))
	generate := exec.CommandContext(t.Context(), "go", "tool", "oapi-codegen", "-config", filepath.Join("..", "config.yaml"), "-o", target, source)
	out, err := generate.CombinedOutput()
	require.NoError(t, err, "%s", out)
	generated, err := os.ReadFile(target)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(filepath.Join("..", "client.gen.go"), generated, 0o600))
	}
	kept, err := os.ReadFile(filepath.Join("..", "client.gen.go"))
	require.NoError(t, err)
	if !bytes.Equal(kept, generated) {
		t.Fatal("the document has changed: go test -C tools/goclient ./generate -update accepts it")
	}
}
