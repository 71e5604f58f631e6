package engine_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// leftovers are the things that must be gone once everything is done.
func (s *sim) leftovers(client *redis.Client) []string {
	var left []string
	ctx := s.t.Context()
	for info := range s.store.List(ctx, "default/pending/", "") {
		_, id := sortOf(info.Key)
		s.mu.Lock()
		left = append(left, "record of "+s.names[id]+" "+id)
		s.mu.Unlock()
	}
	keys, err := client.Keys(ctx, "*").Result()
	if err != nil {
		return []string{err.Error()}
	}
	slices.Sort(keys)
	for _, k := range keys {
		switch {
		case strings.HasPrefix(k, "neuronmill:parked:"), strings.Contains(k, "}:t:"):
			left = append(left, k)
		case strings.HasPrefix(k, "neuronmill:task:") && client.TTL(ctx, k).Val() < 0:
			left = append(left, k+" for ever")
		case strings.HasPrefix(k, "asynq:{"):
			for _, part := range []string{"pending", "active", "lease", "scheduled", "retry", "archived", "completed"} {
				if strings.HasSuffix(k, "}:"+part) {
					left = append(left, k)
				}
			}
		}
	}
	return left
}

// check holds the run against what must be true, from the outside: the log of the
// emulator, the bucket, Redis, what producers were told.
func (s *sim) check() {
	results := s.results()
	log := s.ai.Requests()
	sent := s.countMarks(log, false)
	s.checkOutcomes(results, sent)
	s.checkPaid(log)
	s.checkUnwanted(log)
	s.checkBounds()
	s.checkHeld(log)
	s.checkLitter(results)
	s.checkHappened(results, log)
	s.checkCap(log)
	s.checkNeurons(results, log)
	s.checkReserved(log)
	s.checkPace(log)
	s.checkSecrets()
}

// results reads every result and checks that it is whole.
func (s *sim) results() map[string]tasks.Result {
	found := map[string]tasks.Result{}
	for info := range s.store.List(s.t.Context(), "default/tasks/", "") {
		sort, id := sortOf(info.Key)
		if sort != "result" {
			continue
		}
		var r tasks.Result
		if err := json.Unmarshal(s.read(info.Key), &r); err != nil || r.ID != id {
			s.violate("%s is no whole result: %v", info.Key, err)
			continue
		}
		found[id] = r
		for _, a := range r.Artefacts {
			body := s.read(a.Key)
			if sum := sha256.Sum256(body); int64(len(body)) != a.Bytes || hex.EncodeToString(sum[:]) != a.SHA256 {
				s.violate("%s is not what the result says of it", a.Key)
			}
		}
	}
	for info := range s.store.List(s.t.Context(), "default/tasks/", "") {
		// The input of a task whose acceptance failed stays: it may have been accepted.
		if _, id := sortOf(info.Key); found[id].ID == "" && !strings.Contains(info.Key, "/input.") && !s.unknown(id) {
			s.violate("%s belongs to no result", info.Key)
		}
	}
	return found
}

// unknown reports whether Redis alone knew of a task, and lost its memory: nobody can know
// what was stored for it.
func (s *sim) unknown(id string) bool {
	return slices.ContainsFunc(s.outcomes, func(o *outcome) bool {
		return o.id == id && o.errand.boxless && s.forgotAfter(o.at)
	})
}

func (s *sim) read(key string) []byte {
	body, err := s.store.Get(s.t.Context(), key)
	if errors.Is(err, storage.ErrNotFound) {
		s.violate("%s is missing", key)
		return nil
	}
	defer body.Close()
	all, _ := io.ReadAll(body)
	return all
}

// marks finds the parts of tasks in a request: "q0012z", or "q0012z-003" for a text of
// many.
var marks = regexp.MustCompile(`q\d{4}[zw](-\d{3})?`)

