package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"golang.org/x/term"
)

type topCmd struct {
	Once  bool          `help:"Print it once and end, as a pipe gets it."`
	Every time.Duration `default:"2s" help:"How often it is read."`
}

// Help is shown by --help.
func (topCmd) Help() string {
	return examples("neuronmill top", "neuronmill top --once") + `
One page for a terminal of 80 columns, also over ssh: how the fleet is in one sentence, what waits and runs by kind and lane, the gates, the workers, and how many are of use. OLDEST
is the age of the oldest task that waits; PARKED tasks wait outside of workers for their gate. q or Ctrl-C ends. NO_COLOR turns colours off.`
}

// Run shows the page until q or Ctrl-C.
func (c *topCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	gates, watch := stack.Gate(g.settings, 0, g.log), stack.Monitor()
	read := func(width int) (page, error) {
		fleet, err := watch.Fleet(g.ctx, gates)
		if err != nil {
			return page{}, err
		}
		return pageOf(fleet, fleet.Scaling(gates.PaceOf), width), nil
	}
	screen, ok := g.stdout.(*os.File)
	if c.Once || !ok || !isTerminal(g.stdout) {
		p, err := read(pageWidth)
		if err != nil {
			return err
		}
		_, err = io.WriteString(g.stdout, p.text(false))
		return err
	}
	return c.watch(g, screen, read)
}

// watch shows the page again and again on a terminal, which it leaves as it was.
func (c *topCmd) watch(g *globals, screen *os.File, read func(width int) (page, error)) error {
	keys, restore := readKeys(g.stdin)
	defer restore()
	fmt.Fprint(screen, "\x1b[?1049h\x1b[?25l")
	defer fmt.Fprint(screen, "\x1b[?25h\x1b[?1049l")
	coloured := os.Getenv("NO_COLOR") == ""
	for {
		width, height, err := term.GetSize(int(screen.Fd()))
		if err != nil || width <= 0 {
			width, height = pageWidth, 24
		}
		text := ""
		p, err := read(width)
		switch {
		case g.ctx.Err() != nil:
			return nil
		case err != nil:
			text = wrap("cannot read the state: "+err.Error(), width, "") + "\n"
		default:
			text = p.text(coloured)
		}
		fmt.Fprint(screen, frame(text, height))
		if ends(g.ctx, keys, max(c.Every, 200*time.Millisecond)) {
			return nil
		}
	}
}

// frame returns what draws a text over the last one, cut to the height of the terminal.
func frame(text string, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if height > 1 && len(lines) > height {
		lines = append(lines[:height-1], "...")
	}
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

// ends waits for d. It reports whether the user or the program ends before.
func ends(ctx context.Context, keys <-chan byte, d time.Duration) bool {
	due := time.After(d)
	for {
		select {
		case <-ctx.Done():
			return true
		case <-due:
			return false
		case key, open := <-keys:
			switch {
			case !open:
				keys = nil // no more keys; Ctrl-C still comes as a signal
			case key == 'q' || key == 'Q' || key == 3: // 3 is Ctrl-C in raw mode
				return true
			}
		}
	}
}

// readKeys reads keys as they are pressed, if in is a terminal. restore brings the terminal
// back; the goroutine that reads ends with the program.
func readKeys(in io.Reader) (keys <-chan byte, restore func()) {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil, func() {}
	}
	before, err := term.MakeRaw(int(file.Fd()))
	if err != nil {
		return nil, func() {}
	}
	pressed := make(chan byte)
	go func() {
		defer close(pressed)
		for one := make([]byte, 1); ; {
			if n, err := file.Read(one); n == 0 || err != nil {
				return
			}
			pressed <- one[0]
		}
	}()
	return pressed, func() { _ = term.Restore(int(file.Fd()), before) }
}

// pageWidth is the width of a page that is not for a terminal.
const pageWidth = 80

// page is the state of the fleet as text.
type page struct {
	head, verdict, body string
	healthy             bool
}

