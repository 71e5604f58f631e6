package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report prints the table of a run and the violations, the first of each sort.
func (r *run) report(v *verdict, toQuiet time.Duration) {
	r.checkLogs(v)
	row := func(name, format string, args ...any) {
		fmt.Printf("| %s | %s |\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Println()
	row("seed "+fmt.Sprint(r.seed), "%s, %d workers at a time, %d tasks a second", r.length, r.slots, r.rate)
	fmt.Println("| --- | --- |")
	row("tasks", "%d accepted, %d of unknown outcome, %d refused", v.accepted, v.unknown, v.refused)
	row("ended", "%s", list(v.ends))
	row("workers killed", "%d of %d processes", r.j.kills(), len(r.fleet.workers))
	for _, group := range []string{"kill", "drain", "zombie", "redis", "bucket", "provider", "producer-redis", "worker-redis", "worker-s3", "worker-provider"} {
		row("faults: "+group, "%s", list(r.j.group(group)))
	}
	row("lost", "%d", len(v.lost))
	row("double results", "%d", len(v.double))
	row("calls", "%d, paid %d, of these %d while things went wrong", v.calls, v.paid, v.inStorm)
	row("throttled calls", "%d", v.throttled)
	row("paid again, allowed", "%s", list(v.again))
	row("paid calls over the allowance", "%d", len(v.overpaid))
	row("width of the excuses", "%s", v.groundless)
	row("failures without a reason", "%d", len(v.unexplained))
	row("litter", "%d", len(v.litter))
	row("checkpoints that only Redis knew", "%d", len(v.orphans))
	row("otherwise wrong", "%d", len(v.wrong))
	row("time to quiet", "%s", toQuiet.Round(time.Second))
	for name, found := range map[string][]string{
		"lost": v.lost, "double": v.double, "overpaid": v.overpaid, "unexplained": v.unexplained, "litter": v.litter, "orphan": v.orphans, "wrong": v.wrong,
	} {
		for _, f := range found[:min(len(found), 10)] {
			fmt.Printf("%s: %s\n", name, f)
		}
	}
}

// checkLogs searches the workers' logs for forbidden content.
func (r *run) checkLogs(v *verdict) {
	files, _ := filepath.Glob(filepath.Join(r.dir, "worker-*.log")) // the pattern is valid
	for _, file := range files {
		text, err := os.ReadFile(file)
		switch {
		case err != nil:
			v.wrong = append(v.wrong, err.Error())
		case strings.Contains(string(text), canary):
			v.wrong = append(v.wrong, "the token is in "+file)
		case strings.Contains(string(text), "panic"):
			v.wrong = append(v.wrong, "a panic is in "+file)
		}
	}
}

// group returns the counts of the faults of one sort, by the rest of their names.
func (j *journal) group(sort string) map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	for what, n := range j.counts {
		if rest, ok := strings.CutPrefix(what, sort+" "); ok && what != "redis forgets" {
			counts[rest] = n
		}
	}
	return counts
}

// list formats counts in the order of their names.
func list(counts map[string]int) string {
	if len(counts) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
