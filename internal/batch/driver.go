package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

const (
	// windowUnits bounds the tasks of a batch in the queue: 64 chunks of embeddings, or
	// 128 other tasks. Batches with equal windows share a model equally.
	windowUnits    = 128
	embeddingUnits = 2
	// openSegments bounds the segments with tasks in the queue or results in memory.
	openSegments = 64
	// heldLimit bounds the output lines in memory, in bytes. Lines beyond it are read from
	// the bucket again when their segment is complete.
	heldLimit = 32 << 20
	// shardsAtOnce is how many shards are put together in parallel.
	shardsAtOnce = 2
	// strayPush is how long a command of a driver that lost its lease may take to arrive.
	strayPush = 20 * time.Second
)

// Progress is how far a round is.
type Progress struct {
	Counts
	Total   int    // lines
	Waiting string // the id of the oldest task in the queue; empty for none
	Why     string // the reason why the driver itself waits; empty when it does not
}

// driver runs a round of a batch while it has the lease.
type driver struct {
	*Batches
	batch *Batch
	round round

	queue  *enqueuer
	watch  *watcher
	window *semaphore.Weighted
	open   *semaphore.Weighted
	shards *semaphore.Weighted

	stop    chan struct{} // closed when the round is cancelled or expired
	stopped sync.Once
	code    string // of the lines that were not run, once stop is closed

	latest  map[int]shardRef // by segment
	mu      sync.Mutex
	opened  map[int]chan struct{} // by segment; closed when its shard is stored
	layouts map[place]layout      // of shards, by segment and round
	missing map[int]int           // segments without a shard, by group; see groups
	indexed map[int]bool          // groups
	counts  Counts
	seen    Counts // of the lines that this driver has run, see tally
	tooMany string // why the round stopped itself
	held    int
	why     string
	purse   *budget.Purse // nil without a cap
	safe    time.Time     // before this time no object of a task is deleted
	forget  []forgettable
	changed func(Progress)
	ended   func(*End) error
}

// forgettable are the tasks of a shard whose objects are to be deleted.
type forgettable []tasks.Request

// DriveOptions are the settings of Drive.
type DriveOptions struct {
	// Progress is called about every half second, from one goroutine; may be nil.
	Progress func(Progress)
	// New is set when the caller has created the batch just now: no other driver can have
	// commands on their way.
	New bool
	// Ended is called once the end of the round is in the bucket, before Drive removes
	// the objects of its tasks; may be nil. Its error is that of Drive.
	Ended func(*End) error
	// Prepare makes the batch when it does not exist, while this process has the lease; may
	// be nil.
	Prepare func(ctx context.Context, id string) (*Batch, error)
}

// Drive runs the current round of a batch to its end, or returns the end if the round has
// ended. It returns ErrDriven if another process does it. When ctx ends, the tasks in the
// queue stay there; the next driver finds them.
func (b *Batches) Drive(ctx context.Context, id string, o DriveOptions) (*End, error) {
	owner := uuid.NewString()
	mine, cancelled, err := b.tryLease(ctx, id, owner)
	if err != nil {
		return nil, err
	}
	if !mine {
		return nil, ErrDriven
	}
	working, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	run := newDriver(b, o)
	var leasing sync.WaitGroup
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	leasing.Go(func() {
		b.holdLease(holding, id, owner, func() { lose(errLeaseLost) }, func() { run.halt(CodeCancelled) })
	})
	defer leasing.Wait()
	defer release()
	if cancelled {
		run.halt(CodeCancelled)
	}
	var end *End
	if run.batch, err = run.prepared(working, id, o); err == nil {
		end, err = run.run(working)
	}
	if err != nil && working.Err() != nil {
		err = context.Cause(working)
	}
	return end, err
}

// prepared returns the batch. No other driver can have commands of a batch on their way
// that is made only now.
func (d *driver) prepared(ctx context.Context, id string, o DriveOptions) (*Batch, error) {
	known, err := d.Get(ctx, id)
	if !errors.Is(err, ErrNotFound) || o.Prepare == nil {
		return known, err
	}
	d.safe = time.Time{}
	return o.Prepare(ctx, id)
}

func newDriver(b *Batches, o DriveOptions) *driver {
	run := &driver{
		Batches: b, queue: newEnqueuer(b.Client), watch: &watcher{client: b.Client},
		window: semaphore.NewWeighted(windowUnits), open: semaphore.NewWeighted(openSegments), shards: semaphore.NewWeighted(shardsAtOnce),
		stop: make(chan struct{}), opened: map[int]chan struct{}{}, changed: o.Progress, ended: o.Ended,
	}
	if !o.New {
		run.safe = time.Now().Add(strayPush)
	}
	if run.changed == nil {
		run.changed = func(Progress) {}
	}
	if run.ended == nil {
		run.ended = func(*End) error { return nil }
	}
	return run
}

// halt ends the round early: lines that were not run get a code.
func (d *driver) halt(code string) {
	d.stopped.Do(func() {
		d.code = code
		close(d.stop)
	})
}

