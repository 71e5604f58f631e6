package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

// requeueError is the error that returns a task to the queue, to be retried later. The queue
// stores only its text: one clean line.
type requeueError struct {
	after time.Duration
	why   string
}

func (e *requeueError) Error() string { return e.why }

// RetryAfter implements queue.RetryError.
func (e *requeueError) RetryAfter() time.Duration { return e.after }

// retryDecision is the retry policy's decision for an error.
type retryDecision struct {
	fail      *tasks.TaskError // the task ends with this failure; nil means a retry
	after     time.Duration    // delay before the retry
	why       string
	uncounted bool // the attempt is refunded: the task is not at fault
	deferred  bool // the task is deferred until its gate has room
	budget    bool // the task waits for the budget of the next day
}

// busyBudget is how many refunded attempts a task may have while its model lacks capacity.
const busyBudget = 100

// retryPolicy is the retry policy: it maps an error and the counters to a decision. No other
// place decides on retries.
func retryPolicy(err error, c counters, s tasks.Spec) retryDecision {
	var (
		failure *tasks.TaskError
		invalid tasks.ValidationError
		pause   *gate.RetryLaterError
		back    *requeueError
		over    *budget.ExceededError
		api     *workersai.Error
		attempt *AttemptError
		stuck   *refusedObject
	)
	switch {
	case errors.As(err, &failure):
		return retryDecision{fail: failure}
	case errors.As(err, &invalid):
		return retryDecision{fail: &tasks.TaskError{Code: invalid.Code(), Message: clean(invalid.Error())}}
	case errors.As(err, &pause):
		return retryDecision{deferred: true, why: pause.Reason, uncounted: true}
	case errors.As(err, &over):
		return budgetPolicy(over)
	case errors.As(err, &back):
		return retryDecision{after: back.after, why: back.why, uncounted: true}
	case isUnusable(err):
		return retryOnce(err, c.unusable, tasks.CodeAnswerUnusable)
	case errors.As(err, &api):
		return answerPolicy(api, c, s)
	case errors.As(err, &stuck):
		return retryOnce(err, c.spent(), tasks.CodeResultNotStored)
	case errors.As(err, &attempt):
		return retryCounted(err, c, s, attempt.Code)
	case errors.Is(err, storage.ErrInvalidKey):
		return retryDecision{fail: &tasks.TaskError{Code: tasks.CodePayloadInvalid, Message: clean(err.Error())}}
	case objects.Unavailable(err):
		return retryDecision{after: bucketPause(err), why: clean(err.Error()), uncounted: true}
	case isOutage(err):
		return retryDecision{after: backoff(c.unpaid), why: clean(err.Error()), uncounted: true}
	}
	return retryCounted(err, c, s, tasks.CodeInternalError)
}

// retryCounted retries after an error until the kind's attempts are used up.
func retryCounted(err error, c counters, s tasks.Spec, code string) retryDecision {
	if c.spent() >= s.Attempts {
		return retryDecision{fail: &tasks.TaskError{Code: code, Message: clean(err.Error())}}
	}
	return retryDecision{after: patientBackoff(c.spent()), why: clean(err.Error())}
}

// retryOnce allows one retry after an error, and no third attempt.
func retryOnce(err error, met int, code string) retryDecision {
	if met >= 2 {
		return retryDecision{fail: &tasks.TaskError{Code: code, Message: clean(err.Error())}}
	}
	return retryDecision{after: backoff(met), why: clean(err.Error())}
}

// countedEarly reports whether an error counts as an attempt although no call was sent. Such
// an error is neither an outage nor final, so without a count it would repeat for ever.
func countedEarly(err error) bool {
	v := retryPolicy(err, counters{}, tasks.Spec{Attempts: 1})
	return v.fail == nil && !v.uncounted
}

// redisError is an error of Redis, or of the gate, which is kept in Redis.
type redisError struct{ err error }

func (e *redisError) Error() string { return e.err.Error() }
func (e *redisError) Unwrap() error { return e.err }

// isOutage reports whether an error comes from the infrastructure, and not from the task: a
// redisError, or an error type that only connections and servers return.
func isOutage(err error) bool {
	var server redis.Error
	var network net.Error
	return errors.As(err, new(*redisError)) || errors.As(err, &server) || errors.As(err, &network) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, redis.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isUnusable reports whether an error stands for a paid answer that cannot be used.
func isUnusable(err error) bool {
	api, ok := errors.AsType[*workersai.Error](err)
	return ok && api.Class() == workersai.Unusable || errors.As(err, new(*UnusableError))
}

func answerPolicy(api *workersai.Error, c counters, s tasks.Spec) retryDecision {
	spent := retryDecision{fail: &tasks.TaskError{Code: failureCode(api), Message: clean(api.Error())}}
	again := retryDecision{after: max(backoff(c.spent()), api.RetryAfter), why: clean(api.Error())}
	switch api.Class() {
	case workersai.Throttled, workersai.Quota, workersai.Auth:
		again.uncounted, again.deferred = true, true
	case workersai.Busy:
		if c.unpaid >= busyBudget {
			return spent
		}
		again.uncounted, again.deferred = true, true
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

// failureCode returns the stable code of an API error that ended a task.
func failureCode(e *workersai.Error) string {
	if reason := e.Reason(); reason != "" {
		return string(reason)
	}
	return tasks.CodeAttemptsExhausted
}

// backoff is exponential with full jitter: 2 s, 4 s, ... up to 2 minutes.
func backoff(n int) time.Duration {
	return jitter(min(2*time.Second<<min(max(n-1, 0), 6), 2*time.Minute))
}

// patientBackoff is the longer backoff for failures before a call: 10 s, 40 s, 160 s, up to
// 10 minutes, with a jitter of a quarter either way.
func patientBackoff(n int) time.Duration {
	pause := min(10*time.Second<<min(2*max(n-1, 0), 10), 10*time.Minute)
	return pause*3/4 + jitter(pause/2)
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// clean makes any text safe for Redis, logs and result documents: valid UTF-8, one line,
// at most 300 bytes. The queue cannot store invalid UTF-8: a task with it in its error
// would run for ever.
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
