package engine_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

var (
	seeds   = flag.Int("sim.seeds", defaultSeeds, "how many simulations to run")
	first   = flag.Uint64("sim.first", 1, "the seed of the first one")
	oneSeed = flag.Uint64("sim.seed", 0, "run this one alone and tell what happens in it")
)

// TestSimulation runs the whole system against faults of every sort that a seed draws:
// an API that answers badly, a bucket that refuses or lies, a Redis that loses replies,
// its memory or itself, workers that die, freeze, are cut off or are told to stop. Then
// the faults end, and what must hold is checked from the outside. See
// simulation_plan_test.go for what is drawn and simulation_invariants_test.go for what
// is checked.
func TestSimulation(t *testing.T) {
	t.Parallel()
	redis.SetLogger(noLog{})
	from, to := *first, *first+uint64(*seeds)
	if *oneSeed != 0 {
		from, to = *oneSeed, *oneSeed+1
	}
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, newPlan(seed))
				s.run()
				s.check()
				if len(s.violations) > 0 {
					log := filepath.Join(os.TempDir(), fmt.Sprintf("simulation-%d.log", seed)) // a rare failure may not repeat
					require.NoError(t, os.WriteFile(log, []byte(fmt.Sprint(s.plan, s.log.String(), s.bill())), 0o600))
					t.Errorf("%sreplay with: go test ./internal/engine -run TestSimulation -sim.seed=%d; the log of this run: %s\n%s",
						s.plan, seed, log, strings.Join(short(s.violations), "\n"))
				}
				if *oneSeed != 0 {
					t.Logf("%s%s", s.plan, s.log.String())
				}
				t.Log(s.summary())
			})
		})
	}
}

// canary is the secret of the simulated account.
const canary = "canary-0d9f1c77"

// sim is one run.
type sim struct {
	t         *testing.T
	plan      *plan
	server    *redistest.Server
	store     *storage.Memory
	ai        *workersaitest.Server
	start     time.Time
	healedAt  time.Time
	log       *safeBuffer
	healed    atomic.Bool
	redisDown atomic.Int32  // outages of Redis under way
	over      chan struct{} // closed when the dead may go

	mu         sync.Mutex
	processes  []*process
	exchanges  []*exchange
	names      map[string]string                 // the mark of a task's id
	endedAt    map[string]time.Time              // when a result was created
	stored     map[string]map[string][]time.Time // when results and checkpoints were, by id and file
	asked      map[string]int
	storeAway  time.Time
	readOnly   time.Time   // the bucket takes no writes before it
	forgotAt   []time.Time // when Redis lost its memory
	setBack    []span      // from a snapshot of Redis to the moment when it was put back
	violations []string
	held       []string // gates that were held when the faults ended
	outcomes   []*outcome
	touched    map[string]map[*process]bool // the processes that read or wrote a task's record, by its key
	cancelled  map[string]time.Time         // when the cancelling of a task was acknowledged, by id
	quietAfter time.Duration

	nodes     []*node
	producing sync.WaitGroup
	retired   sync.WaitGroup
}

// outcome is the answer to a producer.
type outcome struct {
	errand *errand
	id     string
	err    error // nil: accepted
	known  bool  // false: no answer came, or ErrUnknownOutcome
	at     time.Time
}

// node is a worker process; when it goes another takes its place.
type node struct {
	*process
	stop     func() // told to stop
	done     chan error
	replaced bool
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newSim(t *testing.T, p *plan) *sim {
	s := &sim{
		t: t, plan: p, server: redistest.New(t), store: storage.NewMemory(), log: &safeBuffer{}, over: make(chan struct{}),
		names: map[string]string{}, touched: map[string]map[*process]bool{}, endedAt: map[string]time.Time{}, asked: map[string]int{}, cancelled: map[string]time.Time{}, stored: map[string]map[string][]time.Time{},
	}
	limits := map[string]int{}
	if p.pace > 0 {
		for _, k := range p.kinds {
			limits[string(k)] = p.pace
		}
	}
	s.ai = workersaitest.New(workersaitest.Options{Latency: 300 * time.Millisecond, Token: canary, Limits: limits})
	for _, e := range p.errands {
		for _, f := range e.faults {
			s.ai.Fault(f)
		}
	}
	for _, f := range p.general {
		s.ai.Fault(f)
	}
	require.NoError(t, s.store.Put(t.Context(), "default/files/f/a.wav", bytes.NewReader(workersaitest.SampleWAV()[:8044]), "audio/wav"))
	return s
}

func (s *sim) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, fmt.Sprintf("  "+format, args...))
}

