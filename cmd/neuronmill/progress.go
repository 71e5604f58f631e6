package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows on stderr how far a command is and the reason for waiting. On a terminal
// it shows a bar, or a spinner if the total is unknown, and removes it at the end.
// Elsewhere it prints a line after a change.
type progress struct {
	w     io.Writer
	logs  *logWriter
	what  string
	total int64       // 0 when unknown
	rated atomic.Bool // lines without a terminal show rate and time left
	start time.Time
	count atomic.Int64
	base  atomic.Int64 // of count, done before the start
	note  atomic.Value // string: the reason for waiting
	extra atomic.Value // string: what else there is to say beside the count
	bars  *mpb.Progress
	bar   *mpb.Bar
	quit  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

const (
	lineEvery  = 5 * time.Second // minimum interval of lines without a terminal
	lineAtMost = time.Minute     // maximum interval of lines without a change
)

// newProgress starts the display; total may be 0 for unknown.
func newProgress(g *globals, what string, total int64) *progress {
	p := &progress{w: g.stderr, logs: g.logs, what: what, total: total, start: time.Now(), quit: make(chan struct{})}
	p.note.Store("")
	p.extra.Store("")
	if isTerminal(p.w) && !isPipe(g.stdout) { // a pager at the end of the pipe may use the same terminal
		p.bars = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(barWidth))
		p.bar = p.addBar()
		p.logs.show(p)
		return p
	}
	p.wg.Go(p.lines)
	return p
}

const barWidth = 20

func (p *progress) addBar() *mpb.Bar {
	text := func(f func() string) decor.Decorator {
		return decor.Any(func(decor.Statistics) string { return f() })
	}
	if p.total <= 1 {
		return p.bars.New(0, mpb.SpinnerStyle(), mpb.BarWidth(1), mpb.BarFillerTrim(), mpb.AppendDecorators(text(p.spinnerText)))
	}
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
	return p.bars.New(p.total, style, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(text(p.countText)), mpb.AppendDecorators(text(p.rateText)))
}

// spinnerText is the text after the spinner: elapsed time, reason for waiting, and the
// count if there may be several inputs.
func (p *progress) spinnerText() string {
	text := " "
	if p.total != 1 {
		text += p.line() + ", "
	}
	text += time.Since(p.start).Round(time.Second).String()
	if note := p.note.Load().(string); note != "" {
		text += ", waiting: " + note
	}
	return text
}

func (p *progress) countText() string {
	n := min(p.count.Load(), p.total)
	return fmt.Sprintf("%d of %d %s %3d%%%s ", n, p.total, p.what, n*100/p.total, p.extra.Load())
}

// rateText is the text after the bar: the reason for waiting, or the estimated remaining
// time.
func (p *progress) rateText() string {
	if note := p.note.Load().(string); note != "" {
		return " waiting: " + note
	}
	n, took := p.count.Load()-p.base.Load(), time.Since(p.start)
	if n <= 0 {
		return " " + took.Round(time.Second).String()
	}
	left := time.Duration(float64(took) / float64(n) * float64(max(p.total-p.base.Load()-n, 0)))
	return fmt.Sprintf(" %.0f/s, %s left", float64(n)/took.Seconds(), left.Round(time.Second))
}

// line returns the count in words.
func (p *progress) line() string {
	if p.total > 1 {
		return fmt.Sprintf("%d of %d %s%s", p.count.Load(), p.total, p.what, p.extra.Load())
	}
	return fmt.Sprintf("%d %s", p.count.Load(), p.what)
}

// lines prints changes until stop is called.
func (p *progress) lines() {
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	last, printed := "", time.Now()
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
		text := p.line()
		if note := p.note.Load().(string); note != "" {
			text += ", waiting: " + note
		} else if p.rated.Load() && p.count.Load() > p.base.Load() {
			text += "," + p.rateText()
		}
		if text != last || time.Since(printed) >= lineAtMost {
			fmt.Fprintln(p.w, text)
			last, printed = text, time.Now()
		}
	}
}

func (p *progress) add(n int) {
	p.count.Add(int64(n))
	if p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// set sets the count.
func (p *progress) set(n int64) { p.add(int(n - p.count.Load())) }

// rateFrom shows rate and time left, counted from here.
func (p *progress) rateFrom(count int64) {
	p.base.Store(count)
	p.rated.Store(true)
}

// waitsFor shows the reason for waiting; empty clears it.
func (p *progress) waitsFor(note string) { p.note.Store(note) }

// tooLong reports whether a note does not fit beside the bar.
func (p *progress) tooLong(note string) bool {
	const beside = 45 // maximum width before the note
	return p.bars != nil && terminalWidth(p.w) < beside+len(note) && (p.total != 1 || terminalWidth(p.w) < beside/2+len(note))
}

// say prints a line to stderr, above the bar.
func (p *progress) say(format string, args ...any) {
	p.above(p.w, fmt.Sprintf(format+"\n", args...))
}

// print prints a result to stdout, above the bar if both use the same terminal.
func (p *progress) print(stdout io.Writer, text string) {
	p.above(stdout, text+"\n")
}

func (p *progress) above(w io.Writer, text string) {
	if p.bars != nil && isTerminal(w) {
		if _, err := io.WriteString(p.bars, text); err == nil {
			return
		}
	}
	_, _ = io.WriteString(w, text)
}

// stop removes the bar. It may be called repeatedly.
func (p *progress) stop() {
	p.once.Do(func() {
		close(p.quit)
		if p.bar != nil {
			p.bar.Abort(true)
			p.bars.Wait()
			p.logs.show(nil)
		}
		p.wg.Wait()
	})
}

// logWriter writes log lines to stderr, above a visible bar.
type logWriter struct {
	w   io.Writer
	bar atomic.Pointer[progress]
}

func (l *logWriter) show(p *progress) { l.bar.Store(p) }

func (l *logWriter) Write(text []byte) (int, error) {
	if p := l.bar.Load(); p != nil {
		p.above(l.w, string(text))
		return len(text), nil
	}
	return l.w.Write(text)
}