func (d *driver) halted() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

// run runs the round to its end, and tidies up.
func (d *driver) run(ctx context.Context) (*End, error) {
	r, end, err := d.lastRound(ctx, d.batch.ID)
	if err != nil {
		return nil, err
	}
	if end != nil && !d.batch.ByWorkers {
		return end, d.ended(end)
	}
	d.round = r
	if d.latest, err = d.latestShards(ctx, d.batch.ID); err != nil {
		return nil, err
	}
	earlier := d.shardedLately()
	if end == nil {
		end, err = d.runSegments(ctx)
	}
	if err == nil {
		err = d.ended(end)
	}
	if err != nil {
		return nil, err
	}
	return end, d.forgetAll(ctx, earlier)
}

// runSegments runs the round to its end.
func (d *driver) runSegments(ctx context.Context) (*End, error) {
	if err := d.checkCancelled(ctx); err != nil {
		return nil, err
	}
	if at := d.batch.Deadline; !at.IsZero() && d.round.Number == 0 {
		timer := time.AfterFunc(time.Until(at), func() { d.halt(CodeExpired) })
		defer timer.Stop()
	}
	if err := d.countShards(ctx); err != nil {
		return nil, err
	}
	d.openPurse()
	if err := d.startFree(ctx); err != nil {
		return nil, err
	}
	helpers, stopHelpers := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { d.queue.run(helpers) })
	group.Go(func() { d.watch.run(helpers) })
	group.Go(func() { d.report(helpers) })
	group.Go(func() { d.cancelTasks(helpers) })
	err := d.segments(ctx)
	stopHelpers()
	group.Wait()
	if err != nil {
		return nil, err
	}
	return d.end(ctx)
}

// checkCancelled halts the round if its cancellation is in the bucket.
func (d *driver) checkCancelled(ctx context.Context) error {
	_, err := d.Store.Head(ctx, d.cancelKey(d.batch.ID, d.round.Number))
	switch {
	case err == nil:
		d.halt(CodeCancelled)
	case !errors.Is(err, storage.ErrNotFound):
		return fmt.Errorf("look for a cancellation: %w", err)
	}
	return nil
}

// segments runs all segments that have no shard in this round, in order.
func (d *driver) segments(ctx context.Context) error {
	d.groups()
	g, inner := errgroup.WithContext(ctx)
	touched := -1 // segments before it may have had tasks of an earlier driver
	for n := range d.batch.Segments {
		if d.latestRound(n) == d.round.Number {
			continue
		}
		if touched < 0 {
			touched = n + openSegments
		}
		if d.open.Acquire(inner, 1) != nil {
			break // a segment has failed, or ctx has ended
		}
		s := &openSegment{d: d, n: n, untouched: n >= touched}
		if err := s.start(inner, g); err != nil {
			g.Go(func() error { return err })
			break
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// latestRound returns the latest round in which a segment has a shard, or -1.
func (d *driver) latestRound(segment int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.latest[segment]; ok {
		return r.round
	}
	return -1
}

// countShards sums up the shards that exist.
func (d *driver) countShards(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for n, r := range d.latest {
		g.Go(func() error {
			h, _, err := d.shardHead(ctx, d.batch.ID, r.round, n)
			if err != nil {
				return err
			}
			d.count(h.Counts)
			return nil
		})
	}
	return g.Wait()
}

func (d *driver) count(c Counts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.add(c)
}

// end writes the end of the round.
func (d *driver) end(ctx context.Context) (*End, error) {
	e := &End{Status: Completed, EndedAt: time.Now().UTC(), Counts: d.progress().Counts}
	if d.halted() {
		e.Status, e.Why = endsOf[d.code], d.stoppedBecause()
	}
	if e.Completed+e.Failed != d.batch.Lines {
		return nil, fmt.Errorf("batch %s has %d lines, but %d completed and %d failed", d.batch.ID, d.batch.Lines, e.Completed, e.Failed)
	}
	if err := d.indexRest(ctx); err != nil {
		return nil, err
	}
	if d.batch.ByWorkers && !d.batch.NoOutput {
		if err := d.storeOutput(ctx, d.batch); err != nil {
			return nil, err
		}
	}
	if err := d.markExpiry(ctx, e); err != nil {
		return nil, err
	}
	if err := d.create(ctx, d.endKey(d.batch.ID, d.round.Number), e); err != nil {
		return nil, err
	}
	_ = d.Redis.Del(ctx, progressKey(d.Tenant, d.batch.ID)).Err() // it expires
	return e, nil
}

func (d *driver) progress() Progress {
	waiting := d.watch.oldest()
	d.mu.Lock()
	defer d.mu.Unlock()
	return Progress{Counts: d.counts, Total: d.batch.Lines, Waiting: waiting, Why: d.why}
}

const (
	reportEvery = 500 * time.Millisecond
	// progressFor is how long Redis has the progress of a batch that nothing drives.
	progressFor = time.Hour
	// cancelEvery is how often a driver looks for a cancellation in the bucket, in case
	// Redis has lost it.
	cancelEvery = 30 * time.Second
)

// report tells the caller and, more rarely, Redis how far the round is.
func (d *driver) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		p := d.progress()
		d.changed(p)
		if n%4 == 0 {
			d.publish(ctx, p)
		}
		if n%int(cancelEvery/reportEvery) == 0 && n > 0 && !d.halted() {
			_ = d.checkCancelled(ctx) // the next look is soon
			_ = d.keepFree(ctx)
		}
		select {
		case <-ctx.Done():
			d.changed(d.progress())
			return
		case <-tick.C:
		}
	}
}

func (d *driver) publish(ctx context.Context, p Progress) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	key := progressKey(d.Tenant, d.batch.ID)
	pipe := d.Redis.Pipeline()
	pipe.HSet(ctx, key, "completed", p.Completed, "failed", p.Failed, "neurons", p.Neurons, "cached", p.Cached, "lost", p.Lost, "task", p.Waiting, "why", p.Why, "at", time.Now().UnixMilli())
	pipe.Expire(ctx, key, progressFor)
	_, _ = pipe.Exec(ctx) // the next one is soon
}

