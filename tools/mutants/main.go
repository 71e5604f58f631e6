// Command mutants shows that tests can fail. A mutant is the program without one
// protection: go test -overlay replaces one text in one file, and the checkout stays
// unchanged. The protection's test must fail by an assertion of its own.
//
//	go run ./tools/mutants                    all protections in protections.txtar
//	go run ./tools/mutants -only fence,hold   some of them
//	go run ./tools/mutants -simulate 40       which of them the simulation notices within 40 seeds
//	go run ./tools/mutants -sample 40 ./tasks random small changes of a package, against its own tests
//
// It exits with 1 when a mutant of a protection survives. A random sample prints its score.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	only     string
	fast     bool
	slow     bool
	part     string
	simulate int
	sample   int
	seed     uint64
	jobs     int
	rounds   int
	limit    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "names of protections, with commas")
	flag.BoolVar(&o.fast, "fast", false, "only those marked fast, whose tests take seconds")
	flag.BoolVar(&o.slow, "slow", false, "only the others")
	flag.StringVar(&o.part, "part", "", "of the protections that the other flags select, only part K/N, such as 0/4")
	flag.IntVar(&o.simulate, "simulate", 0, "run the simulation with so many seeds in place of each protection's own test")
	flag.IntVar(&o.sample, "sample", 0, "run so many random mutants of the packages that are given")
	flag.Uint64Var(&o.seed, "seed", 1, "of the random sample")
	flag.IntVar(&o.jobs, "jobs", 2, "mutants at a time")
	flag.IntVar(&o.rounds, "rounds", 1, "runs of each test; each must fail, which shows a test that fails by chance only")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "time for one run of a test; one that takes longer shows nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := run(ctx, o, flag.Args())
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	case !good:
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, packages []string) (good bool, err error) {
	if o.sample > 0 {
		return true, sample(ctx, o, packages)
	}
	all, err := load("tools/mutants/protections.txtar")
	if err != nil {
		return false, err
	}
	all = slices.DeleteFunc(all, func(m mutant) bool {
		wanted := o.only == "" || slices.Contains(strings.Split(o.only, ","), m.Name)
		return !wanted || o.fast && !m.Fast || o.slow && m.Fast
	})
	if all, err = part(all, o.part); err != nil {
		return false, err
	}
	if len(all) == 0 {
		return false, errors.New("there is no such protection")
	}
	if o.simulate > 0 {
		for i := range all {
			all[i].Package, all[i].Test = "./internal/engine", "TestSimulation"
			all[i].Args = []string{"-sim.seeds", fmt.Sprint(o.simulate), "-test.failfast"}
		}
	}
	survived := 0
	judgeAll(ctx, o, all, func(m mutant, v verdict) {
		if v.killed {
			fmt.Printf("ok    %-16s %s fails: %s\n", m.Name, m.Test, v.why)
			return
		}
		survived++
		fmt.Printf("FAIL  %-16s %s: %s\n", m.Name, m.Test, v.why)
	})
	fmt.Printf("%d of %d protections are noticed\n", len(all)-survived, len(all))
	return survived == 0 || o.simulate > 0, ctx.Err()
}

// part returns every nth mutant, from the kth on, for "k/n"; all of them for "".
func part(all []mutant, text string) ([]mutant, error) {
	if text == "" {
		return all, nil
	}
	var k, n int
	if _, err := fmt.Sscanf(text, "%d/%d", &k, &n); err != nil || k < 0 || k >= n {
		return nil, fmt.Errorf("-part %q is no K/N with K below N, such as 0/4", text)
	}
	var some []mutant
	for i := k; i < len(all); i += n {
		some = append(some, all[i])
	}
	return some, nil
}

// judgeAll runs mutants in parallel. It calls told for one verdict at a time, as they come.
func judgeAll(ctx context.Context, o options, all []mutant, told func(mutant, verdict)) {
	places := make(chan struct{}, max(o.jobs, 1))
	var telling sync.Mutex
	var wg sync.WaitGroup
	for _, m := range all {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			v := judge(ctx, o, m)
			telling.Lock()
			defer telling.Unlock()
			told(m, v)
		})
	}
	wg.Wait()
}