// say adds a line to the story of the run.
func (s *sim) say(format string, args ...any) {
	fmt.Fprintf(s.log, "%8.3f %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *sim) run() {
	time.Sleep(s.plan.startAt)
	s.start = time.Now()
	if s.plan.capped {
		require.NoError(s.t, s.caps().Set(s.t.Context(), accountCap))
	}
	for i := range s.plan.nodes {
		s.nodes = append(s.nodes, s.work(fmt.Sprint("node", i), i))
	}
	for i, e := range s.plan.errands {
		if e.follows {
			continue
		}
		group := &s.producing
		if e.dies > 0 {
			group = &s.retired
		}
		group.Go(func() {
			time.Sleep(e.at)
			s.produce(e, i)
		})
	}
	var happenings sync.WaitGroup
	for _, e := range s.plan.events {
		time.Sleep(time.Until(s.start.Add(e.at)))
		happenings.Go(func() { s.happen(e) })
		synctest.Wait()
	}
	time.Sleep(time.Until(s.start.Add(s.plan.span)))
	happenings.Wait()
	s.heal()
	s.producing.Wait()
	s.awaitQuiet()
	s.checkIdle()
	s.finish()
}

// work starts the worker of a place in the fleet, on a process of its own.
func (s *sim) work(name string, place int) *node {
	p := s.process(name)
	ai := s.ai.Client()
	ai.HTTP = &http.Client{Transport: api{p, ai.HTTP.Transport}}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: s.relativeTime})).With("node", name)
	cfg := engine.Config{
		Handlers: handlers.All(nil), Redis: p.redis, Store: bucket{p}, AI: ai, Kinds: s.plan.kindsOf[place], Concurrency: 4, Log: log,
		Gate: gate.New(gate.Config{Redis: p.redis, Pace: s.pace, Log: log}),
	}
	worker, err := engine.NewWorker(cfg)
	require.NoError(s.t, err)
	ctx, stop := context.WithCancel(context.Background())
	n := &node{process: p, stop: stop, done: make(chan error, 1)}
	go func() { n.done <- worker.Run(ctx) }()
	return n
}

func (s *sim) relativeTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.String("at", fmt.Sprintf("%.3f", time.Since(s.start).Seconds()))
	}
	return a
}

func (s *sim) pace(model, kind string) gate.Pace {
	if s.plan.pace > 0 {
		return gate.Pace{PerMinute: s.plan.pace, Source: "settings"}
	}
	return catalogued(model, kind)
}

// happen lets an event happen to the world or to a node.
func (s *sim) happen(e event) {
	s.say("EVENT %s", e)
	s.mu.Lock()
	n := s.nodes[e.node]
	s.mu.Unlock()
	switch e.what {
	case "kill":
		if e.aim != "" {
			n.killAt(e.aim)
			for range 20 {
				if time.Sleep(time.Second); n.gone() {
					break
				}
			}
		}
		n.kill()
		s.replace(e.node, n)
	case "drain":
		n.stop()
		s.replace(e.node, n)
	case "freeze":
		n.freeze(e.long)
	case "cut off":
		n.cutOff(e.long)
	case "store down":
		s.mu.Lock()
		s.storeAway = time.Now().Add(e.long)
		s.mu.Unlock()
	case "store read only":
		s.refuseWrites(e.long)
	case "redis down":
		s.redisDown.Add(1)
		s.everyLink((*redistest.Link).Cut)
		time.Sleep(e.long)
		s.redisDown.Add(-1)
		s.mendLinks()
	case "wipe":
		if e.aim == "FLUSHALL" {
			s.server.Flush()
		} else {
			s.outOfReach(s.server.Wipe)
		}
		s.forgot()
	case "set back":
		var before redistest.Snapshot
		s.outOfReach(func() { before = s.server.Snapshot() })
		from := time.Now()
		time.Sleep(e.long)
		s.outOfReach(func() { s.server.Restore(before) })
		s.forgot()
		s.mu.Lock()
		s.setBack = append(s.setBack, span{from, time.Now()})
		s.mu.Unlock()
	case "refuse":
		s.server.Refuse(e.aim)
		time.Sleep(e.long)
		s.server.Refuse("")
	default:
		panic("no such event: " + e.what)
	}
}

// forgot records that Redis has lost its memory of running calls.
func (s *sim) forgot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotAt = append(s.forgotAt, time.Now())
}

func (p *process) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// replace puts a new node where one has gone, as an orchestrator does.
func (s *sim) replace(i int, gone *node) {
	s.mu.Lock()
	again := gone.replaced // two events met one node
	gone.replaced = true
	s.mu.Unlock()
	if again {
		return
	}
	for s.redisDown.Load() > 0 { // a worker does not start without Redis
		time.Sleep(time.Second)
	}
	fresh := s.work(gone.name+"'", i)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[i] = fresh
	s.retired.Go(func() {
		<-s.over
		gone.stop()
		if err := <-gone.done; err != nil {
			s.violate("%s ended with %v", gone.name, err)
		}
	})
}

// murdered replaces a node that a task has killed.
func (s *sim) murdered(p *process) {
	time.Sleep(time.Second)
	s.mu.Lock()
	i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.process == p })
	var n *node
	if i >= 0 {
		n = s.nodes[i]
	}
	s.mu.Unlock()
	if n != nil {
		s.say("KILLED BY A TASK: %s", p.name)
		s.replace(i, n)
	}
}

