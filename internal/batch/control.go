package batch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/errtext"
	"github.com/neuronmill/neuronmill/internal/mergepatch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

var (
	// ErrEnded: the batch has ended, so it cannot be cancelled.
	ErrEnded = errors.New("the batch has ended")
	// ErrNotEnded: the batch has not ended, so its failed lines cannot be run again yet.
	ErrNotEnded = errors.New("the batch has not ended")
	// ErrNoneFailed: the batch has no failed lines.
	ErrNoneFailed = errors.New("no line of the batch failed")
	// ErrPatch: the patch of a retry is not valid.
	ErrPatch = errors.New("the patch")
)

// State is a batch and how far it is.
type State struct {
	Batch
	Status  Status    `json:"status"`
	Round   int       `json:"round,omitempty"` // above 0 for a retry of failed lines
	EndedAt time.Time `json:"ended_at,omitzero"`
	Counts
	Task      string `json:"task,omitempty"` // the oldest task in the queue, whose state explains the wait
	Why       string `json:"why,omitempty"`  // the reason why the driver itself waits, or why the batch stopped itself
	Cancelled bool   `json:"cancel_requested,omitempty"`
}

// State returns the state of a batch, or ErrNotFound.
func (b *Batches) State(ctx context.Context, id string) (*State, error) {
	d, err := b.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	r, end, err := b.lastRound(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &State{Batch: *d, Round: r.Number}
	if end != nil {
		s.Status, s.EndedAt, s.Why, s.Counts = end.Status, end.EndedAt, end.Why, end.Counts
		return s, nil
	}
	return s, b.readProgress(ctx, s)
}

// readProgress reads the state of a batch that has not ended from Redis, or from its
// shards.
func (b *Batches) readProgress(ctx context.Context, s *State) error {
	pipe := b.Redis.Pipeline()
	driven := pipe.Exists(ctx, leaseKey(b.Tenant, s.ID))
	progress := pipe.HGetAll(ctx, progressKey(b.Tenant, s.ID))
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read the progress of the batch: %w", err)
	}
	s.Status = Waiting
	if driven.Val() == 1 {
		s.Status = Running
	}
	fields := progress.Val()
	s.Task, s.Why, s.Cancelled = fields["task"], fields["why"], fields["cancel"] != ""
	if fields["at"] != "" {
		s.Completed, _ = strconv.Atoi(fields["completed"])
		s.Failed, _ = strconv.Atoi(fields["failed"])
		s.Cached, _ = strconv.Atoi(fields["cached"])
		s.Neurons, _ = strconv.ParseFloat(fields["neurons"], 64)
		s.Lost, _ = strconv.ParseFloat(fields["lost"], 64)
		return nil
	}
	latest, err := b.latestShards(ctx, s.ID)
	if err != nil {
		return err
	}
	for n, r := range latest {
		h, _, err := b.shardHead(ctx, s.ID, r.round, n)
		if err != nil {
			return err
		}
		s.add(h.Counts)
	}
	return nil
}

// Cancel ends a batch within seconds while a process drives it: tasks in the queue are
// cancelled, and lines that were not run fail with batch_cancelled. Calls under way are
// finished. The output of completed lines stays. It returns ErrEnded for a batch that has
// ended.
func (b *Batches) Cancel(ctx context.Context, id string) error {
	if _, err := b.Get(ctx, id); err != nil {
		return err
	}
	r, end, err := b.lastRound(ctx, id)
	if err != nil {
		return err
	}
	if end != nil {
		return ErrEnded
	}
	return b.requestCancel(ctx, id, r.Number)
}

// CancelUnprepared cancels a batch that was handed to the workers and may not exist yet.
func (b *Batches) CancelUnprepared(ctx context.Context, id string) error {
	return b.requestCancel(ctx, id, 0)
}

// Cancellation returns when the first round of a batch was cancelled; zero when it was not.
func (b *Batches) Cancellation(ctx context.Context, id string) (time.Time, error) {
	var c struct {
		At time.Time `json:"at"`
	}
	err := b.read(ctx, b.cancelKey(id, 0), &c)
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return c.At, err
}

func (b *Batches) requestCancel(ctx context.Context, id string, round int) error {
	if err := b.create(ctx, b.cancelKey(id, round), map[string]time.Time{"at": time.Now().UTC()}); err != nil {
		return err
	}
	key := progressKey(b.Tenant, id)
	pipe := b.Redis.Pipeline()
	pipe.HSet(ctx, key, "cancel", 1)
	pipe.Expire(ctx, key, progressFor)
	if _, err := pipe.Exec(ctx); err != nil {
		b.Log.Warn("the driver of the batch hears of the cancellation within half a minute", "batch", id, "error", err)
	}
	return nil
}

// RetryOptions say what is other in a retry than in the rounds before. The zero value changes
// nothing.
type RetryOptions struct {
	Model      string  // instead of that of the lines
	MaxNeurons float64 // another cap on the cost of the batch over all rounds; 0 leaves the one it has
	// Patch is a JSON merge patch (RFC 7396) for the input of each line: {"max_tokens": 500}.
	Patch []byte
}

// patchLimit is the maximum length of a patch in bytes.
const patchLimit = 64 << 10

