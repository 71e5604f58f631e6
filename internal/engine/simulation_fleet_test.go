package engine_test

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// This part of the simulation is about fleets and time: workers of different kinds,
// deadlines that pass while a call is under way, an edge that blocks one body; and what
// must hold of every wait and of what an idle fleet asks of Redis.

// drawFleet draws from streams of its own, so that the rest of a plan stays as it is.
func (p *plan) drawFleet() {
	r := p.chance("fleet")
	p.kindsOf = make([][]tasks.Kind, p.nodes)
	for i, split := 0, p.nodes > 1 && r.IntN(2) == 0; i < p.nodes; i++ {
		p.kindsOf[i] = p.kinds
		if split {
			p.kindsOf[i] = nil
		}
		for k, kind := range p.kinds {
			if split && (k%p.nodes == i || r.IntN(4) == 0) {
				p.kindsOf[i] = append(p.kindsOf[i], kind)
			}
		}
		if len(p.kindsOf[i]) == 0 { // more nodes than kinds
			p.kindsOf[i] = p.kinds[:1]
		}
	}
	p.drawBurst(r)
	for _, e := range p.errands {
		if e.twin != nil || e.key != "" || e.deadly != "" || len(e.faults) > 0 || e.ttl > 0 || e.delayed || e.cancel > 0 {
			continue
		}
		switch r.IntN(8) {
		case 0: // its deadline passes while its first call is under way
			e.inFlight, e.ttl = true, between(r, 5*time.Second, 20*time.Second)
			e.options = append(e.options, tasks.WithTimeToLive(e.ttl))
			f := workersaitest.Fault{Contains: e.mark, From: 1, To: 1, Delay: e.ttl + between(r, 0, 20*time.Second), Code: oneOf(r, 0, 5006, 3043)}
			e.faults = append(e.faults, f)
			e.may = append(e.may, "deadline_exceeded", "request_refused")
		case 1: // a firewall refuses its text, whoever sends it
			e.faults = append(e.faults, forbidden(e.mark))
			if e.payload.Kind() != tasks.KindEmbedding { // see refused
				e.may = slices.DeleteFunc(e.may, func(code string) bool { return code == "" })
			}
			e.may = append(e.may, "request_blocked")
		}
	}
}

// drawBurst lets embedding tasks come at one moment, so that they share calls; one of them
// is refused after the deadlines of some have passed.
func (p *plan) drawBurst(r *rand.Rand) {
	if !slices.Contains(p.kinds, tasks.KindEmbedding) || r.IntN(2) == 0 {
		return
	}
	at, n := between(r, time.Second, p.span/2), 0
	for _, e := range p.errands {
		embedding := e.payload.Kind() == tasks.KindEmbedding && e.twin == nil && e.key == "" && e.deadly == "" && len(e.faults) == 0
		if !embedding || e.ttl > 0 || e.delayed || e.cancel > 0 || e.dies > 0 {
			continue
		}
		e.at = at
		switch n++; {
		case n == 1:
			e.faults = append(e.faults, workersaitest.Fault{Contains: e.mark, Delay: 15 * time.Second, Code: 5006})
			e.refused()
		case n%2 == 0:
			e.inFlight, e.ttl = true, 10*time.Second
			e.options = append(e.options, tasks.WithTimeToLive(e.ttl))
			e.may = append(e.may, "deadline_exceeded")
		}
	}
}

// blocked reports whether the emulator refused a call as a firewall does.
func blocked(q workersaitest.Request) bool { return q.Status == http.StatusForbidden && q.Code == 0 }

// overdue is how long after its deadline, or after the end of all faults, a task may end:
// a call that is under way comes to its end, and its result is stored.
const overdue = 2 * time.Minute

// checkBounds looks for tasks that outlived their deadline.
func (s *sim) checkBounds() {
	for _, o := range s.outcomes {
		end, ended := s.endedAt[o.id]
		if o.err != nil || o.errand.ttl == 0 || o.errand.key != "" || !ended {
			continue
		}
		if last := latest(o.at.Add(o.errand.ttl), s.healedAt).Add(overdue + s.plan.longer); end.After(last) {
			s.violate("%s ended at %.3f, its deadline was before %.3f and the last fault at %.3f", o.errand.mark, s.seconds(end), s.seconds(o.at.Add(o.errand.ttl)), s.seconds(s.healedAt))
		}
	}
}

// checkHeld looks for gates that were held although the API never refused the account.
func (s *sim) checkHeld(log []workersaitest.Request) {
	for _, model := range s.held {
		if !slices.ContainsFunc(log, func(q workersaitest.Request) bool { return q.Model == model && q.Code == 10000 }) {
			s.violate("the gate of %s was held, and no answer had refused the account", model)
		}
	}
}

// The most commands that a process may send in one second, far more than all its tasks
// need at once, and that an idle one may send in a minute.
const (
	busiestSecond = 20_000
	idleMinute    = 6_000
)

// meterOf counts the commands of a process. A loop without a pause would stop the clock
// of the bubble, so that it is slowed down once it has been found.
func (s *sim) meterOf(p *process, n int) {
	p.mu.Lock()
	if second := time.Now().Truncate(time.Second); second.Equal(p.second) {
		p.sent += n
	} else {
		p.second, p.sent = second, n
	}
	loops, first := p.sent > busiestSecond, p.sent > busiestSecond && !p.loops
	p.loops = p.loops || loops
	loops = p.loops
	p.mu.Unlock()
	if first {
		s.violate("%s sent more than %d commands in the second before %.3f", p.name, busiestSecond, s.seconds(time.Now()))
	}
	if loops {
		time.Sleep(10 * time.Millisecond)
	}
}

// checkIdle counts the fleet's commands of Redis in an idle minute.
func (s *sim) checkIdle() {
	before := s.server.Commands()
	time.Sleep(time.Minute)
	if n := (s.server.Commands() - before) / len(s.nodes); n > idleMinute {
		s.violate("an idle worker sent %d commands in a minute, more than %d", n, idleMinute)
	}
	s.say("IDLE %d commands a minute and worker", (s.server.Commands()-before)/len(s.nodes))
}