// text returns the page. Colours mark the verdict only.
func (p page) text(coloured bool) string {
	verdict := p.verdict
	if coloured {
		colour := "\x1b[1m"
		if !p.healthy {
			colour = "\x1b[1;31m"
		}
		lines := strings.Split(verdict, "\n")
		for i, line := range lines {
			lines[i] = colour + line + "\x1b[0m"
		}
		verdict = strings.Join(lines, "\n")
	}
	return p.head + "\n\n" + verdict + "\n\n" + p.body
}

// pageOf writes the page for a width in columns.
func pageOf(f monitor.Fleet, s monitor.Scaling, width int) page {
	report := f.Report()
	body := strings.Join([]string{
		queuesText(f, width),
		gatesText(f, width),
		wrap(workersText(f), width, "  "),
		wrap(fmt.Sprintf("WANTED   %d, %d run: %s", s.Workers, s.Running, s.Reason), width, "  "),
	}, "\n") + "\n"
	return page{
		head:    "neuronmill  " + f.At.Format(time.TimeOnly) + "  q ends",
		verdict: cutLines(wrap(report.Verdict, width, ""), width), healthy: report.Healthy, body: cutLines(body, width),
	}
}

// cutLines cuts lines whose words are wider than the terminal.
func cutLines(text string, width int) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = runewidth.Truncate(line, width, "…")
	}
	return strings.Join(lines, "\n")
}

// tableText returns a table that fits a width.
func tableText(t *table, width int) string {
	t.fit(width)
	var b bytes.Buffer
	_ = t.print(&b) // a buffer takes everything
	return b.String()
}

func queuesText(f monitor.Fleet, width int) string {
	t := newTable(column{name: "KIND", least: 6}, column{name: "LANE", least: 5}, column{name: "WAITING"}, column{name: "OLDEST"}, column{name: "PARKED"},
		column{name: "LATER"}, column{name: "RUNNING"}, column{name: "SLOTS"})
	for _, q := range f.Queues {
		slots, _ := monitor.SlotsOf(f.Workers, q.Kind, q.Lane)
		later := q.Scheduled + q.Retry
		if q.Waiting()+q.Active+later == 0 {
			continue
		}
		oldest := "-"
		if !q.Oldest.IsZero() {
			oldest = age(f.At.Sub(q.Oldest))
		}
		t.add(q.Kind, q.Lane, q.Waiting(), oldest, q.Waiting()-q.Pending, later, q.Active, slots)
	}
	if len(t.rows) == 0 {
		return "No task waits or runs.\n"
	}
	return tableText(t, width)
}

func gatesText(f monitor.Fleet, width int) string {
	t := newTable(column{name: "GATE", shorten: shortModels, least: 12}, column{name: "STATE"}, column{name: "A MINUTE"}, column{name: "IN FLIGHT", brief: "NOW"},
		column{name: "WAIT"}, column{name: "PARKED"}, column{name: "CALLS"}, column{name: "429S"}, column{name: "OPENS IN"})
	for _, s := range f.Gates {
		pace, opens := "-", "-"
		if s.Name != gate.Account {
			pace = fmt.Sprintf("%.0f", float64(s.Pace.PerMinute)*s.RateFactor)
		}
		if s.Closed > 0 {
			opens = age(s.Closed)
		}
		t.add(s.Name, s.Word(), pace, s.InFlight, s.Interactive+s.Bulk, f.DeferredAt(s.Name), s.Calls, s.Throttled+s.Busy, opens)
	}
	if len(t.rows) == 0 {
		return "No gate has been used yet.\n"
	}
	return tableText(t, width)
}

// mostWorkers is how many workers a page names.
const mostWorkers = 8

func workersText(f monitor.Fleet) string {
	if len(f.Workers) == 0 {
		return "WORKERS  none; start one: neuronmill worker"
	}
	var names []string
	for i, w := range f.Workers {
		if i == mostWorkers {
			names = append(names, fmt.Sprintf("and %d more", len(f.Workers)-i))
			break
		}
		state := age(f.At.Sub(w.Started))
		if w.Status != "running" {
			state += " " + w.Status
		}
		names = append(names, fmt.Sprintf("%s:%d (%s, %s)", w.Host, w.PID, kindsText(w), state))
	}
	return "WORKERS  " + strings.Join(names, ", ")
}
