package batch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// chunkEnd is the outcome of a chunk.
type chunkEnd struct {
	lines    [][]byte // of the output, one per record
	counts   Counts
	costs    []Cost          // of the tasks that ran, one each
	requests []tasks.Request // the tasks whose objects are not needed any more
}

func (e *chunkEnd) size() (n int) {
	for _, l := range e.lines {
		n += len(l)
	}
	return n
}

// chunk runs the records of a chunk to their ends.
func (d *driver) chunk(ctx context.Context, key string, records []record, untouched bool) (*chunkEnd, error) {
	if f := records[0].Error; f != nil {
		return failed(records, f), nil
	}
	request, err := d.request(key, records)
	if err != nil {
		return failed(records, &tasks.TaskError{Code: tasks.CodePayloadInvalid, Message: err.Error()}), nil
	}
	most := 0.0
	if d.purse != nil {
		if most, err = d.most(ctx, records[0], request.Payload); err != nil {
			return nil, err
		}
		request.Options = append(request.Options, tasks.WithMaxNeurons(most))
	}
	r, err := d.taskResult(ctx, request, untouched)
	if err != nil {
		return nil, err
	}
	lost := 0.0
	if r != nil && r.Usage.Unsettled > 0 {
		if most, err = d.most(ctx, records[0], request.Payload); err != nil {
			return nil, err
		}
		lost = float64(r.Usage.Unsettled) * most
	}
	switch {
	case r == nil:
		return failed(records, d.notRun()), nil
	case r.Error == nil:
		end := d.completed(request, records, r)
		end.counts.Lost = lost
		d.tally(end.counts)
		return end, nil
	case len(records) > 1 && divisible(r.Error.Code):
		return d.split(ctx, key, request, records, r, lost, untouched)
	}
	stopped := r.Error.Code == tasks.CodeCancelled && d.halted()
	if stopped {
		r.Error = d.notRun()
	}
	end := failed(records, r.Error)
	if !stopped {
		d.tally(end.counts)
	}
	end.counts.Neurons, end.counts.Lost = r.Usage.Neurons, lost
	end.costs = r.cost()
	end.requests = []tasks.Request{request}
	return end, nil
}

// request makes the task of a chunk.
func (d *driver) request(key string, records []record) (tasks.Request, error) {
	first := records[0]
	payload, err := tasks.Parse(first.Kind, first.Input)
	if err != nil {
		return tasks.Request{}, err
	}
	if e, ok := payload.(tasks.Embedding); ok {
		for _, r := range records[1:] {
			var more tasks.Embedding
			if err := json.Unmarshal(r.Input, &more); err != nil {
				return tasks.Request{}, fmt.Errorf("decode line %d: %w", r.Number, err)
			}
			e.Texts = append(e.Texts, more.Texts...)
		}
		payload = e
	}
	model := d.modelOf(first)
	var options []tasks.Option
	if d.batch.Spend != "" {
		options = append(options, tasks.WithSpend(d.batch.Spend))
	}
	if d.batch.Schedule != "" {
		options = append(options, tasks.WithScheduleSlot(d.batch.Schedule, time.Time{})) // for the ledger; the key is that of the chunk
	}
	options = append(options,
		tasks.WithBatchChunk(d.batch.ID, key), tasks.WithModel(model), tasks.WithLane(tasks.Bulk), tasks.WithAPIKey(d.batch.Key),
		tasks.WithDurability(tasks.InRedis), // the segment in the bucket is the record
	)
	if at := d.batch.Deadline; !at.IsZero() && at.After(time.Now()) && d.round.Number == 0 {
		options = append(options, tasks.WithDeadline(at))
	}
	return tasks.Request{Payload: payload, Options: options}, nil
}

// modelOf returns the model of a line in this round.
func (d *driver) modelOf(r record) string {
	if d.round.Model != "" {
		return d.round.Model
	}
	return r.Model
}

// divisible reports whether one text may be the cause of a failure of many.
func divisible(code string) bool {
	return !slices.Contains([]string{tasks.CodeCancelled, tasks.CodeDeadlineExceeded, tasks.CodeModelGone, tasks.CodeModelNotFound, tasks.CodeQuotaExhausted, tasks.CodeAccountRefused}, code)
}

// splitWhole is the size up to which a chunk is split into single lines.
const splitWhole = 10

func partsOf(records []record) [][]record {
	size := 1
	if len(records) > splitWhole {
		size = int(math.Ceil(math.Sqrt(float64(len(records)))))
	}
	return slices.Collect(slices.Chunk(records, size))
}

