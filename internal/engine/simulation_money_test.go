package engine_test

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// This part of the simulation is about money: a bucket that takes no writes for a while,
// paid answers of no use, and the invariants for them.

// drawMoney draws from streams of its own, so that the rest of a plan stays as it is.
func (p *plan) drawMoney() {
	r := p.chance("money")
	if r.IntN(3) == 0 {
		p.events = append(p.events, event{at: between(r, time.Second, p.span), what: "store read only", long: between(r, 5*time.Second, 90*time.Second)})
		slices.SortStableFunc(p.events, func(a, b event) int { return int(a.at - b.at) })
	}
	for _, e := range p.errands {
		if e.twin != nil || e.deadly != "" || len(e.faults) > 0 || r.IntN(12) > 0 {
			continue
		}
		odd := workersaitest.Fault{Contains: e.mark, From: 1, To: 1, Status: http.StatusOK}
		odd.Header = http.Header{"Content-Type": {"application/json"}, "Cf-Ai-Neurons": {oneOf(r, "", fmt.Sprint(oddPrice))}}
		odd.Body = oneOf(r, `{"success":true,"result":{}}`, `{"success":true,"result":"so"}`, `{"success":true}`, `[]`)
		e.faults, e.unpaid = append(e.faults, odd), e.unpaid+1
	}
}

// oddPrice is the price of an answer of no use, where it states one. No true call costs that.
const oddPrice = 7.25

// oddAnswer reports whether an answer under 200 was one of a fault.
func oddAnswer(q workersaitest.Request) bool { return q.Neurons == 0 || q.Neurons == oddPrice }

// writes reports whether a method of the store writes.
func writes(method string) bool { return method == "put" || method == "create" || method == "delete" }

// refuseWrites makes the bucket read-only for a while, as a full disk or narrowed
// credentials do.
func (s *sim) refuseWrites(long time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = time.Now().Add(long)
}

// checkCap counts the inferences that were billed for each part of each task: whatever
// befell it, there are no more than three times its attempts.
func (s *sim) checkCap(log []workersaitest.Request) {
	attempts := map[string]int{}
	for _, e := range s.plan.errands {
		spec, _ := tasks.SpecOf(e.payload.Kind())
		attempts[e.mark] = spec.Attempts
	}
	billed := s.countMarks(log, true)
	for _, m := range slices.Sorted(maps.Keys(billed)) {
		if most := 3 * attempts[m[:6]]; billed[m] > most && most > 0 {
			s.violate("%s was paid for %d times, more than the cap of %d", m, billed[m], most)
		}
	}
}

// checkNeurons holds what the results say of their cost against what the provider
// counted. A task whose result leaves calls unsettled may have cost more than it says, by
// the price of those calls; none says more than it cost.
func (s *sim) checkNeurons(results map[string]tasks.Result, log []workersaitest.Request) {
	if s.plan.redisAll {
		return // the counts of earlier calls were lost, as counted_since says
	}
	unsettled := map[string]bool{}
	explained := 0.0
	for _, r := range results {
		explained += r.Usage.Neurons
		unsettled[r.Metadata["sim"]] = unsettled[r.Metadata["sim"]] || r.Usage.Unsettled > 0
	}
	billed, open, calls := 0.0, 0.0, 0
	for _, q := range log {
		billed += q.Neurons
		if q.Neurons > 0 {
			calls++
		}
		if slices.ContainsFunc(marks.FindAllString(string(q.Body), -1), func(m string) bool { return unsettled[m[:6]] }) {
			open += q.Neurons
		}
	}
	rounding := 0.0001 * float64(calls+1) // the header has four decimals
	if explained > billed+rounding {
		s.violate("the results explain %.4f neurons, more than the %.4f that were billed", explained, billed)
	}
	if missing := billed - explained; missing > open+rounding {
		s.violate("%.4f of %.4f neurons are in no result; the calls of unsettled tasks cost %.4f", missing, billed, open)
	}
	for _, r := range results {
		s.checkCost(r, log, rounding)
		s.checkUnsettled(r, log)
	}
}