// forgetLater deletes the objects of the tasks of a shard once that is safe.
func (d *driver) forgetLater(ctx context.Context, f forgettable) {
	if d.KeepTasks || len(f) == 0 {
		return
	}
	d.mu.Lock()
	d.forget = append(d.forget, f)
	var now []forgettable
	if time.Now().After(d.safe) {
		now, d.forget = d.forget, nil
	}
	d.mu.Unlock()
	for _, f := range now {
		d.forgetNow(ctx, f)
	}
}

// lately is how long before its last shard an earlier driver may have written one whose
// tasks it has not forgotten.
const lately = strayPush + time.Minute

// shardedLately returns the segments whose tasks an earlier driver may not have forgotten.
func (d *driver) shardedLately() (segments []int) {
	if d.KeepTasks {
		return nil
	}
	var last time.Time
	for _, r := range d.latest {
		if r.round == d.round.Number && r.written.After(last) {
			last = r.written
		}
	}
	for n, r := range d.latest {
		if r.round == d.round.Number && last.Sub(r.written) <= lately {
			segments = append(segments, n)
		}
	}
	return segments
}

// forgetAll waits until it is safe and deletes the rest, and the objects that earlier
// drivers left behind.
func (d *driver) forgetAll(ctx context.Context, earlier []int) error {
	if len(d.forget) == 0 && len(earlier) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Until(d.safe)):
	}
	for _, f := range d.forget {
		d.forgetNow(ctx, f)
	}
	for _, n := range earlier {
		f, err := d.tasksOf(ctx, n)
		if err != nil {
			return err
		}
		d.forgetNow(ctx, f)
	}
	return ctx.Err()
}

// tasksOf returns the tasks of a segment in this round. Parts of chunks are included if
// lines of the segment failed.
func (d *driver) tasksOf(ctx context.Context, n int) (f forgettable, err error) {
	var records []record
	var head shardHead
	err = d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
		if records, err = d.records(ctx, n); err == nil {
			head, _, err = d.shardHead(ctx, d.batch.ID, d.round.Number, n)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var add func(key string, records []record)
	add = func(key string, records []record) {
		request, err := d.request(key, records)
		if records[0].Error != nil || err != nil || hasArtefacts(records[0].Kind) {
			return
		}
		f = append(f, request)
		if head.Failed > 0 && len(records) > 1 {
			for i, part := range partsOf(records) {
				add(fmt.Sprintf("%s.%d", key, i), part)
			}
		}
	}
	for _, c := range d.chunksOf(n, records, func(int) bool { return true }) {
		add(c.key, c.records)
	}
	for i, r := range records {
		if head.Alone > 0 && d.shares(r) && r.From != "" {
			add(aloneKey(d.round.Number, n, i), []record{r})
		}
	}
	return f, nil
}

// hasArtefacts reports whether results of a kind have files, so that its tasks stay in the
// bucket.
func hasArtefacts(k tasks.Kind) bool { return k == tasks.KindImage || k == tasks.KindTranscription }

func (d *driver) forgetNow(ctx context.Context, f forgettable) {
	if err := d.Client.Forget(ctx, f); err != nil && ctx.Err() == nil {
		d.Log.Warn("objects of the tasks of a batch stay in the bucket", "batch", d.batch.ID, "error", err)
	}
}

// The pauses of patiently.
const (
	firstPause = time.Second
	mostPause  = 30 * time.Second
)

// patiently repeats an operation until it succeeds or ctx ends: a driver outlives failures
// of Redis and of the bucket. The progress has the reason.
func (d *driver) patiently(ctx context.Context, what string, op func(context.Context) error) error {
	failing := false
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		err := op(ctx)
		if err == nil {
			if failing {
				d.setWhy("")
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !failing {
			d.Log.Warn("a batch waits", "batch", d.batch.ID, "for", what, "error", err)
		}
		failing = true
		d.setWhy(what + ": " + err.Error())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

func (d *driver) setWhy(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why = why
}
