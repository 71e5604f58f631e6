// Command chaos injects many faults at once and checks the outcome. It starts a real
// Redis, a real S3 server, the emulator and several workers, and producers enqueue tasks.
// For a given time it kills workers, Redis and connections at random. Then it ends all
// faults and waits until the system is idle. It checks from outside that each task was
// kept and has one result, and that every extra paid call is explained by a fault.
//
//	go run -C bench/chaos . --for 5m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

type options struct {
	length, quiet       time.Duration
	life, longLife      time.Duration
	seed                uint64
	slots, rate, litter int
	dir, binary         string
	keep                bool
}

func main() {
	var o options
	flag.DurationVar(&o.length, "for", 2*time.Minute, "how long things go wrong")
	flag.DurationVar(&o.quiet, "quiet", 3*time.Minute, "how long it may take until all is quiet again")
	flag.DurationVar(&o.life, "life", 2500*time.Millisecond, "the mean life of a worker in every third slot, roughly")
	flag.DurationVar(&o.longLife, "long-life", 15*time.Second, "the mean life of a worker in the other slots")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "of what goes wrong when; the machine has its own part in it")
	flag.IntVar(&o.slots, "workers", 6, "worker processes at a time")
	flag.IntVar(&o.rate, "rate", 12, "tasks a second")
	flag.IntVar(&o.litter, "litter", 0, "how many objects and keys may be left behind: no promise, but each is a bug to look at")
	flag.StringVar(&o.dir, "dir", "", "folder for the evidence; a temporary one when empty")
	flag.StringVar(&o.binary, "binary", "", "neuronmill built with -tags failpoint; built when empty")
	flag.BoolVar(&o.keep, "keep", false, "keep the evidence of a good run too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := chaos(ctx, o)
	stop()
	switch {
	case err != nil:
		log.Fatalln("chaos:", err)
	case !good:
		os.Exit(1)
	}
}

// run holds the whole state of one run.
type run struct {
	options
	j        *journal
	redis    *redisServer
	s3       *process
	front    *bucketFront
	provider *provider
	producer *producer
	fleet    *fleet
	edges    []*edge
	store    storage.Store // the same bucket, as the producer uses it
	closers  []func()
}

func chaos(ctx context.Context, o options) (good bool, err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "chaos-"); err != nil {
			return false, err
		}
	} else if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return false, err
	}
	fmt.Printf("seed %d, evidence in %s\n", o.seed, o.dir)
	r := &run{options: o}
	defer func() {
		for _, end := range slices.Backward(r.closers) {
			end()
		}
		if good && !o.keep {
			_ = os.RemoveAll(o.dir)
		}
	}()
	if err := r.setUp(ctx); err != nil {
		return false, err
	}
	if err := r.storm(ctx); err != nil {
		return false, err
	}
	r.provider.emulator.Heal()
	healed := time.Now()
	if err := r.calm(); err != nil {
		return false, err
	}
	out := &outside{redis: redis.NewClient(&redis.Options{Addr: r.redis.addr}), store: r.store, read: map[string]bool{}, ends: map[string]tasks.Result{}, forgotten: r.forgotten}
	defer out.redis.Close()
	_, left := out.wait(ctx, r.producer.orders, o.quiet, func(left string) { r.j.note("not quiet", left) })
	toQuiet := time.Since(healed)
	r.stopAll()
	calls := r.provider.log()
	v := r.judge(ctx, out, calls, healed)
	if left != "" {
		v.wrong = append(v.wrong, "not quiet after "+toQuiet.Round(time.Second).String()+": "+left)
	}
	r.report(v, toQuiet)
	return !v.broken(o.litter), r.keepEvidence(v, calls, out)
}

func (r *run) seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(r.seed, n)) }

// spoilers is how many edges are faulty at a time.
const spoilers = 3

// storm injects all faults for the length of the run. On return everything it started has
// ended, except workers.
func (r *run) storm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.length)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range r.fleet.slots {
		g.Go(func() error { return r.fleet.live(ctx, s) })
	}
	for i := range spoilers {
		g.Go(func() error { return sicken(ctx, r.j, everyNth(r.edges, i, spoilers), r.seeded(uint64(10+i))) })
	}
	g.Go(func() error { return troubleRedis(ctx, r.j, r.redis, r.seeded(20)) })
	g.Go(func() error { troubleBucket(ctx, r.front, r.seeded(21)); return nil })
	g.Go(func() error {
		// It stops early, so that most of the work is done during faults.
		producing, cancel := context.WithTimeout(ctx, r.length*2/3)
		defer cancel()
		r.producer.produce(producing, r.rate)
		return nil
	})
	g.Go(func() error { r.producer.cancelSome(ctx); return nil })
	g.Go(func() error { r.tell(ctx); return nil })
	if err := g.Wait(); err != nil {
		return err
	}
	r.fleet.thaw.Wait()
	return nil
}

// everyNth distributes edges so that no edge gets two faults at once.
func everyNth(edges []*edge, first, n int) []*edge {
	var dealt []*edge
	for i := first; i < len(edges); i += n {
		dealt = append(dealt, edges[i])
	}
	return dealt
}

// tell reports progress from time to time.
func (r *run) tell(ctx context.Context) {
	start := time.Now()
	for ctx.Err() == nil {
		sleep(ctx, 15*time.Second)
		r.producer.mu.Lock()
		orders := len(r.producer.orders)
		r.producer.mu.Unlock()
		fmt.Fprintf(os.Stderr, "%s: %d tasks, %d kills\n", time.Since(start).Round(time.Second), orders, r.j.kills())
	}
}

// calm starts workers without faults. It does nothing else to help the recovery.
func (r *run) calm() error {
	for _, s := range r.fleet.slots {
		if _, err := r.fleet.start(s, ""); err != nil {
			return err
		}
	}
	return nil
}

// stopAll stops the workers as a deployment does.
func (r *run) stopAll() {
	var g errgroup.Group
	for _, w := range r.fleet.running() {
		g.Go(func() error { r.fleet.drain(w); return nil })
	}
	_ = g.Wait()
}

// keepEvidence writes all observations to files.
func (r *run) keepEvidence(v *verdict, calls []call, o *outside) error {
	ends := make([]tasks.Result, 0, len(o.ends))
	for _, end := range o.ends {
		ends = append(ends, end)
	}
	return errors.Join(
		dump(r.j, "orders.jsonl", r.producer.orders), dump(r.j, "calls.jsonl", calls), dump(r.j, "results.jsonl", ends),
		dump(r.j, "paid-again.jsonl", v.twice),
		dump(r.j, "violations.jsonl", slices.Concat(v.lost, v.double, v.overpaid, v.unexplained, v.litter, v.wrong)))
}