// Retry runs the failed lines of a batch that has ended once more, also those that were
// cancelled or expired. Invalid lines stay failed. The output keeps its order and holds the
// new lines in place of the failed ones. Errors: ErrNotEnded, ErrNoneFailed, ErrPatch.
func (b *Batches) Retry(ctx context.Context, id string, o RetryOptions) (*Batch, error) {
	if len(o.Patch) > patchLimit {
		return nil, fmt.Errorf("%w has more than %d bytes", ErrPatch, patchLimit)
	}
	if o.Patch != nil {
		if _, err := mergepatch.Apply([]byte("{}"), o.Patch); err != nil {
			return nil, fmt.Errorf("%w %w, such as {\"max_tokens\": 500}", ErrPatch, err)
		}
	}
	d, err := b.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	r, end, err := b.lastRound(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case end == nil:
		return nil, ErrNotEnded
	case end.Failed <= d.Invalid:
		return nil, ErrNoneFailed
	}
	next := round{Number: r.Number + 1, Model: o.Model, Patch: o.Patch, MaxNeurons: o.MaxNeurons, CreatedAt: time.Now().UTC()}
	if err := b.create(ctx, b.roundKey(id, next.Number), next); err != nil {
		return nil, err
	}
	if d.ByWorkers {
		return d, b.Hand(ctx, id)
	}
	return d, nil
}

// IDs yields the ids of all batches in the order of their names. Each costs a request to
// the bucket.
func (b *Batches) IDs(ctx context.Context) iter.Seq2[string, error] { return b.idsAfter(ctx, "") }

// windows are how far Latest looks back, until it has found enough.
var windows = []time.Duration{10 * time.Minute, 6 * time.Hour, 7 * 24 * time.Hour, 10 * 365 * 24 * time.Hour}

// Latest returns ids among which are those of the latest batches, without looking at all of
// them: at most so many ids for each of four spans of time. An id has the time of its batch,
// unless it was derived from a file. It stops once it has enough ids with a time; more says that
// there may be others.
func (b *Batches) Latest(ctx context.Context, enough, most int) (ids []string, more bool, err error) {
	for _, back := range windows {
		ids = ids[:0]
		timed := 0
		for id, err := range b.idsAfter(ctx, fmt.Sprintf("%sb_%012x", b.root(), max(time.Now().Add(-back).UnixMilli(), 0))) {
			if err != nil {
				return nil, false, err
			}
			if len(ids) == most {
				return ids, true, nil
			}
			if ids = append(ids, id); hasTime(id) {
				timed++
			}
		}
		if timed >= enough {
			return ids, true, nil
		}
	}
	return ids, false, nil
}

// hasTime reports whether an id is one of NewID: a UUID of version 7.
func hasTime(id string) bool { return len(id) == len("b_")+32 && id[len("b_")+12] == '7' }

// idsAfter yields the ids whose folders sort after a key.
func (b *Batches) idsAfter(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for after := after; ; {
			id := ""
			for info, err := range b.Store.List(ctx, b.root(), after) {
				if err != nil {
					yield("", fmt.Errorf("list the batches: %w", err))
					return
				}
				id, _, _ = strings.Cut(strings.TrimPrefix(info.Key, b.root()), "/")
				break
			}
			if id == "" {
				return
			}
			if batchID.MatchString(id) && !yield(id, nil) {
				return
			}
			after = b.root() + id + "0" // the character after "/"
		}
	}
}

// pending yields the ids of the batches that workers drive, from the bucket.
func (b *Batches) pending(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		prefix := b.root() + "pending/"
		for info, err := range b.Store.List(ctx, prefix, "") {
			if err != nil {
				yield("", fmt.Errorf("list the pending batches: %w", err))
				return
			}
			id := strings.TrimSuffix(strings.TrimPrefix(info.Key, prefix), ".json")
			if batchID.MatchString(id) && !yield(id, nil) {
				return
			}
		}
	}
}

// Failures are failed lines with the same code and a message that says the same.
type Failures struct {
	Code    string   `json:"code"`
	Message string   `json:"message"` // of the first line
	Lines   int      `json:"lines"`
	IDs     []string `json:"ids"` // the first few
	Do      string   `json:"do"`  // what to do about it, in a sentence or two
}

const (
	failureGroups = 50
	failureIDs    = 5
)

// FailuresOf groups the failed lines of the output so far, in the order of their first
// lines. Groups beyond the fiftieth are counted in the last one.
func (b *Batches) FailuresOf(ctx context.Context, id string) ([]*Failures, error) {
	groups := map[string]*Failures{}
	var list []*Failures
	_, err := b.Lines(ctx, id, func(line []byte) error {
		if !isFailed(line) {
			return nil
		}
		var l struct {
			ID    string `json:"id"`
			Error struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("decode a line of output: %w", err)
		}
		key := l.Error.Code + " " + errtext.Normal(l.Error.Message)
		f := groups[key]
		switch {
		case f != nil:
		case len(list) == failureGroups:
			f = list[failureGroups-1]
		default:
			f = &Failures{Code: l.Error.Code, Message: l.Error.Message, Do: adviceFor(l.Error.Code)}
			groups[key] = f
			list = append(list, f)
		}
		if f.Lines++; len(f.IDs) < failureIDs {
			f.IDs = append(f.IDs, l.ID)
		}
		return nil
	})
	return list, err
}

// adviceFor returns what to do about lines that failed with a code.
func adviceFor(code string) string {
	if _, early := endsOf[code]; early {
		return "Run them: neuronmill batch retry ID --failed"
	}
	for _, c := range tasks.Codes {
		if c.Code == code {
			return c.Advice
		}
	}
	return "Correct the line in the file, and run it as another batch."
}
