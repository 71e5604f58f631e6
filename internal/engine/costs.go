package engine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/tasks"
)

// costs holds the known prices of a task's calls. The number of a call within its task
// identifies it, so a call in both the Redis record and a checkpoint is counted once.
type costs struct {
	lost map[int]float64 // neurons by call, of all runs, where the answer is in no document
	kept []paidAnswer    // answers of this run, from its own calls or from checkpoints
}

// paidAnswer is the price of an answer that this run has.
type paidAnswer struct {
	call    int
	neurons float64
	stored  bool // the answer has a checkpoint, which a later run finds
}

// parseCosts decodes a string that record returned. Damaged entries are left out.
func parseCosts(record string) costs {
	c := costs{lost: map[int]float64{}}
	for entry := range strings.FieldsSeq(record) {
		number, price, _ := strings.Cut(entry, ":")
		call, err := strconv.Atoi(number)
		neurons, err2 := strconv.ParseFloat(price, 64)
		if err == nil && err2 == nil && neurons >= 0 && neurons < 1e12 {
			c.lost[call] = neurons
		}
	}
	return c
}

// record encodes the prices that no checkpoint holds, for later runs: "1:12.5 4:3" means
// that call 1 cost 12.5 neurons and call 4 cost 3.
func (c costs) record() string {
	all := maps.Clone(c.lost)
	if all == nil {
		all = map[int]float64{}
	}
	for _, a := range c.kept {
		if !a.stored {
			all[a.call] = a.neurons
		}
	}
	var entries []string
	for _, call := range slices.Sorted(maps.Keys(all)) {
		entries = append(entries, fmt.Sprintf("%d:%s", call, strconv.FormatFloat(all[call], 'g', -1, 64)))
	}
	return strings.Join(entries, " ")
}

// answered adds the answer of a call.
func (c *costs) answered(call int, neurons float64) {
	c.kept = append(c.kept, paidAnswer{call: call, neurons: neurons})
}

// found adds a checkpoint of an earlier run.
func (c *costs) found(call int, neurons float64) {
	delete(c.lost, call)
	c.kept = append(c.kept, paidAnswer{call, neurons, true})
}

// lose records a call with a known price whose answer is unusable or never came.
func (c *costs) lose(call int, neurons float64) {
	c.kept = slices.DeleteFunc(c.kept, func(a paidAnswer) bool { return a.call == call })
	if c.lost == nil {
		c.lost = map[int]float64{}
	}
	c.lost[call] = neurons
}

// stored records that the answer of a call has a checkpoint.
func (c *costs) stored(call int) {
	for i := range c.kept {
		if c.kept[i].call == call {
			c.kept[i].stored = true
		}
	}
}

// latest returns the call and the price of the last answer; zeros when there is none.
func (c costs) latest() (call int, neurons float64) {
	if len(c.kept) == 0 {
		return 0, 0
	}
	a := c.kept[len(c.kept)-1]
	return a.call, a.neurons
}

// total returns the sum of all prices.
func (c costs) total() float64 {
	sum := 0.0
	for _, call := range slices.Sorted(maps.Keys(c.lost)) { // in order, so that rounding gives the same sum each time
		sum += c.lost[call]
	}
	for _, a := range c.kept {
		sum += a.neurons
	}
	return sum
}

// usage returns the cost of the task over all its runs.
func (j *job) usage() tasks.Usage {
	return tasks.Usage{
		Neurons: j.counts.costs.total(), Calls: j.counts.calls,
		Unsettled: j.unsettled(), CountedSince: j.task.RecoveredAt,
	}
}

// fruitless returns how many calls may have been paid for without a usable answer.
func (j *job) fruitless() int {
	return max(0, j.counts.calls-j.counts.settled-j.refused-len(j.counts.costs.kept))
}

// unsettled returns how many calls may have been billed at an unknown price.
func (j *job) unsettled() int { return max(0, j.fruitless()-len(j.counts.costs.lost)) }

// setMost sets the highest price of the next call.
func (j *job) setMost(neurons float64) {
	j.most, j.dearest = neurons, max(j.dearest, neurons)
}

// overBudget returns the failure of a task whose next call might exceed its MaxNeurons; nil
// when the call may be sent. Calls of an unknown price count as the dearest of this run.
func (j *job) overBudget() *tasks.TaskError {
	most := j.task.MaxNeurons
	if most == 0 {
		return nil
	}
	spent := j.counts.costs.total() + float64(j.unsettled())*j.dearest
	if spent+j.most <= most {
		return nil
	}
	return &tasks.TaskError{Code: tasks.CodeBudgetExceeded, Message: fmt.Sprintf(
		"the next call may cost %.4g neurons, and %.4g of max_neurons %.4g are spent: it needs %.4g", j.most, spent, most, spent+j.most)}
}

// paidCap returns how many calls of a task may be paid for without a result, for any reason.
func paidCap(s tasks.Spec) int { return 3 * s.Attempts }

// exhausted returns the failure of a task that has used up its calls or attempts; nil when
// another call may be sent.
func (j *job) exhausted() *tasks.TaskError {
	var message string
	switch failed := j.counts.spent() - j.counts.crashes; {
	case j.fruitless() >= paidCap(j.spec):
		message = fmt.Sprintf("%d calls that may have been paid for brought no result", j.fruitless())
	case j.startedAt.IsZero() && failed >= j.spec.Attempts:
		message = fmt.Sprintf("%d attempts have failed", failed)
	default:
		return nil
	}
	if _, last := j.reasons.get(); last != "" {
		message += "; the last answer was: " + last
	}
	return &tasks.TaskError{Code: tasks.CodeAttemptsExhausted, Message: message}
}
