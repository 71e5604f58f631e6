package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/embedded"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	embedded.Main()
	testscript.Main(tidy{m}, map[string]func(){
		"neuronmill": main,
	})
}

// tidy removes the shared files after all tests have run.
type tidy struct{ *testing.M }

func (t tidy) Run() int {
	code := t.M.Run()
	if sharedBinary != "" {
		os.RemoveAll(filepath.Dir(sharedBinary))
	}
	return code
}

// The scripts in testdata/script hold commands and their output, so they serve as
// documentation too. Each has its own folder and no settings. They pass with and without
// a redis-server.
func TestCommands(t *testing.T) { runScripts(t, "testdata/script", "") }

func TestCommandsWithoutARedisServer(t *testing.T) { runScripts(t, "testdata/script", bareBin(t)) }

// The scripts in testdata/server need a queue that outlives each command.
func TestCommandsWithARedisServer(t *testing.T) {
	realtest.NeedRedis(t)
	runScripts(t, "testdata/server", "")
}

// The scripts in testdata/memory cover the queue in memory.
func TestCommandsOnAQueueInMemory(t *testing.T) { runScripts(t, "testdata/memory", bareBin(t)) }

// runScripts runs the scripts of a folder. On their PATH are this program and, unless bin
// is empty, the programs in bin.
func runScripts(t *testing.T, dir, bin string) {
	t.Helper()
	realtest.Long(t)
	var lines strings.Builder
	for n := range 2000 {
		fmt.Fprintf(&lines, "line %d\n", n+1)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			if bin != "" {
				own := filepath.SplitList(e.Getenv("PATH"))[0]
				e.Setenv("PATH", own+string(filepath.ListSeparator)+bin)
			}
			return errors.Join(
				os.WriteFile(e.WorkDir+"/clip.wav", workersaitest.SampleWAV(), 0o600),
				os.WriteFile(e.WorkDir+"/many.txt", []byte(lines.String()), 0o600),
			)
		},
	})
}

// bareBin returns a folder with all programs on PATH except the servers.
func bareBin(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		programs, err := os.ReadDir(dir)
		if err != nil {
			continue // PATH may name missing folders
		}
		for _, p := range programs {
			link := filepath.Join(bin, p.Name())
			if _, err := os.Lstat(link); err == nil || slices.Contains([]string{"redis-server", "valkey-server"}, p.Name()) {
				continue // the first on PATH counts
			}
			require.NoError(t, os.Symlink(filepath.Join(dir, p.Name()), link))
		}
	}
	return bin
}