func (s *sim) everyLink(do func(*redistest.Link)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if !p.gone() {
			do(p.link)
		}
	}
}

// mendLinks ends a cut of all links, unless Redis is down for longer.
func (s *sim) mendLinks() {
	if s.redisDown.Load() == 0 {
		s.everyLink(func(l *redistest.Link) { l.Mend() })
	}
}

// outOfReach changes Redis while no process reaches it.
func (s *sim) outOfReach(do func()) {
	s.everyLink((*redistest.Link).Cut)
	time.Sleep(time.Millisecond) // the server's commands under way end at this instant
	do()
	s.mendLinks()
}

// heal ends all faults.
func (s *sim) heal() {
	s.say("HEAL")
	s.healedAt = time.Now()
	s.healed.Store(true)
	s.server.Refuse("")
	s.redisDown.Store(0)
	s.mendLinks()
	s.ai.Heal()
	// A refused account is for a person to mend, who opens its gates.
	gates := gate.New(gate.Config{Redis: s.server.Client(nil), Pace: s.pace})
	states, err := gates.States(s.t.Context())
	require.NoError(s.t, err)
	for _, g := range states {
		if g.Refused {
			s.held = append(s.held, g.Name)
			require.NoError(s.t, gates.Open(s.t.Context(), g.Name))
		}
	}
}

// finish stops everything and lets the dead go.
func (s *sim) finish() {
	for _, n := range s.nodes {
		n.stop()
		if err := <-n.done; err != nil {
			s.violate("%s ended with %v", n.name, err)
		}
	}
	close(s.over)
	s.retired.Wait()
}

// produce is one producer: it asks once, or, with an idempotency key, until it knows.
func (s *sim) produce(e *errand, i int) {
	p := s.process(fmt.Sprint("producer", i))
	cfg := tasks.Config{Redis: p.redis, Store: bucket{p}}
	if e.boxless {
		cfg.Store = nil
	}
	client := tasks.NewClient(cfg)
	ctx := context.Background()
	o := &outcome{errand: e}
	all, requests := []*outcome{o}, []tasks.Request{{Payload: e.payload, Options: e.options}}
	for _, c := range e.together {
		all, requests = append(all, &outcome{errand: c}), append(requests, tasks.Request{Payload: c.payload, Options: c.options})
	}
	s.mu.Lock()
	s.outcomes = append(s.outcomes, all...)
	s.mu.Unlock()
	if e.dies > 0 {
		p.dieAfter(e.dies)
	}
	for {
		accepted := client.EnqueueMany(ctx, requests)
		if p.gone() {
			return
		}
		s.mu.Lock()
		for i, o := range all {
			o.id, o.err, o.known, o.at = accepted[i].ID, accepted[i].Err, !errors.Is(accepted[i].Err, tasks.ErrUnknownOutcome), time.Now()
			if o.err == nil {
				s.names[o.id] = o.errand.mark
			}
		}
		err := o.err
		s.mu.Unlock()
		if err == nil || e.key == "" || errors.Is(err, tasks.ErrIdempotencyMismatch) || errors.As(err, new(tasks.ValidationError)) {
			break
		}
		time.Sleep(2 * time.Second)
	}
	for _, o := range all {
		s.say("PRODUCED %s %s %v", o.errand.mark, o.id, o.err)
	}
	if o.err != nil || e.cancel == 0 {
		return
	}
	time.Sleep(e.cancel)
	err := client.Cancel(ctx, o.id)
	s.say("CANCEL %s %s %v", e.mark, o.id, err)
	if err == nil {
		s.mu.Lock()
		s.cancelled[o.id] = time.Now()
		s.mu.Unlock()
	}
}

// dieAfter lets it die at one of its next effects.
func (p *process) dieAfter(effects int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = effects
}

// awaitQuiet waits until nothing is left to do.
func (s *sim) awaitQuiet() {
	most := 3*time.Minute + s.plan.longer
	client := s.server.Client(nil)
	healed := time.Now()
	var left []string
	for time.Since(healed) <= most {
		if left = s.leftovers(client); len(left) == 0 {
			s.quietAfter = time.Since(healed)
			s.say("QUIET")
			return
		}
		time.Sleep(5 * time.Second)
	}
	s.violate("not quiet %v after the faults ended: %s", most, strings.Join(short(left), ", "))
}

// short leaves the first few of a list.
func short(list []string) []string {
	if len(list) > 8 {
		return append(slices.Clone(list[:8]), fmt.Sprintf("  and %d more", len(list)-8))
	}
	return list
}

func (s *sim) newExchange(p *process) (*exchange, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &exchange{caller: p, at: time.Now()}
	s.exchanges = append(s.exchanges, x)
	return x, len(s.exchanges) - 1
}
