package tasks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Recovery looks through the pending records of all tenants for tasks that Redis has
// lost. It may run at any time, twice, and on several machines at once.
type Recovery struct {
	// OlderThan leaves younger records out: they may be on their way into the queue,
	// or about to be taken back since Redis refused them.
	OlderThan time.Duration
	// Progress is called now and then; nil is fine.
	Progress func(Recovered)
	// Damaged ends a task whose record cannot be read as one; nil leaves it.
	Damaged func(ctx context.Context, tenant, id string, document []byte) error
}

// Recovered counts what a Recovery met.
type Recovered struct {
	Records  int // looked at
	Queued   int // in the queue, as they should be
	Young    int // left out, see OlderThan
	Returned int // put back into the queue
	Ended    int // had a result: the record is removed
	Damaged  int // cannot be read
}

// Recover puts tasks that have a record, but no result and no place in Redis, back
// into the queue. It needs a Store. What fails is joined into the error; the others
// are done all the same.
func (c *Client) Recover(ctx context.Context, r Recovery) (Recovered, error) {
	var n Recovered
	var errs []error
	if c.cfg.Store == nil {
		return n, errors.New("recover needs a Store: the records lie in the bucket")
	}
	var page []Record
	flush := func() error {
		err := c.recoverPage(ctx, r, page, &n)
		page = page[:0]
		if r.Progress != nil {
			r.Progress(n)
		}
		return err
	}
	for record, err := range Records(ctx, c.cfg.Store) {
		if err != nil {
			return n, errors.Join(append(errs, err)...)
		}
		n.Records++
		if time.Since(record.Modified) < r.OlderThan {
			n.Young++
			continue
		}
		if page = append(page, record); len(page) == perPipeline {
			errs = append(errs, flush())
		}
	}
	if len(page) > 0 {
		errs = append(errs, flush())
	}
	return n, errors.Join(errs...)
}

// Record is a pending record as a listing shows it.
type Record struct {
	Tenant, ID string
	Modified   time.Time
}

// Records lists the pending records of all tenants.
func Records(ctx context.Context, s storage.Store) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for tenant, err := range Tenants(ctx, s) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			for info, err := range s.List(ctx, tenant+"/pending/", "") {
				if err != nil {
					yield(Record{}, fmt.Errorf("list the pending records: %w", err))
					return
				}
				id, ok := strings.CutSuffix(path.Base(info.Key), ".json")
				if ok && !yield(Record{tenant, id, info.Modified}, nil) {
					return
				}
			}
		}
	}
}

// Tenants lists who has objects in a bucket, at one listing each.
func Tenants(ctx context.Context, s storage.Store) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for after := ""; ; {
			tenant := ""
			for info, err := range s.List(ctx, "", after) {
				if err != nil {
					yield("", fmt.Errorf("list the tenants: %w", err))
					return
				}
				tenant, _, _ = strings.Cut(info.Key, "/")
				break
			}
			if tenant == "" || !yield(tenant, nil) {
				return
			}
			after = tenant + "0" // the byte after "/": behind all its objects
		}
	}
}

