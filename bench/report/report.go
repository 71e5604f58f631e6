// Package report keeps the figures of measurements and generates the page and its plots.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Kept is benchmarks.json: the last run of each measurement, by name.
type Kept map[string]Run

// Run describes one run of a measurement.
type Run struct {
	Command string          `json:"command"`
	On      string          `json:"on"` // a date
	Quick   bool            `json:"quick,omitempty"`
	Machine string          `json:"machine"`
	Figures json.RawMessage `json:"figures"`
}

// Section is a measurement prepared for the page.
type Section struct {
	Title  string
	About  string // description of the measurement, in Markdown
	Tables []Table
	Checks []Check
	Plot   *Plot // nil for no plot
}

// Table has a head and rows of the same length.
type Table struct {
	Head []string
	Rows [][]string
}

// Check is a figure with a target.
type Check struct {
	What   string
	Target string
	Got    string
	Pass   bool
	// Loaded figures depend on the load of the machine. A quick run does not compare them
	// with their target.
	Loaded bool
}

// Missed counts the missed targets.
func (s Section) Missed(quick bool) int {
	n := 0
	for _, c := range s.Checks {
		if !c.Pass && (!quick || !c.Loaded) {
			n++
		}
	}
	return n
}

// Markdown returns the section without its plot.
func (s Section) Markdown(quick bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", s.Title)
	if len(s.Checks) > 0 {
		t := Table{Head: []string{"target", "", "measured", ""}}
		for _, c := range s.Checks {
			verdict := "pass"
			switch {
			case quick && c.Loaded:
				verdict = "not judged in a quick run"
			case !c.Pass:
				verdict = "**missed**"
			}
			t.Rows = append(t.Rows, []string{c.What, c.Target, c.Got, verdict})
		}
		t.write(&b)
	}
	fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(s.About))
	for _, t := range s.Tables {
		t.write(&b)
	}
	return b.String()
}

func (t Table) write(b *strings.Builder) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.Head)
	rule := make([]string, len(t.Head))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, r := range t.Rows {
		line(r)
	}
	b.WriteString("\n")
}

// Shown is a section of the page with its run.
type Shown struct {
	Name string
	Run
	Section Section
}

const file = "benchmarks.json"

// Load reads the kept figures of a folder. A missing file is not an error.
func Load(docs string) (Kept, error) {
	kept := Kept{}
	raw, err := os.ReadFile(filepath.Join(docs, file))
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &kept)
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept figures: %w", err)
	}
	return kept, nil
}

const intro = `# Benchmarks

neuronmill beside what one would use instead: the same tasks, the same limit, one emulator of Workers AI behind HTTP, a Redis
and worker processes of their own for each row. Absolute figures belong to the machine; the ratios are what to look at.
This page is written by the program in ` + "`bench/`" + `, from the figures in [benchmarks.json](benchmarks.json). It needs Go,
` + "`redis-server`" + `, and for BullMQ ` + "`node`" + ` and ` + "`npm`" + `.

`

// Write stores the figures and writes the page and its plots.
func Write(docs string, kept Kept, sections []Shown) error {
	if err := os.MkdirAll(docs, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(kept, "", " ")
	if err != nil {
		return err
	}
	var page strings.Builder
	page.WriteString(intro)
	for _, s := range sections {
		page.WriteString(s.Section.Markdown(s.Quick))
		if s.Section.Plot != nil {
			name := "benchmark-" + s.Name + ".svg"
			if err := s.Section.Plot.save(filepath.Join(docs, name)); err != nil {
				return fmt.Errorf("draw %s: %w", name, err)
			}
			fmt.Fprintf(&page, "![%s](%s)\n\n", s.Section.Plot.Title, name)
		}
		length := ""
		if s.Quick {
			length = " --quick"
		}
		fmt.Fprintf(&page, "`%s%s`, on %s: %s.\n\n", s.Command, length, s.On, s.Machine)
	}
	if err := os.WriteFile(filepath.Join(docs, file), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, "benchmarks.md"), []byte(page.String()), 0o644)
}
