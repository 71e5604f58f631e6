package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows on stderr how far a command is: on a terminal a bar, or a spinner where
// the end is not known; else a line every few seconds.
type progress struct {
	what  string
	count atomic.Int64
	bars  *mpb.Progress
	bar   *mpb.Bar
	quit  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

// newProgress begins to show; total is the end, 0 when it is not known.
func newProgress(w io.Writer, what string, total int64) *progress {
	p := &progress{what: what, quit: make(chan struct{})}
	if file, ok := w.(*os.File); ok && isTerminal(file) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
		p.bar = p.addBar(total)
		return p
	}
	p.wg.Go(func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				fmt.Fprintln(w, p.line(total))
			}
		}
	})
	return p
}

func (p *progress) addBar(total int64) *mpb.Bar {
	elapsed := decor.Elapsed(decor.ET_STYLE_GO)
	speed := decor.AverageSpeed(0, "%.0f/s ")
	if total <= 1 {
		return p.bars.New(0, mpb.SpinnerStyle(), mpb.AppendDecorators(decor.CurrentNoUnit("%d "+p.what+" "), speed, elapsed))
	}
	return p.bars.New(total, mpb.BarStyle(), mpb.AppendDecorators(decor.CountersNoUnit("%d of %d "+p.what+" "), speed,
		elapsed, decor.Name(", "), decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left")))
}

func (p *progress) line(total int64) string {
	if total > 0 {
		return fmt.Sprintf("%d of %d %s", p.count.Load(), total, p.what)
	}
	return fmt.Sprintf("%d %s", p.count.Load(), p.what)
}

func (p *progress) add(n int) {
	p.count.Add(int64(n))
	if p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// say prints a line without tearing the bar.
func (p *progress) say(w io.Writer, format string, args ...any) {
	if p.bars != nil {
		w = p.bars
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// stop may be called more than once.
func (p *progress) stop() {
	p.once.Do(func() {
		close(p.quit)
		if p.bar != nil {
			p.bar.SetTotal(-1, true)
			p.bars.Wait()
		}
		p.wg.Wait()
	})
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