// recoverPage deals with some records.
func (c *Client) recoverPage(ctx context.Context, r Recovery, page []Record, n *Recovered) error {
	lost, err := c.lost(ctx, page)
	if err != nil {
		return err
	}
	n.Queued += len(page) - len(lost)
	tasks := make([]*Task, len(lost))
	ended := make([]bool, len(lost))
	damaged := make([]bool, len(lost))
	errs := make([]error, len(lost))
	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for i, record := range lost {
		g.Go(func() error {
			tasks[i], ended[i], damaged[i], errs[i] = c.reread(ctx, r, record)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	var back []Task
	for i, t := range tasks {
		if t != nil {
			t.RecoveredAt = time.Now().UTC()
			back = append(back, *t)
		}
		if ended[i] {
			n.Ended++
		}
		if damaged[i] {
			n.Damaged++
		}
	}
	for i, err := range c.queueAll(ctx, back) {
		if err != nil {
			errs = append(errs, fmt.Errorf("put %s back: %w", back[i].ID, err))
			continue
		}
		n.Returned++
	}
	return errors.Join(errs...)
}

// reread reads the record of a task that Redis does not have; nil when there is
// nothing to put back.
func (c *Client) reread(ctx context.Context, r Recovery, record Record) (t *Task, ended, damaged bool, err error) {
	key := PendingKey(record.Tenant, record.ID)
	_, err = c.cfg.Store.Head(ctx, ResultKey(record.Tenant, record.ID))
	if err == nil {
		return nil, true, false, errors.Join(c.dropRemains(ctx, record), c.cfg.Store.Delete(ctx, key))
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, false, false, err
	}
	body, err := c.cfg.Store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, true, false, nil // it ended while we looked
	}
	if err != nil {
		return nil, false, false, err
	}
	defer body.Close()
	document, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return nil, false, false, fmt.Errorf("read %s: %w", key, err)
	}
	task, err := Decode(document)
	if err == nil && task.ID == record.ID && task.Tenant == record.Tenant {
		return &task, false, false, nil
	}
	if r.Damaged == nil {
		return nil, false, true, nil
	}
	return nil, false, true, r.Damaged(ctx, record.Tenant, record.ID, document)
}

// dropRemains removes what a worker left of a task that has ended, having had no time to:
// stored answers, and its entry in the list of failures where it completed.
func (c *Client) dropRemains(ctx context.Context, record Record) error {
	answers, failed := ArtefactKey(record.Tenant, record.ID, "answer"), FailedTaskKey(record.Tenant, record.ID)
	for info, err := range c.cfg.Store.List(ctx, ArtefactKey(record.Tenant, record.ID, ""), "") {
		switch {
		case err != nil:
		case strings.HasPrefix(info.Key, answers):
			err = c.cfg.Store.Delete(ctx, info.Key)
		case info.Key == failed:
			err = Unlist(ctx, c.cfg.Store, record.Tenant, record.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// placed reports whether a task that has a message stands in some list of its queue, and
// removes the message of one that does not: half of what a Redis wrote before it lost the
// other half.
var placed = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
for i = 4, #KEYS do
  if redis.call("ZSCORE", KEYS[i], ARGV[1]) then return 1 end
end
if redis.call("LPOS", KEYS[2], ARGV[1]) or redis.call("LPOS", KEYS[3], ARGV[1]) then return 1 end
redis.call("DEL", KEYS[1])
return 0`)

// searched is the length up to which a queue is searched for each task that should be
// waiting in it. In a longer one that would take too long: there the message alone
// counts, until the queue has become shorter.
const searched = 1000

// lost picks the records that no queue has.
func (c *Client) lost(ctx context.Context, page []Record) ([]Record, error) {
	queues := Queues()
	states := make([]*redis.StringCmd, 0, len(page)*len(queues))
	waiting := make([]*redis.IntCmd, len(queues))
	pipe := c.cfg.Redis.Pipeline()
	for k, q := range queues {
		waiting[k] = pipe.LLen(ctx, "asynq:{"+q+"}:pending")
	}
	for _, record := range page {
		for _, q := range queues {
			states = append(states, pipe.HGet(ctx, "asynq:{"+q+"}:t:"+record.ID, "state"))
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("look for the tasks in the queue: %w", err)
	}
	var lost []Record
	for i, record := range page {
		there := false
		for k, q := range queues {
			state, err := states[i*len(queues)+k].Result()
			if errors.Is(err, redis.Nil) {
				continue
			}
			if err == nil && (state != "pending" || waiting[k].Val() <= searched) {
				prefix := "asynq:{" + q + "}:"
				keys := []string{prefix + "t:" + record.ID, prefix + "active", prefix + "pending", prefix + "lease", prefix + "retry", prefix + "scheduled", prefix + "archived"}
				var ok bool
				if ok, err = placed.Run(ctx, c.cfg.Redis, keys, record.ID).Bool(); err == nil && !ok {
					continue
				}
			}
			if err != nil {
				return nil, fmt.Errorf("look for %s in the queue: %w", record.ID, err)
			}
			there = true
		}
		if !there {
			lost = append(lost, record)
		}
	}
	return lost, nil
}

// Requeue puts an accepted task back into the queue; one that is there already stays
// as it is.
func (c *Client) Requeue(ctx context.Context, t Task) error {
	t.Redis = ""
	return c.queueAll(ctx, []Task{t})[0]
}
