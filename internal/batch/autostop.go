package batch

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/neuronmill/neuronmill/tasks"
)

// AutoStop ends a batch early once too many of its lines fail. The zero value never does.
type AutoStop struct {
	Percent float64 // of the lines that ended
}

// stopsAfter is how many lines must have ended before their share says something.
const stopsAfter = 20

var autoStop = regexp.MustCompile(`^failed\s*>\s*(\d{1,2}(?:\.\d+)?)\s*%$`)

// UnmarshalText reads "failed>5%".
func (a *AutoStop) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = AutoStop{}
		return nil
	}
	found := autoStop.FindSubmatch(text)
	if found == nil {
		return fmt.Errorf("%q is not a limit such as failed>5%%", text)
	}
	percent, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil || percent == 0 {
		return fmt.Errorf("%q: the percentage is above 0 and below 100", text)
	}
	a.Percent = percent
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (a AutoStop) MarshalText() ([]byte, error) {
	if a.Percent == 0 {
		return nil, nil
	}
	return []byte("failed>" + strconv.FormatFloat(a.Percent, 'f', -1, 64) + "%"), nil
}

// exceeded says why a batch stops after so many lines; empty when it goes on.
func (a AutoStop) exceeded(c Counts) string {
	done := c.Completed + c.Failed
	if a.Percent == 0 || done < stopsAfter || float64(c.Failed)*100 <= a.Percent*float64(done) {
		return ""
	}
	return fmt.Sprintf("%d of the first %d lines failed, more than %s %%", c.Failed, done, strconv.FormatFloat(a.Percent, 'f', -1, 64))
}

// tally counts the lines of a task that ended, and halts the round when too many failed.
// Only tasks that this driver has seen count, so that a later round has its own share.
func (d *driver) tally(c Counts) {
	d.mu.Lock()
	d.seen.add(c)
	why := d.batch.AutoStop.exceeded(d.seen)
	d.mu.Unlock()
	if why != "" {
		d.stopBecause(why)
	}
}

// stopBecause halts the round for a reason of its own; the first one stands.
func (d *driver) stopBecause(why string) {
	d.mu.Lock()
	if d.tooMany == "" {
		d.tooMany = why
	}
	d.mu.Unlock()
	d.halt(CodeStopped)
}

// stoppedBecause returns why the round stopped itself; empty when it did not.
func (d *driver) stoppedBecause() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tooMany
}

// notRun is the failure of a line that was not run because the round was halted.
func (d *driver) notRun() *tasks.TaskError {
	switch d.code {
	case CodeExpired:
		return &tasks.TaskError{Code: CodeExpired, Message: "the deadline of the batch passed before the line was run"}
	case CodeStopped:
		return &tasks.TaskError{Code: CodeStopped, Message: "the batch stopped itself before the line was run: " + d.stoppedBecause()}
	}
	return &tasks.TaskError{Code: CodeCancelled, Message: "the batch was cancelled before the line was run"}
}
