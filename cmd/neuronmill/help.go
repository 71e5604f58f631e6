package main

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// settingsOf maps the first word of a command to its relevant common settings. Commands
// that are not listed show all.
var settingsOf = map[string][]string{
	"demo":      {"limits", "log-level"},
	"enqueue":   {"redis-url", "store-url", "data-dir", "log-level"},
	"task":      {"redis-url", "store-url", "data-dir", "log-level"},
	"dead":      {"redis-url", "store-url", "data-dir", "log-level"},
	"serve":     {"redis-url", "store-url", "data-dir", "limits", "log-level", "webhook-allow"},
	"key":       {"store-url", "data-dir", "log-level"},
	"recover":   {"redis-url", "store-url", "data-dir", "log-level"},
	"workers":   {"redis-url", "store-url", "data-dir", "log-level"},
	"schedule":  {"redis-url", "store-url", "data-dir", "log-level"},
	"scheduler": {"redis-url", "store-url", "data-dir", "log-level"},
	"doctor":    {"redis-url", "store-url", "data-dir", "log-level"},
	"emulator":  {"limits", "log-level"},
	"models":    {},
	"version":   {},
}

// printHelp prints the help of a command: its own flags, the options of a task, then the
// relevant common settings. Only the program and commands without subcommands show
// settings.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil {
		return kong.DefaultHelpPrinter(options, ctx)
	}
	// Kong prints flags from the root down, so all of them move to the node, in our
	// order.
	var settings []*kong.Flag
	for above := node.Parent; above != nil; above = above.Parent {
		for _, f := range above.Flags {
			if f.Group != nil && f.Group.Key == "settings" {
				settings = append(settings, f)
			} else {
				node.Flags = append(node.Flags, f)
			}
		}
		above.Flags = nil
	}
	first, _, _ := strings.Cut(node.Path(), " ")
	wanted, some := settingsOf[first]
	for _, f := range settings {
		if len(node.Children) == 0 && (!some || slices.Contains(wanted, f.Name)) {
			node.Flags = append(node.Flags, f)
		}
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

// examples returns the section of a help text with example calls.
func examples(lines ...string) string {
	var b strings.Builder
	b.WriteString("Examples:\n\n")
	for _, l := range lines {
		b.WriteString("  " + l + "\n")
	}
	return b.String()
}
