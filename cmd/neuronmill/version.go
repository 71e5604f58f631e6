package main

import (
	"fmt"
	"runtime/debug"
)

type versionCmd struct{}

// Help is shown by --help.
func (versionCmd) Help() string {
	return `The version and the commit that it was built from:

  neuronmill version`
}

// Run prints the version that was built.
func (versionCmd) Run(g *globals) error {
	version, revision := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Fprintf(g.stdout, "neuronmill %s%s\n", version, revision)
	return nil
}
