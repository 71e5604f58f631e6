package openaiapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
)

// job is a request on its way through its task.
type job struct {
	request *openai.Request
	digest  string // of the body
	audio   string // object of an upload; empty for other requests

	id      string        // of the task
	record  string        // Redis key of the request's record
	key     record        // its content
	keep    time.Duration // of the record after the end
	counted bool          // among the requests that wait for the task

	abandoned bool // the task goes on without its client
}

// run enqueues the request's task, waits for its result and writes the response.
func (h *Handler) run(x *exchange, j *job) error {
	ctx := x.r.Context()
	spec, _ := tasks.SpecOf(j.request.Kind())
	limit := x.maxWait + spec.Timeout + slack
	attached, err := h.attach(ctx, x, j, limit+keptAfterEnd)
	if err != nil {
		return err
	}
	if !attached {
		err = h.forecast(ctx, x, j)
	} else if j.key.Audio != "" {
		j.request.SetAudio(j.key.Audio)
	}
	if err == nil {
		err = h.enqueue(ctx, x, j)
	}
	if err != nil {
		if !errors.Is(err, tasks.ErrUnknownOutcome) { // a repetition finds out
			h.detach(j, false)
		}
		return h.refusal(j, err)
	}
	h.cfg.Parsed(ctx)
	x.w.Header().Set("X-Neuronmill-Task", j.id)
	out := h.responder(x, j)
	result, err := h.await(ctx, x, j, limit, out)
	switch {
	case ctx.Err() != nil:
		h.abandon(x, j)
		return nil
	case errors.Is(err, errStopping):
		h.leave(j)
		return out.refuse(openai.Unavailable("the server stops; send the request again"))
	}
	if err != nil {
		h.detach(j, false)
		return out.refuse(h.refusal(j, err))
	}
	h.detach(j, result.Status == tasks.Completed)
	out.describe(result)
	if result.Status == tasks.Failed {
		return out.refuse(h.failure(ctx, j, result))
	}
	return out.finish(ctx, result)
}

// enqueue makes the request's task, or finds the one that it repeats. The task fails at
// its deadline if no call has begun.
func (h *Handler) enqueue(ctx context.Context, x *exchange, j *job) error {
	options := []tasks.Option{
		tasks.WithModel(j.request.Model), tasks.WithLane(tasks.Interactive), tasks.WithIdempotencyKey(j.key.Key),
		tasks.WithTimeToLive(max(x.maxWait, 5*time.Second)), tasks.WithDurability(tasks.InRedis), tasks.WithAPIKey(x.caller.Key),
	}
	if len(j.request.Metadata) > 0 {
		options = append(options, tasks.WithMetadata(j.request.Metadata))
	}
	receipt, err := x.caller.Client.Enqueue(ctx, j.request.Payload, options...)
	if err != nil {
		return err
	}
	j.id = receipt.ID
	if receipt.Existing {
		x.w.Header().Set("Idempotent-Replayed", "true")
	}
	return nil
}

// refusal turns an error of package tasks into the client's, and logs what is not the
// client's fault.
func (h *Handler) refusal(j *job, err error) error {
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, tasks.ErrUnknownOutcome):
		h.cfg.Log.Warn("an OpenAI request has an unknown outcome", "error", err)
		return openai.Unavailable("Redis or the bucket did not answer; send the request again")
	}
	e := j.request.Refusal(err)
	if e.Code == tasks.CodeInternalError {
		h.cfg.Log.Error("an OpenAI request failed", "task", j.id, "error", err)
	}
	return e
}

// failure returns the answer to a failed task. A 429 tells when to come back, if the gate
// knows.
func (h *Handler) failure(ctx context.Context, j *job, result *tasks.Result) error {
	if result.Error == nil {
		return openai.Internal()
	}
	e := j.request.Failure(result.Error)
	if e.Status == http.StatusTooManyRequests {
		if f, err := h.forecastOf(ctx, j.request.Kind(), j.request.Model); err == nil {
			e.RetryAfter = f.Wait
		}
	}
	return e
}

// forecasts keeps forecasts for a second, because many waiting requests ask for the same.
type forecasts struct {
	mu   sync.Mutex
	kept map[string]kept
}

type kept struct {
	Forecast
	at time.Time
}

const keptFor = time.Second

// recent returns a forecast that is at most a second old.
func (h *Handler) recent(ctx context.Context, kind tasks.Kind, model string) (Forecast, error) {
	h.cache.mu.Lock()
	f, ok := h.cache.kept[model]
	h.cache.mu.Unlock()
	if ok && time.Since(f.at) < keptFor {
		return f.Forecast, nil
	}
	return h.forecastOf(ctx, kind, model)
}