// countMarks counts in how many requests a part is.
func (s *sim) countMarks(log []workersaitest.Request, billed bool) map[string]int {
	n := map[string]int{}
	for _, q := range log {
		if billed && !q.Billed {
			continue
		}
		parts := marks.FindAllString(string(q.Body), -1)
		slices.Sort(parts)
		for _, m := range slices.Compact(parts) {
			n[m]++
			if whole := m[:6]; whole != m {
				n[whole] = max(n[whole], n[m])
			}
		}
	}
	return n
}

// checkOutcomes holds what became of the tasks against what their producers were told.
func (s *sim) checkOutcomes(results map[string]tasks.Result, sent map[string]int) {
	byMark := map[string]tasks.Result{}
	for _, r := range results {
		byMark[r.Metadata["sim"]] = r
	}
	for _, o := range s.outcomes {
		switch {
		case o.err == nil && o.id == "" && o.errand.dies > 0: // its producer died
		case o.err == nil && o.id == "":
			s.violate("%s: its producer was told neither an id nor an error", o.errand.mark)
		case o.err == nil:
			s.checkAccepted(o, results, sent)
		case errors.Is(o.err, tasks.ErrIdempotencyMismatch):
			if !s.otherPayload(o) {
				s.violate("%s: %v", o.errand.mark, o.err)
			}
		case errors.As(o.err, new(tasks.ValidationError)):
			s.violate("%s was refused at the door: %v", o.errand.mark, o.err)
		case o.known && o.errand.key == "":
			if _, ended := byMark[o.errand.mark]; ended || sent[o.errand.mark] > 0 {
				s.violate("%s ran although its producer was told: %v", o.errand.mark, o.err)
			}
		}
	}
}

func (s *sim) checkAccepted(o *outcome, results map[string]tasks.Result, sent map[string]int) {
	r, ok := results[o.id]
	switch {
	case !ok && o.errand.boxless && s.forgotAfter(o.at): // Redis was all that knew it
	case !ok:
		s.violate("%s (%s) was accepted and has no result", o.errand.mark, o.id)
	case r.Metadata["sim"] != o.errand.mark && o.errand.boxless && s.plan.redisAll && s.otherPayload(o): // and of its key
	case r.Metadata["sim"] != o.errand.mark:
		s.violate("%s was accepted, and its result is that of %s", o.errand.mark, r.Metadata["sim"])
	default:
		s.checkResult(o.errand, r, sent)
	}
}

// otherPayload reports whether the key may have gone to another payload.
func (s *sim) otherPayload(o *outcome) bool {
	return slices.ContainsFunc(s.outcomes, func(other *outcome) bool {
		return other.errand.key == o.errand.key && other.errand.mark != o.errand.mark && (other.err == nil || !other.known)
	})
}

func (s *sim) checkResult(e *errand, r tasks.Result, sent map[string]int) {
	code := ""
	if r.Error != nil {
		code = r.Error.Code
	}
	// A task that the API refuses while it is sick may be done once it is well.
	if !slices.Contains(e.may, code) && (code != "" || r.FinishedAt.Before(s.healedAt)) {
		s.violate("%s (%s) ended as %q %v, which none of its faults explains", e.mark, r.ID, code, r.Error)
	}
	if (code == "") != (r.Status == tasks.Completed) || (code == "") != (len(r.Output) > 0) {
		s.violate("%s: status %s, error %q, %d bytes of output", e.mark, r.Status, code, len(r.Output))
	}
	if !s.plan.redisAll && r.Usage.Calls < 1 && code == "" {
		s.violate("%s completed without a call", e.mark)
	}
	if p, ok := e.payload.(tasks.Embedding); ok && code == "" {
		var out tasks.EmbeddingOutput
		_ = json.Unmarshal(r.Output, &out)
		same := len(out.Vectors) == len(p.Texts)
		for i := 0; same && i < len(p.Texts); i++ {
			same = slices.Equal(out.Vectors[i], workersaitest.Vector(p.Texts[i], out.Dimensions))
		}
		if !same {
			s.violate("%s has not the vectors of its own texts", e.mark)
		}
	}
	// A Redis that is set back forgets that an attempt was refunded.
	if failed, crashed, back := s.failedCalls(e), s.crashesOf(r.ID), len(s.setBack); r.Attempts > 1+failed+crashed+back {
		s.violate("%s took %d attempts; %d of its calls failed, %d of its workers died and Redis was set back %d times", e.mark, r.Attempts, failed, crashed, back)
	}
}

