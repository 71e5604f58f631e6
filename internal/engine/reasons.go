package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// The failure of a task at its deadline names its last wait and the last answer of the
// API. The live record keeps both between runs, as "waits" and "last". A task that waits
// or is retried for longer than a minute is logged once.

// longWait is how long a wait may take before it is logged.
const longWait = time.Minute

// reasons records why a task of this process has not ended yet. It is safe for concurrent
// use: another goroutine may make the call of a group of tasks.
type reasons struct {
	mu     sync.Mutex
	waits  string // the last wait of the task
	answer string // the last error answer of the API
}

func (r *reasons) answered(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = shorten(clean(answerText(err)), 150)
}

// noise matches the API's prefix and the request ids in its messages.
var noise = regexp.MustCompile(`AiError: |\s*\((request )?[0-9a-f]{8}-[0-9a-f-]{27}\)`)

// answerText returns the text of an API error without its request ids.
func answerText(err error) string {
	if api, ok := errors.AsType[*workersai.Error](err); ok {
		return noise.ReplaceAllString(api.Error(), "")
	}
	return err.Error()
}

func (r *reasons) get() (waits, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits, r.answer
}

// waitsAtGate records the gate's reason for a pause, except the stop of this worker. It
// reports whether the reason is another than before.
func (r *reasons) waitsAtGate(err error) (changed bool) {
	pause, ok := errors.AsType[*gate.RetryLaterError](err)
	if !ok || pause.Reason == stopping || pause.Reason == leaseLost {
		return false
	}
	text := gateText(pause.Model, pause.Reason)
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = r.waits != text
	r.waits = text
	return changed
}

func gateText(gate, reason string) string { return "the gate of " + gate + ": " + shorten(reason, 80) }

// storeReasons stores why a task is retried. A task deferred only by the pace of its gate needs
// no note: that is normal in a long queue.
func (e *Engine) storeReasons(ctx context.Context, j *job, v retryDecision) {
	waits, answer := j.reasons.get()
	if waits == "" && answer == "" && !v.deferred {
		waits = shorten(v.why, 100)
	}
	if answer == "" && (waits == "" || strings.HasSuffix(waits, ": "+gate.Paced)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	long, err := taskstate.NoteReasons(ctx, e.cfg.Redis, j.record(), taskstate.Reasons{Waits: waits, Last: answer})
	switch {
	case err != nil:
		e.cfg.Log.Debug("why a task comes again is not noted", "task", j.task.ID, "error", clean(err.Error()))
	case long && (!v.deferred || answer != ""): // long waits at a gate are logged once for all tasks
		e.cfg.Log.Info("task comes again since more than a minute", append(j.attrs("again"), "why", v.why)...)
	}
}

// explainDeadline adds the last wait and the last API answer to a deadline failure.
func (e *Engine) explainDeadline(ctx context.Context, j *job, f *tasks.TaskError) *tasks.TaskError {
	if f.Code != tasks.CodeDeadlineExceeded {
		return f
	}
	waits, answer := j.reasons.get()
	if waits == "" || answer == "" {
		// On an error the values in the record are left out, and the task still ends.
		noted, _ := taskstate.ReasonsOf(ctx, e.cfg.Redis, j.task.ID)
		waits, answer = cmp.Or(waits, noted.Waits), cmp.Or(answer, noted.Last)
	}
	if waits == "" {
		waits = e.gates.closed(ctx, e.cfg.Gate, j.task.Model)
	}
	if waits == "" && answer == "" {
		waits = "a free worker"
	}
	message := f.Message
	if waits != "" {
		message += "; waited for " + waits
	}
	if answer != "" {
		message += "; last: " + answer + " " + callsText(j.counts.calls)
	}
	return &tasks.TaskError{Code: f.Code, Message: message}
}

func callsText(n int) string {
	if n == 1 {
		return "(1 call)"
	}
	return fmt.Sprintf("(%d calls)", n)
}

// shorten cuts a clean text to most bytes and adds an ellipsis.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// closures caches for 5 s which gates are closed, since many tasks may fail at once.
type closures struct {
	mu   sync.Mutex
	seen map[string]closure
}

type closure struct {
	at   time.Time
	text string
}

// closed returns why the gate of a model, or of the account, is closed; empty when both are
// open or their state is unknown.
func (c *closures) closed(ctx context.Context, gates *gate.Gate, model string) string {
	c.mu.Lock()
	last, ok := c.seen[model]
	c.mu.Unlock()
	if ok && time.Since(last.at) < 5*time.Second {
		return last.text
	}
	states, err := gates.States(ctx, model, gate.Account)
	if err != nil {
		return ""
	}
	text := ""
	for _, s := range states {
		if s.Why != "" && s.Pace.Source != "" && (s.Refused || s.Closed > 0 || s.Interval() == 0) {
			text = gateText(s.Name, s.Why)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]closure{}
	}
	c.seen[model] = closure{time.Now(), text}
	return text
}

// longWaits logs each wait of more than a minute once, even if many tasks share it.
type longWaits struct{ told sync.Map }

// watch logs a wait that lasts for longWait, unless done is called first.
func (w *longWaits) watch(e *Engine, what string, j *job) (done func()) {
	timer := time.AfterFunc(longWait, func() {
		if _, told := w.told.LoadOrStore(what, true); told {
			return
		}
		why, _ := j.reasons.get()
		e.cfg.Log.Info("tasks wait since more than a minute", "for", what, "why", why, "task", j.task.ID)
	})
	return func() { timer.Stop() }
}

// over marks a wait as ended for all tasks: the next long one is logged again.
func (w *longWaits) over(what string) { w.told.Delete(what) }