func (h *Handler) forecastOf(ctx context.Context, kind tasks.Kind, model string) (Forecast, error) {
	c := &h.cache
	fresh, err := h.cfg.Forecast(ctx, kind, model)
	if err != nil {
		return Forecast{}, fmt.Errorf("ask the gate of %s: %w", model, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = map[string]kept{} // bounded by the models of the catalogue
	}
	c.kept[model] = kept{fresh, time.Now()}
	return fresh, nil
}

// forecast refuses a request that would wait longer than it may.
func (h *Handler) forecast(ctx context.Context, x *exchange, j *job) error {
	f, err := h.forecastOf(ctx, j.request.Kind(), j.request.Model)
	if err != nil {
		return err
	}
	return tooLong(f, x.maxWait)
}

// tooLong returns the answer to a request that may wait only for so long; nil if that
// probably suffices.
func tooLong(f Forecast, left time.Duration) error {
	switch {
	case f.Shut:
		e := openai.Unavailable("the model's gate is closed until a person opens it: " + f.Reason)
		e.Final = true
		return e
	case f.Wait <= left:
		return nil
	case f.Code == tasks.CodeQuotaExhausted:
		e := openai.Later(f.Reason, f.Wait)
		e.Code, e.Type = "insufficient_quota", "insufficient_quota"
		return e
	}
	return openai.Later(f.Reason, f.Wait)
}

// overdue is how long a worker may take to end a task that is past its deadline. After
// that the request ends without it.
const overdue = 2 * time.Second

// await waits for the result. The time before the task's call is bounded by the client's
// limit; a call that runs is waited for, since it is paid.
func (h *Handler) await(ctx context.Context, x *exchange, j *job, limit time.Duration, out responder) (*tasks.Result, error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	type ending struct {
		result *tasks.Result
		err    error
	}
	ended := make(chan ending, 1)
	go func() {
		r, err := x.caller.Client.Wait(ctx, j.id)
		ended <- ending{r, err}
	}()
	look, beat := time.NewTicker(h.cfg.interval), time.NewTicker(h.cfg.quiet)
	defer look.Stop()
	defer beat.Stop()
	due := time.NewTimer(max(x.maxWait, 5*time.Second) + overdue - time.Since(x.begun))
	defer due.Stop()
	inVain := false // the last look said so
	for {
		var err error
		select {
		case e := <-ended:
			if errors.Is(e.err, context.DeadlineExceeded) {
				e.err = timedOut()
			}
			return e.result, e.err
		case <-h.cfg.Stopping:
			stop()
			<-ended
			return nil, errStopping
		case <-beat.C:
			err = out.beat()
		case <-look.C:
			// A look reads the task and then its gate, and the task may have moved between the two: the second
			// of two looks decides.
			again := inVain
			err = h.stillWorthwhile(ctx, x, j)
			if inVain = err != nil; !again {
				err = nil
			}
		case <-due.C:
			err = h.stillWorthwhile(ctx, x, j)
		}
		if err != nil && ctx.Err() == nil && h.cancel(ctx, x, j) {
			stop()
			<-ended
			return nil, err
		}
	}
}

var errStopping = errors.New("the server stops")

func timedOut() *openai.Error {
	e := openai.Unavailable("the answer did not come in time")
	e.Status, e.Code, e.Final = http.StatusGatewayTimeout, tasks.CodeInferenceTimeout, true
	return e
}

// stillWorthwhile returns the answer to a request that waits in vain: its time is over, or
// the gate knows that it will be. It returns nil while a call is running.
func (h *Handler) stillWorthwhile(ctx context.Context, x *exchange, j *job) error {
	left := x.maxWait - time.Since(x.begun)
	if left > 0 { // most requests need no look at their own task
		f, err := h.recent(ctx, j.request.Kind(), j.request.Model)
		if err != nil || tooLong(f, left) == nil {
			return nil //nolint:nilerr // Redis may come back before the time is over
		}
	}
	p, err := h.cfg.Progress(ctx, x.caller.Client, j.id)
	switch {
	case err != nil || p.Ended || p.Calling:
		return nil //nolint:nilerr // the task has just ended, or Redis may come back
	case left <= 0 && p.Missing:
		return openai.Unavailable("waited for " + p.Reason)
	case left <= 0 && p.Wait == 0:
		return openai.Later("it waited for "+p.Reason, 0)
	}
	return tooLong(p.Forecast, left)
}

// cancel ends the request's task. It returns false if the task has ended by itself, so
// that its result is there to be sent.
func (h *Handler) cancel(ctx context.Context, x *exchange, j *job) bool {
	err := x.caller.Client.Cancel(ctx, j.id)
	if errors.Is(err, tasks.ErrEnded) {
		return false
	}
	if err != nil {
		h.cfg.Log.Debug("a task is left to its deadline", "task", j.id, "error", err)
	}
	return true
}

// responder writes the response in one piece or as a stream.
type responder interface {
	beat() error // tells the client that the connection lives
	describe(result *tasks.Result)
	refuse(error) error
	finish(ctx context.Context, result *tasks.Result) error
}

func (h *Handler) responder(x *exchange, j *job) responder {
	if j.request.Stream {
		return &streamed{h: h, x: x, j: j}
	}
	return &whole{h, x, j}
}

// whole writes the response in one piece.
type whole struct {
	h *Handler
	x *exchange
	j *job
}

func (*whole) beat() error { return nil }

func (*whole) refuse(err error) error { return err }

func (o *whole) describe(result *tasks.Result) { o.x.describe(result) }

func (o *whole) finish(ctx context.Context, result *tasks.Result) error {
	response, err := o.j.request.Response(result, o.h.openerOf(ctx))
	if err != nil {
		return err
	}
	o.x.write(response.Status, response.ContentType, response.Body)
	return nil
}

// describe puts the price of a result into the headers.
func (x *exchange) describe(result *tasks.Result) {
	x.w.Header().Set("X-Neuronmill-Neurons", strconv.FormatFloat(result.Usage.Neurons, 'f', -1, 64))
}
