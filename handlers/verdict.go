package handlers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// handback brings a task to the queue again. Its text is all that the queue is told:
// one clean line of our own words.
type handback struct {
	after time.Duration
	why   string
}

func (e *handback) Error() string { return e.why }

// verdict is what an error leads to.
type verdict struct {
	fail      *tasks.Failure // the task ends so
	after     time.Duration  // else it comes again after this
	why       string
	uncounted bool // the attempt was not the task's fault
	park      bool // it comes again when its gate has room
}

// busyBudget is how many times a model without capacity is asked for one task.
const busyBudget = 100

// judge turns an error of a run into what is done about it. It is the one place where
// retries are decided.
func judge(err error, c counters, s tasks.Spec) verdict {
	var (
		failure *tasks.Failure
		invalid tasks.Problems
		pause   *limit.PauseError
		back    *handback
		api     *workersai.Error
	)
	switch {
	case errors.As(err, &failure):
		return verdict{fail: failure}
	case errors.As(err, &invalid):
		return verdict{fail: &tasks.Failure{Code: "payload_invalid", Message: clean(invalid.Error())}}
	case errors.As(err, &pause):
		return verdict{park: true, why: pause.Reason, uncounted: true}
	case errors.As(err, &back):
		return verdict{after: back.after, why: back.why, uncounted: true}
	case errors.As(err, &api):
		return judgeAnswer(api, c, s)
	}
	// Redis or the bucket: not the task's fault, and not the API's either.
	return verdict{after: backoff(c.unpaid), why: clean(err.Error()), uncounted: true}
}

func judgeAnswer(api *workersai.Error, c counters, s tasks.Spec) verdict {
	spent := verdict{fail: &tasks.Failure{Code: failureCode(api), Message: clean(api.Error())}}
	again := verdict{after: backoff(c.spent()), why: clean(api.Error())}
	switch api.Class() {
	case workersai.Throttled, workersai.Quota, workersai.Auth:
		again.uncounted, again.park = true, true
	case workersai.Busy:
		if c.unpaid >= busyBudget {
			return spent
		}
		again.uncounted, again.park = true, true
	case workersai.Guarded:
		if c.spent() >= 2 {
			return spent
		}
	case workersai.Transient:
		if c.spent() >= s.Attempts {
			return spent
		}
	default:
		return spent
	}
	return again
}

// failureCode is the stable word for an answer that ended a task.
func failureCode(e *workersai.Error) string {
	switch e.Code {
	case 5007, 3042, 7502:
		return "model_not_found"
	case 5028:
		return "model_gone"
	case 5021, 3010, 7506:
		return "context_exceeded"
	case 3006:
		return "input_too_large"
	case 3046:
		return "inference_timeout"
	}
	switch e.Class() {
	case workersai.Permanent:
		return "request_refused"
	case workersai.Busy:
		return "no_capacity"
	}
	return "attempts_exhausted"
}

// backoff is exponential with full jitter: 2 s, 4 s, ... up to 2 minutes.
func backoff(n int) time.Duration {
	return jitter(min(2*time.Second<<min(max(n-1, 0), 6), 2*time.Minute))
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// clean makes any text fit for Redis, logs and result documents: valid UTF-8, one
// line, at most 300 bytes. The queue cannot store a broken byte: a task with one in
// its error would run for ever.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }), " ")
	const most = 300
	if len(text) <= most {
		return text
	}
	cut := most - len("…")
	for cut > 0 && text[cut]&0xC0 == 0x80 {
		cut--
	}
	return fmt.Sprintf("%s…", text[:cut])
}