// split runs the records of a failed chunk in parts of the square root of its size, and
// those of a failed part alone, so that one bad line fails alone.
func (d *driver) split(ctx context.Context, key string, request tasks.Request, records []record, r *taskResult, lost float64, untouched bool) (*chunkEnd, error) {
	parts := partsOf(records)
	ends := make([]*chunkEnd, len(parts))
	g, ctx := errgroup.WithContext(ctx)
	for i, part := range parts {
		g.Go(func() (err error) {
			ends[i], err = d.chunk(ctx, fmt.Sprintf("%s.%d", key, i), part, untouched)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	whole := &chunkEnd{counts: Counts{Neurons: r.Usage.Neurons, Lost: lost}, costs: r.cost(), requests: []tasks.Request{request}}
	for _, e := range ends {
		whole.costs = append(whole.costs, e.costs...)
		whole.lines = append(whole.lines, e.lines...)
		whole.requests = append(whole.requests, e.requests...)
		whole.counts.add(e.counts)
	}
	return whole, nil
}

// taskResult is a result document with the output as it was written.
type taskResult struct {
	Model      string           `json:"model"`
	Output     jsontext.Value   `json:"output"`
	Usage      tasks.Usage      `json:"usage"`
	Error      *tasks.TaskError `json:"error"`
	Artefacts  []tasks.Artefact `json:"artefacts"`
	FinishedAt time.Time        `json:"finished_at"` // zero when there is no result: the task was refused
}

// taskResult enqueues a task, unless it is known already, and waits for its result. It
// returns nil for a task that is not run because the round was halted.
func (d *driver) taskResult(ctx context.Context, request tasks.Request, untouched bool) (*taskResult, error) {
	for {
		if d.halted() {
			return d.knownResult(ctx, request, untouched)
		}
		receipt, refused, err := d.enqueue(ctx, request)
		if err != nil || refused != nil {
			return &taskResult{Error: refused}, err
		}
		if receipt.Existing {
			if r, err := d.readResult(ctx, receipt.ID); r != nil || err != nil {
				return r, err
			}
		}
		ended, err := d.watch.wait(ctx, receipt)
		if err != nil {
			return nil, err
		}
		if !ended {
			d.Log.Debug("redis lost a task of a batch", "batch", d.batch.ID, "task", receipt.ID)
		}
		// A task that Redis lost may have ended before.
		if r, err := d.readResult(ctx, receipt.ID); r != nil || err != nil {
			return r, err
		}
	}
}

// enqueue repeats until the outcome is certain. It returns why the task cannot be run at
// all as a failure.
func (d *driver) enqueue(ctx context.Context, request tasks.Request) (receipt tasks.Receipt, refused *tasks.TaskError, err error) {
	err = d.patiently(ctx, "the queue", func(ctx context.Context) error {
		r, err := d.queue.enqueue(ctx, request)
		var invalid tasks.ValidationError
		switch {
		case errors.As(err, &invalid):
			refused = &tasks.TaskError{Code: invalid.Code(), Message: invalid.Error()}
			return nil
		case errors.Is(err, tasks.ErrIdempotencyMismatch):
			refused = &tasks.TaskError{Code: tasks.CodeIdempotencyMismatch, Message: err.Error()}
			return nil
		}
		receipt = r
		return err
	})
	return receipt, refused, err
}

// knownResult returns the result of a task that an earlier driver enqueued, or nil.
func (d *driver) knownResult(ctx context.Context, request tasks.Request, untouched bool) (*taskResult, error) {
	if untouched {
		return nil, nil
	}
	receipt, err := d.Client.ReceiptOf(request)
	if err != nil {
		return nil, nil // it was not valid then either
	}
	var states []tasks.TaskState
	err = d.patiently(ctx, "redis", func(ctx context.Context) (err error) {
		states, err = d.Client.States(ctx, []tasks.Receipt{receipt})
		return err
	})
	if err == nil && states[0].Queued && !states[0].Ended {
		_, err = d.watch.wait(ctx, receipt) // cancelTasks cancels it
	}
	if err != nil {
		return nil, err
	}
	return d.readResult(ctx, receipt.ID)
}

// readResult reads the result of a task, or nil when there is none.
func (d *driver) readResult(ctx context.Context, id string) (r *taskResult, err error) {
	key := objects.ResultKey(d.Tenant, id)
	err = d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		document, err := objects.Read(ctx, d.Store, key)
		if errors.Is(err, storage.ErrNotFound) {
			r = nil
			return nil
		}
		if err != nil {
			return err
		}
		r = &taskResult{}
		if err := json.Unmarshal(document, r); err != nil {
			r = &taskResult{Error: &tasks.TaskError{Code: tasks.CodeAnswerUnusable, Message: "the result in the bucket is damaged"}}
		}
		return nil
	})
	return r, err
}

// cancelAgain is how often cancelTasks looks for further tasks of a halted round.
const cancelAgain = 5 * time.Second

// cancelTasks cancels the tasks in the queue once the round is halted.
func (d *driver) cancelTasks(ctx context.Context) {
	select {
	case <-d.stop:
	case <-ctx.Done():
		return
	}
	for {
		for _, r := range d.watch.receipts() {
			if ctx.Err() != nil {
				return
			}
			err := d.Client.Cancel(ctx, r.ID)
			if err != nil && !errors.Is(err, tasks.ErrEnded) && !errors.Is(err, tasks.ErrNotFound) {
				d.Log.Debug("a task of a cancelled batch is not cancelled yet", "task", r.ID, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cancelAgain):
		}
	}
}
