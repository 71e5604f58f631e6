package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
)

// table prints rows in columns. A terminal that is too narrow gets shortened cells, so
// that each row is one line. All other output has whole cells.
type table struct {
	columns []column
	rows    [][]string
}

// column is a column of a table and its behaviour on a narrow terminal.
type column struct {
	name  string
	brief string // shorter name for a narrow terminal
	// shorten abbreviates the cells without loss of meaning, such as ids to their
	// beginnings. The first column with a shorten function is shortened last.
	shorten func(cells []string)
	// least is the minimum width when cells are cut; 0 means never cut.
	// A table that is still too wide cuts every column.
	least int
}

func newTable(columns ...column) *table { return &table{columns: columns} }

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

// print writes the table, and fits it to the terminal if w is one.
func (t *table) print(w io.Writer) error {
	if width := terminalWidth(w); width > 0 {
		t.fit(width)
	}
	var b strings.Builder
	widths := t.widths()
	for _, row := range append([][]string{t.header()}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(runewidth.FillRight(cell, widths[i]) + gap)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const gap = "  "

func (t *table) header() []string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return names
}

// widths returns the widths of the columns.
func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for _, row := range append([][]string{t.header()}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	return widths
}

func sum(widths []int) int {
	total := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	return total
}

// fit shortens cells until a row is at most width wide. First it leaves out columns without
// cells. Then it applies the columns' shorten functions, from the last column to the first.
// Then it cuts the widest cells.
func (t *table) fit(width int) {
	if sum(t.widths()) > width {
		t.dropEmpty()
	}
	for i := len(t.columns) - 1; i >= 0 && sum(t.widths()) > width; i-- {
		if t.columns[i].brief != "" {
			t.columns[i].name = t.columns[i].brief
		}
		if t.columns[i].shorten == nil {
			continue
		}
		cells := make([]string, len(t.rows))
		for j, row := range t.rows {
			cells[j] = row[i]
		}
		t.columns[i].shorten(cells)
		for j := range t.rows {
			t.rows[j][i] = cells[j]
		}
	}
	widths := t.widths()
	cut(widths, width, func(i int) bool { return t.columns[i].least > 0 && widths[i] > t.columns[i].least })
	cut(widths, width, func(i int) bool { return widths[i] > leastOfAny })
	for i := range t.columns {
		for j := range t.rows {
			t.rows[j][i] = runewidth.Truncate(t.rows[j][i], widths[i], "…")
		}
		t.columns[i].name = runewidth.Truncate(t.columns[i].name, widths[i], "…")
	}
}

// leastOfAny is the width to which a column is cut when its own least width does not help.
const leastOfAny = 4

// cut reduces the widest of the columns that may be cut, until a row is at most width wide.
func cut(widths []int, width int, may func(i int) bool) {
	for over := sum(widths) - width; over > 0; over-- {
		widest := -1
		for i := range widths {
			if may(i) && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// dropEmpty removes the columns whose cells are all empty.
func (t *table) dropEmpty() {
	for i := len(t.columns) - 1; i >= 0 && len(t.rows) > 0; i-- {
		if slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "" }) {
			continue
		}
		t.columns = slices.Delete(t.columns, i, i+1)
		for j := range t.rows {
			t.rows[j] = slices.Delete(t.rows[j], i, i+1)
		}
	}
}

// shortModels keeps the last part of model ids, which --model also accepts.
func shortModels(cells []string) {
	for i, id := range cells {
		cells[i] = path.Base(id)
	}
}

// shortTimes replaces RFC 3339 times by their age.
func shortTimes(cells []string) {
	for i, cell := range cells {
		if at, err := time.Parse(time.RFC3339, cell); err == nil {
			cells[i] = age(time.Since(at)) + " ago"
		}
	}
}

// age returns a duration in one unit: 12s, 5m, 3h, 9d.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
