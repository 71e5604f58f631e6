// Package neuronmill_test holds the rules of the whole tree.
package neuronmill_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// walls lists the texts that only some folders and files may have. tasks/imports_test.go has the
// walls between the packages' imports.
var walls = []struct {
	name   string
	text   *regexp.Regexp
	places []string // the files and folders that may have it
}{
	{"only the queue writes keys of asynq", regexp.MustCompile(`"asynq:`), []string{"internal/queue"}},
	{"only the queue knows asynq", regexp.MustCompile(`hibiken/asynq`), []string{"internal/queue"}},
	{"only taskstate touches a task's record", regexp.MustCompile(`neuronmill:task:|\bLiveKey\(`), []string{"internal/taskstate"}},
	{"Lua is in files of its own", regexp.MustCompile("NewScript\\(`"), nil},
}

func TestWallsHold(t *testing.T) {
	for file, text := range productFiles(t) {
		for _, w := range walls {
			if !within(file, w.places) {
				require.NotRegexp(t, w.text, text, "%s: %s", file, w.name)
			}
		}
	}
}

// productFiles returns the Go and Lua files of the product by name, without tests and
// without the modules that only measure or check it.
func productFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS(".")
	require.NoError(t, fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "bench" || name == "tools" || name == "examples" || len(name) > 1 && strings.HasPrefix(name, ".")):
			return fs.SkipDir
		case path.Ext(name) != ".go" && path.Ext(name) != ".lua", strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		files[name] = string(text)
		return err
	}))
	require.Greater(t, len(files), 100)
	return files
}

func within(file string, places []string) bool {
	for _, f := range places {
		if file == f || strings.HasPrefix(file, f+"/") {
			return true
		}
	}
	return false
}
