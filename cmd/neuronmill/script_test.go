package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){
		"neuronmill": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// tidy removes what all tests share when they have run.
type tidy struct{ *testing.M }

func (t tidy) Run() int {
	code := t.M.Run()
	if binary, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(binary))
	}
	return code
}

// The scripts in testdata are commands and what they print, so they document too. Each
// has a folder of its own and no settings.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return os.WriteFile(e.WorkDir+"/clip.wav", workersaitest.SampleWAV(), 0o600)
		},
	})
}
