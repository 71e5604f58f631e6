package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
)

// version is set for releases and images: -ldflags "-X main.version=0.1.0". Empty means
// the version that the Go toolchain recorded about the module.
var version string

type versionCmd struct{}

// Help is shown by --help.
func (versionCmd) Help() string {
	return examples("neuronmill version") + `
Prints the version and the commit that it was built from.`
}

// builtVersion returns the version of this program, "devel" when unknown.
func builtVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return cmp.Or(version, info.Main.Version, "devel")
	}
	return cmp.Or(version, "devel")
}

// Run prints the version.
func (versionCmd) Run(g *globals) error {
	built, revision := builtVersion(), ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Fprintf(g.stdout, "neuronmill %s%s\n", built, revision)
	return nil
}