// checkUnsettled wants a reason for each unsettled call: its price did not arrive, or its
// caller died, or was taken for dead, before the task ended.
func (s *sim) checkUnsettled(r tasks.Result, log []workersaitest.Request) {
	// A process may die between the count of a call and the call itself. That is known of
	// a task which was taken again afterwards.
	most, _ := s.server.Client(nil).HGet(s.t.Context(), taskstate.LiveKey(r.ID), "crashes").Int()
	if r.StartedAt == nil {
		most += s.crashes()
	}
	for _, q := range log {
		number, _ := strconv.Atoi(q.Header.Get(callHeader))
		x := s.exchanges[number]
		if strings.Contains(string(q.Body), r.Metadata["sim"]) && (!x.priced || x.caller.takenForDead(x.at, r.FinishedAt)) {
			most++
		}
	}
	if r.Usage.Unsettled > most {
		s.violate("%s has %d of %d calls unsettled; the price of %d did not arrive", r.Metadata["sim"], r.Usage.Unsettled, r.Usage.Calls, most)
	}
}

// checkCost checks one task of a kind whose calls are its own.
func (s *sim) checkCost(r tasks.Result, log []workersaitest.Request, rounding float64) {
	if r.Kind == tasks.KindEmbedding || r.Kind == tasks.KindTranslation {
		return
	}
	billed := 0.0
	for _, q := range log {
		if strings.Contains(string(q.Body), r.Metadata["sim"]) {
			billed += q.Neurons
		}
	}
	missing := billed - r.Usage.Neurons
	if missing < -rounding || r.Usage.Unsettled == 0 && math.Abs(missing) > rounding {
		s.violate("%s says that it cost %.4f neurons, with %d calls unsettled; %.4f were billed", r.Metadata["sim"], r.Usage.Neurons, r.Usage.Unsettled, billed)
	}
}

// bill lists every call and what each result says of its cost, for the log of a run that
// failed.
func (s *sim) bill() string {
	var b strings.Builder
	for _, q := range s.ai.Requests() {
		x := s.exchangeOf(q)
		fmt.Fprintf(&b, "%8.3f CALL by %s status %d code %d billed %v neurons %.4f whole %v priced %v for %v\n",
			s.seconds(x.at), x.caller.name, q.Status, q.Code, q.Billed, q.Neurons, x.whole, x.priced, marks.FindAllString(string(q.Body), -1))
	}
	for id, r := range s.results() {
		fmt.Fprintf(&b, "%8.3f RESULT %s %s %s attempts %d calls %d unsettled %d neurons %.4f\n",
			s.seconds(r.FinishedAt), r.Metadata["sim"], id, r.Status, r.Attempts, r.Usage.Calls, r.Usage.Unsettled, r.Usage.Neurons)
	}
	return b.String()
}

// accountCap is a cap that nothing reaches: its calls reserve and settle their prices.
var accountCap = budget.Cap{Scope: budget.Account, Neurons: 1e8, Over: budget.Wait}

func (s *sim) caps() *budget.Caps {
	return &budget.Caps{Redis: s.server.Client(nil), Store: s.store}
}

// checkReserved holds what calls have reserved or spent under a cap against what the provider
// has billed, whatever died or was lost in between: it is never less.
func (s *sim) checkReserved(log []workersaitest.Request) {
	if !s.plan.capped || s.plan.redisAll {
		return // with Redis its sums were lost
	}
	counted, billed := 0.0, 0.0
	for _, at := range []time.Time{s.start, budget.NextDay(s.start), budget.NextDay(s.start).AddDate(0, 0, 1)} {
		spent, reserved, err := budget.Spent(s.t.Context(), s.server.Client(nil), []budget.Cap{accountCap}, at)
		if err != nil {
			s.violate("%v", err)
			return
		}
		counted += spent[0] + reserved[0]
	}
	for _, q := range log {
		if q.Billed {
			billed += q.Neurons
		}
	}
	if billed > counted+0.001 {
		s.violate("%.4f neurons were billed, and %.4f counted under the cap", billed, counted)
	}
}
