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

// progress shows on stderr how far a command is: a bar on a terminal, else a line every
// few seconds.
type progress struct {
	what  string
	count atomic.Int64
	bars  *mpb.Progress
	bar   *mpb.Bar
	quit  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, quit: make(chan struct{})}
	if file, ok := w.(*os.File); ok && isTerminal(file) {
		p.bars = mpb.New(mpb.WithOutput(w))
		p.bar = p.bars.New(0, mpb.SpinnerStyle(), mpb.AppendDecorators(
			decor.CurrentNoUnit("%d "+what+" "), decor.AverageSpeed(0, "%.0f/s "), decor.Elapsed(decor.ET_STYLE_GO)))
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
				fmt.Fprintf(w, "%d %s\n", p.count.Load(), what)
			}
		}
	})
	return p
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