// failedCalls counts the calls with a task in them that failed in a way that counts.
func (s *sim) failedCalls(e *errand) int {
	n := 0
	for _, q := range s.ai.Requests() {
		if !strings.Contains(string(q.Body), e.mark) {
			continue
		}
		number, _ := strconv.Atoi(q.Header.Get(callHeader))
		uncounted := slices.Contains([]int{3021, 3036, 3040, 4006, 10000}, q.Code)
		if !uncounted && (!q.Billed || !s.exchanges[number].whole || oddAnswer(q)) {
			n++
		}
	}
	return n
}

// crashes is how many processes died or were taken for dead.
func (s *sim) crashes() int {
	n := 0
	for _, p := range s.processes {
		if p.takenForDead(s.start, time.Now()) {
			n++
		}
	}
	return n
}

// checkPaid counts the inferences that ran for each part of each task: one, and one
// more for each whose answer a fault lost, or whose caller died or was taken for dead
// before the answer was stored. A call whose caller left before the emulator had answered
// is paid too: the real one would have run it.
func (s *sim) checkPaid(log []workersaitest.Request) {
	paid, excused := map[string]int{}, map[string]int{}
	stories := map[string][]string{}
	for _, q := range log {
		if !q.Billed && q.Status != 0 {
			continue
		}
		x := s.exchangeOf(q)
		parts := marks.FindAllString(string(q.Body), -1)
		slices.Sort(parts)
		for _, m := range slices.Compact(parts) {
			paid[m]++
			why := s.excuse(m, q, x)
			if why != "" {
				excused[m]++
			}
			stories[m] = append(stories[m], fmt.Sprintf("%.3f by %s %s", q.At.Sub(s.start).Seconds(), x.caller.name, why))
		}
	}
	told := map[string]bool{}
	for _, m := range slices.Sorted(maps.Keys(paid)) {
		if paid[m] > 1+excused[m] && !told[m[:6]] {
			told[m[:6]] = true
			s.violate("%s was paid for %d times, %d of them excused: %s", m, paid[m], excused[m], strings.Join(stories[m], "; "))
		}
	}
}

func (s *sim) exchangeOf(q workersaitest.Request) *exchange {
	number, _ := strconv.Atoi(q.Header.Get(callHeader))
	return s.exchanges[number]
}

// excuse says which fault hit this very call, or its caller before the answer was stored,
// so that the part had to be paid for again.
func (s *sim) excuse(part string, q workersaitest.Request, x *exchange) string {
	until := s.storedAfter(part, x.at)
	switch {
	case q.Lossy:
		return "its answer was lost"
	case x.caller.takenForDead(x.at, until):
		return x.caller.name + " was away"
	case slices.ContainsFunc(s.setBack, func(b span) bool { return b.from.Before(x.at) && b.to.After(x.at) && b.to.Before(until) }):
		return "Redis lost that it was counted"
	case s.useless(part[:6], q):
		return "its answer was of no use"
	}
	return ""
}

// storedAfter is when the answer for a part of a task was first stored after a call for
// it; the end of the run when it was not.
func (s *sim) storedAfter(part string, call time.Time) time.Time {
	names := []string{"result.json", "answer.json"}
	if _, number, ok := strings.Cut(part, "-"); ok {
		text, _ := strconv.Atoi(number)
		spec, _ := tasks.SpecOf(tasks.KindEmbedding)
		row, _ := catalogue.Find(spec.Model())
		names = append(names, fmt.Sprintf("answer-%d.json", text/max(row.Texts, 1)))
	}
	first := time.Now()
	for id, mark := range s.names {
		if mark != part[:6] {
			continue
		}
		for _, name := range names {
			for _, at := range s.stored[id][name] {
				if name == "answer.json" {
					at = s.withPicture(id, call, at)
				}
				if at.After(call) && at.Before(first) {
					first = at
				}
			}
		}
	}
	return first
}

