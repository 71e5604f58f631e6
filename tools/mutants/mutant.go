package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// mutant is the program without one protection, with the test that must fail on it.
type mutant struct {
	Name    string
	Edits   []edit
	Package string // "./internal/engine"
	Test    string // empty for all tests of the package
	Args    []string
	Fast    bool
	Crash   bool // the protection is against a crash: the test's process must die
}

// edit is one change of one file.
type edit struct {
	File string // from the root of the checkout
	Old  string // occurs exactly once in the file; empty when New is the whole file
	New  string
}

// verdict is the outcome of a mutant's run.
type verdict struct {
	killed bool
	why    string
}

// load reads protections.txtar. The name of each file in it is "NAME [fast] [crash]"; its
// text is the test and one or more edits:
//
//	PACKAGE TEST
//	FILE
//	<<<<
//	old text
//	====
//	new text
//	>>>>
func load(name string) ([]mutant, error) {
	archive, err := txtar.ParseFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the protections: %w", err)
	}
	var all []mutant
	for _, f := range archive.Files {
		m, err := parse(string(f.Data))
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, f.Name, err)
		}
		words := strings.Fields(f.Name)
		m.Name, m.Fast, m.Crash = words[0], slices.Contains(words, "fast"), slices.Contains(words, "crash")
		all = append(all, m)
	}
	return all, nil
}

func parse(text string) (mutant, error) {
	test, rest, _ := strings.Cut(text, "\n")
	fields := strings.Fields(test)
	if len(fields) != 2 {
		return mutant{}, errors.New("must begin with package and test")
	}
	m := mutant{Package: fields[0], Test: fields[1]}
	for strings.TrimSpace(rest) != "" {
		file, after, ok := strings.Cut(rest, "\n<<<<\n")
		old, after, ok2 := strings.Cut(after, "\n====\n")
		fresh, after, ok3 := strings.Cut("\n"+after, "\n>>>>")
		e := edit{File: strings.TrimSpace(file), Old: old, New: strings.TrimPrefix(fresh, "\n")}
		if !ok || !ok2 || !ok3 || e.Old == "" {
			return mutant{}, errors.New("an edit must be: file, <<<<, old text, ====, new text, >>>>")
		}
		m.Edits, rest = append(m.Edits, e), after
	}
	if len(m.Edits) == 0 {
		return mutant{}, errors.New("has no edit")
	}
	return m, nil
}

// mutated returns the files of the mutant with its edits applied.
func (m mutant) mutated() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, e := range m.Edits {
		if e.Old == "" {
			files[e.File] = []byte(e.New)
			continue
		}
		text, ok := files[e.File]
		if !ok {
			var err error
			if text, err = os.ReadFile(e.File); err != nil {
				return nil, err
			}
		}
		if n := bytes.Count(text, []byte(e.Old)); n != 1 {
			return nil, fmt.Errorf("the old text %q stands %d times in %s, not once", firstLine(e.Old, ""), n, e.File)
		}
		files[e.File] = bytes.Replace(text, []byte(e.Old), []byte(e.New), 1)
	}
	return files, nil
}

// judge builds the mutant's test and runs it, in each round anew. Only a failed assertion of
// that test counts, in all rounds. A failed build, a skipped test or a timeout does not.
func judge(ctx context.Context, o options, m mutant) verdict {
	files, err := m.mutated()
	if err != nil {
		return verdict{why: err.Error()}
	}
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return verdict{why: err.Error()}
	}
	defer os.RemoveAll(dir)
	overlay, err := overlayFor(dir, files)
	if err != nil {
		return verdict{why: err.Error()}
	}
	binary := filepath.Join(dir, "mutant.test")
	build := []string{"test", "-c", "-overlay", overlay, "-vet=off", "-o", binary, m.Package}
	if out, err := output(ctx, 10*time.Minute, ".", "go", build...); err != nil {
		return verdict{why: "it does not build: " + firstLine(out, "")}
	}
	v := verdict{}
	for round := range o.rounds {
		out, err := output(ctx, o.limit+time.Minute, m.Package, binary, m.testArgs(o.limit)...)
		if v = judgeOutput(m, out, err); !v.killed {
			if o.rounds > 1 {
				v.why += fmt.Sprintf(" (round %d of %d)", round+1, o.rounds)
			}
			break
		}
	}
	return v
}

// testArgs returns the arguments of the test's binary.
func (m mutant) testArgs(limit time.Duration) []string {
	args := []string{"-test.timeout=" + limit.String(), "-test.paniconexit0"}
	if m.Test != "" {
		args = append(args, "-test.v", "-test.run=^"+m.Test+"$")
	}
	return append(args, m.Args...)
}

// output runs a command in a folder for at most limit, and returns its output.
func output(ctx context.Context, limit time.Duration, dir, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = append(os.Environ(), "MUTANT=yes") // tests wait for less time: they are meant to fail
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func judgeOutput(m mutant, out string, err error) verdict {
	_, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case strings.Contains(out, "panic: test timed out"):
		return verdict{why: "its test does not end, which shows nothing"}
	case m.Test != "" && !strings.Contains(out, "=== RUN   "+m.Test):
		return verdict{why: "there is no such test"}
	case strings.Contains(out, "--- SKIP: "+m.Test) && m.Test != "":
		return verdict{why: "its test is skipped here"}
	case err == nil:
		return verdict{why: "its test passes without the protection"}
	case !exited:
		return verdict{why: err.Error()}
	case m.Crash:
		return verdict{killed: strings.Contains(out, "\npanic: "), why: firstLine(out, "panic: ")}
	case strings.Contains(out, "panic: ") && !strings.Contains(out, "--- FAIL: "):
		return verdict{why: "it panics: " + firstLine(out, "panic: ")}
	}
	return verdict{killed: true, why: firstLine(out, "Error:")}
}

// overlayFor writes the mutated files and the JSON overlay for go test.
func overlayFor(dir string, files map[string][]byte) (string, error) {
	replace := map[string]string{}
	for file, text := range files {
		whole, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		changed := filepath.Join(dir, fmt.Sprint(len(replace))+filepath.Base(file))
		if err := os.WriteFile(changed, text, 0o600); err != nil {
			return "", err
		}
		replace[whole] = changed
	}
	document, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, document, 0o600)
}

// firstLine returns the first line that contains a text, shortened.
func firstLine(out, with string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && strings.Contains(line, with) && !strings.HasPrefix(line, "#") {
			line = strings.Join(strings.Fields(strings.TrimPrefix(line, with)), " ")
			return line[:min(len(line), 120)]
		}
	}
	return ""
}