// withPicture is when the answer of an image was stored together with its file, which go
// to the bucket side by side; other answers are stored when their document is.
func (s *sim) withPicture(id string, call, document time.Time) time.Time {
	i := slices.IndexFunc(s.plan.errands, func(e *errand) bool { return e.mark == s.names[id] })
	if i < 0 || s.plan.errands[i].payload.Kind() != tasks.KindImage {
		return document
	}
	for name, times := range s.stored[id] {
		for _, at := range times {
			if strings.HasPrefix(name, "image.") && at.After(call) {
				return latest(at, document)
			}
		}
	}
	return time.Now()
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// checkUnwanted looks for calls that nobody wanted any more when they began: of a task
// whose cancelling was acknowledged, or whose deadline had passed.
func (s *sim) checkUnwanted(log []workersaitest.Request) {
	for _, o := range s.outcomes {
		if o.err != nil || o.id == "" || o.errand.twin != nil {
			continue
		}
		cancelled, asked := s.cancelled[o.id]
		for _, q := range log {
			x := s.exchangeOf(q)
			if !strings.Contains(string(q.Body), o.errand.mark) || x.caller.awayAround(x.at) {
				continue
			}
			if asked && x.at.After(cancelled.Add(heededWithin)) && !s.forgotAfter(cancelled.Add(-time.Minute)) {
				s.violate("%s was called for at %.3f, its cancelling acknowledged at %.3f", o.errand.mark, s.seconds(x.at), s.seconds(cancelled))
			}
			last := o.at.Add(o.errand.ttl + time.Second)
			if q.Kind == string(tasks.KindTranscription) {
				last = last.Add(slowBucket) // the audio is opened between the count of the call and its request
			}
			if o.errand.ttl > 0 && o.errand.key == "" && x.at.After(last) {
				s.violate("%s was called for at %.3f, its deadline passed before %.3f", o.errand.mark, s.seconds(x.at), s.seconds(last))
			}
		}
	}
}

// slowBucket is how long a slow bucket may take to open an object before the breaker gives up.
const slowBucket = objects.SlowWrite

// heededWithin is how long after a cancel was acknowledged a call may still begin: the
// workers hear of it by their heartbeat, which a sick Redis delays.
const heededWithin = 30 * time.Second

func (s *sim) seconds(at time.Time) float64 { return at.Sub(s.start).Seconds() }

// forgotAfter reports whether Redis lost its memory after a time.
func (s *sim) forgotAfter(at time.Time) bool {
	return slices.ContainsFunc(s.forgotAt, func(lost time.Time) bool { return lost.After(at) })
}

// checkLitter looks for objects beside results that only an unfinished task needs.
func (s *sim) checkLitter(results map[string]tasks.Result) {
	for info := range s.store.List(s.t.Context(), "default/", "") {
		id, name, _ := strings.Cut(strings.TrimPrefix(info.Key, "default/tasks/"), "/")
		switch dead, isDead := strings.CutPrefix(info.Key, "default/dead/"); {
		case strings.HasPrefix(name, "answer") && s.crashesOf(id) > 0: // no process was left to remove it
		case strings.HasPrefix(name, "answer") && s.unknown(id): // no process can know of it
		case strings.HasPrefix(name, "answer"):
			s.violate("%s stayed beside the result of %s", name, results[id].Metadata["sim"])
		case name == "task.json" && results[id].Status == tasks.Completed:
			s.violate("%s stayed beside the completed result of %s", name, results[id].Metadata["sim"])
		case isDead && results[strings.TrimSuffix(dead, ".json")].Status == tasks.Completed:
			s.violate("%s is listed as failed, but completed", results[strings.TrimSuffix(dead, ".json")].Metadata["sim"])
		}
	}
}

// checkHappened holds a run against what must have happened in it for the other checks
// to show anything.
func (s *sim) checkHappened(results map[string]tasks.Result, log []workersaitest.Request) {
	accepted, taken, completed, billed := 0, 0, 0, 0
	for _, o := range s.outcomes {
		if o.err != nil || o.id == "" {
			continue
		}
		if accepted++; !o.errand.follows {
			taken++
		}
	}
	for _, r := range results {
		if r.Status == tasks.Completed {
			completed++
		}
	}
	for _, q := range log {
		if q.Billed {
			billed++
		}
	}
	wanted := 0 // tasks of one call are accepted or refused together, and count once
	for _, e := range s.plan.errands {
		if !e.follows {
			wanted++
		}
	}
	if 10*taken < 3*wanted || 10*completed < 5*accepted || billed == 0 {
		s.violate("little happened: %d of %d calls were accepted with %d tasks, %d completed, %d calls were billed", taken, wanted, accepted, completed, billed)
	}
}

// crashesOf counts the workers that touched a task's record and died, or were taken for
// dead.
func (s *sim) crashesOf(id string) int {
	n := 0
	for p := range s.touched[taskstate.LiveKey(id)] {
		if p.takenForDead(s.start, time.Now()) {
			n++
		}
	}
	return n
}

// useless reports whether the emulator answered 200 with something that is no answer.
func (s *sim) useless(mark string, q workersaitest.Request) bool {
	return slices.ContainsFunc(s.plan.errands, func(e *errand) bool {
		return e.unpaid > 0 && strings.Contains(string(q.Body), e.mark) && oddAnswer(q)
	})
}

// checkPace looks at every sliding minute of every model.
func (s *sim) checkPace(log []workersaitest.Request) {
	calls := map[string][]time.Time{}
	for _, q := range log {
		calls[q.Model] = append(calls[q.Model], q.At)
	}
	for model, at := range calls {
		row, _ := catalogue.Find(model)
		most := row.PerMinute
		if s.plan.pace > 0 {
			most = s.plan.pace
		}
		for _, e := range s.plan.events {
			if e.what == "wipe" || e.what == "set back" {
				most++ // the gate has forgotten its last call
			}
		}
		from := 0
		for to := range at {
			for at[to].Sub(at[from]) >= time.Minute {
				from++
			}
			if n := to - from + 1; n > most {
				s.violate("%s was asked %d times in the minute before %.3f, more than %d", model, n, at[to].Sub(s.start).Seconds(), most)
				break
			}
		}
	}
}

// checkSecrets looks for the account's token wherever something was written.
func (s *sim) checkSecrets() {
	if strings.Contains(s.log.String(), canary) {
		s.violate("the token is in the log")
	}
	for info := range s.store.List(s.t.Context(), "", "") {
		if strings.Contains(string(s.read(info.Key)), canary) {
			s.violate("the token is in %s", info.Key)
		}
	}
	if strings.Contains(fmt.Sprint(s.server.Snapshot()), canary) {
		s.violate("the token is in Redis")
	}
}

func (s *sim) summary() string {
	billed, refused := 0, 0
	for _, q := range s.ai.Requests() {
		if q.Billed {
			billed++
		}
		if blocked(q) {
			refused++
		}
	}
	late := 0
	for _, e := range s.plan.errands {
		if e.inFlight {
			late++
		}
	}
	return fmt.Sprintf("%d tasks asked for, %d ended, %d calls, %d billed, %d blocked, %d deadlines in flight, kinds %v, %d crashes, quiet after %v, %v synthetic",
		len(s.outcomes), len(s.endedAt), len(s.ai.Requests()), billed, refused, late, s.plan.kindsOf, s.crashes(), s.quietAfter, time.Since(s.start).Round(time.Second))
}
