package engine_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// plan is all that is drawn from a seed, before anything runs.
type plan struct {
	seed     uint64
	kinds    []tasks.Kind
	nodes    int
	kindsOf  [][]tasks.Kind // that each node takes
	span     time.Duration  // in which faults happen
	pace     int            // calls a minute of each model; 0 means the catalogue's
	startAt  time.Duration  // of the day
	errands  []*errand
	events   []event
	store    map[string]storeRates // by method
	network  networkRates
	general  []workersaitest.Fault // of the API, whoever asks
	longer   time.Duration         // than three minutes until all is quiet: a spent quota that is met after midnight, a task that kills workers
	capped   bool                  // there is a cap on the cost of a day, which nothing reaches
	redisAll bool                  // Redis lost or was set back: its counters say nothing
}

// errand is a task of the plan.
type errand struct {
	mark     string // stands in its texts and nowhere else
	at       time.Duration
	payload  tasks.Payload
	options  []tasks.Option
	key      string        // idempotency
	cancel   time.Duration // after its acceptance; 0 means never
	boxless  bool          // its producer has no bucket
	dies     int           // its producer dies at this effect; 0 means it lives
	twin     *errand       // it repeats the key of this one
	impostor bool          // with another payload
	faults   []workersaitest.Fault
	may      []string      // codes with which it may fail; "" means it may complete
	unpaid   int           // faults whose answers are billed but of no use
	delayed  bool          // it may not start at once
	inFlight bool          // its deadline passes while a call is under way
	ttl      time.Duration // from its acceptance to its deadline; 0 means the kind's own
	together []*errand     // accepted by the same call, so that they share a record
	follows  bool          // it is one of those
	deadly   string        // the worker dies that sends it: "api before" or "api after" the call
}

type storeRates struct{ refused, lied, slow float64 }

type storeFate struct {
	refused, lied bool
	slow          time.Duration
}

type networkRates struct{ request, reply, silent float64 }

// event happens to the world or to a node.
type event struct {
	at   time.Duration
	what string
	node int
	long time.Duration
	aim  string
}

func (e event) String() string {
	return fmt.Sprintf("%v %s node %d %v %s", e.at.Round(time.Millisecond), e.what, e.node, e.long.Round(time.Millisecond), e.aim)
}

// chance is a stream of numbers of its own for each purpose, so that one draw more
// here does not change all others.
func (p *plan) chance(purpose string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(purpose))
	return rand.New(rand.NewPCG(p.seed, h.Sum64()))
}

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

func oneOf[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func newPlan(seed uint64) *plan {
	p := &plan{seed: seed, store: map[string]storeRates{}}
	r := p.chance("world")
	all := []tasks.Kind{tasks.KindTranscription, tasks.KindImage, tasks.KindTranslation, tasks.KindEmbedding, tasks.KindText}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	p.kinds = all[:2+r.IntN(2)]
	p.nodes = 1 + r.IntN(3)
	p.span = between(r, 40*time.Second, 100*time.Second)
	p.pace = oneOf(r, 0, 0, 0, 120, 60)
	for _, method := range []string{"put", "create", "get", "head", "delete", "list"} {
		p.store[method] = storeRates{refused: oneOf(r, 0, 0, .05, .3), lied: oneOf(r, 0, 0, .05, .2), slow: oneOf(r, 0, 0, .1)}
	}
	p.network = networkRates{oneOf(r, 0, 0, .002, .01), oneOf(r, 0, 0, .002, .01), oneOf(r, 0, 0, .0005, .002)}
	p.drawEvents()
	p.drawErrands()
	p.drawMoney()
	p.capped = p.chance("caps").IntN(3) == 0
	p.drawFleet()
	p.drawTogether()
	return p
}

func (p *plan) drawEvents() {
	r, wipes := p.chance("events"), p.chance("wipes")
	for range 2 + r.IntN(5) {
		e := event{at: between(r, time.Second, p.span), node: r.IntN(p.nodes)}
		e.what = oneOf(r, "kill", "kill", "kill", "drain", "freeze", "cut off", "redis down", "store down", "wipe", "set back", "refuse")
		switch e.what {
		case "kill":
			e.aim = oneOf(r, "", "", "api before", "api after", "api read", "redis", "store.create result before", "store.create result after",
				"store.put artefact before", "store.put artefact after", "store.delete pending before", "store.delete pending after", "store.head result after")
		case "freeze", "cut off":
			e.long = between(r, time.Second, 70*time.Second)
		case "redis down":
			e.long = between(r, time.Second, 50*time.Second)
		case "store down":
			e.long = between(r, time.Second, 50*time.Second)
		case "set back":
			e.long = between(r, 5*time.Second, 30*time.Second)
		case "wipe":
			e.aim = oneOf(wipes, "", "FLUSHALL")
		case "refuse":
			e.long = between(r, time.Second, 20*time.Second)
			e.aim = oneOf(r, "LOADING Redis is loading the dataset in memory", "OOM command not allowed when used memory > 'maxmemory'.", "READONLY You can't write against a read only replica.")
		}
		p.redisAll = p.redisAll || e.what == "wipe" || e.what == "set back"
		p.events = append(p.events, e)
	}
	slices.SortFunc(p.events, func(a, b event) int { return int(a.at - b.at) })
	if r.IntN(6) == 0 {
		p.startAt = 24*time.Hour - between(r, 10*time.Second, p.span)
		p.general = append(p.general, workersaitest.Fault{Kind: string(p.kinds[0]), From: 3 + r.IntN(10), To: 13, Code: oneOf(r, 4006, 3036)})
		p.general[0].To, p.longer = p.general[0].From, 6*time.Minute
	}
	if r.IntN(4) == 0 {
		from := 2 + r.IntN(10)
		p.general = append(p.general, workersaitest.Fault{Kind: string(oneOf(r, p.kinds...)), From: from, To: from + r.IntN(6), Code: oneOf(r, 3021, 3040, 3040)})
	}
}

func (p *plan) drawErrands() {
	r, deadly, long := p.chance("errands"), p.chance("deadly errands"), p.chance("long errands")
	n := 40 + r.IntN(60)
	for i := range n {
		e := &errand{mark: fmt.Sprintf("q%04dz", i), at: between(r, 0, p.span*9/10), may: []string{""}}
		p.drawPayload(r, e)
		p.drawOptions(r, e)
		p.drawFaults(r, e)
		p.drawLength(long, e)
		if deadly.IntN(80) == 0 {
			e.kills(oneOf(deadly, "api before", "api after"))
			p.longer += 3 * time.Minute
		}
		p.errands = append(p.errands, e)
		if e.key != "" && r.IntN(3) == 0 {
			twin := *e
			twin.twin, twin.faults = e, nil
			twin.at = e.at + between(r, 0, 40*time.Second)
			if r.IntN(4) == 0 {
				twin.impostor, twin.mark, twin.deadly = true, fmt.Sprintf("q%04dw", i), ""
				twin.may = append([]string{""}, e.may...)
				twin.payload = withMark(e.payload, twin.mark)
				twin.options = append(slices.Clone(e.options), tasks.WithMetadata(map[string]string{"sim": twin.mark}))
			}
			p.errands = append(p.errands, &twin)
		}
	}
	slices.SortStableFunc(p.errands, func(a, b *errand) int { return int(a.at - b.at) })
}

// drawTogether draws more errands that a producer enqueues in one call with another.
func (p *plan) drawTogether() {
	r := p.chance("together")
	for _, e := range slices.Clone(p.errands) {
		if e.key != "" || e.boxless || r.IntN(3) > 0 {
			continue
		}
		for range 1 + r.IntN(4) {
			c := &errand{mark: fmt.Sprintf("q%04dz", 5000+len(p.errands)), at: e.at, may: []string{""}, follows: true, dies: e.dies}
			p.drawPayload(r, c)
			c.options = append(c.options, tasks.WithMetadata(map[string]string{"sim": c.mark}), tasks.WithLane(oneOf(r, tasks.Interactive, tasks.Bulk)))
			p.errands, e.together = append(p.errands, c), append(e.together, c)
		}
	}
}

func withMark(payload tasks.Payload, mark string) tasks.Payload {
	switch v := payload.(type) {
	case tasks.Transcription:
		v.InitialPrompt = mark
		return v
	case tasks.Image:
		v.Prompt = mark
		return v
	case tasks.Translation:
		v.Text = mark
		return v
	case tasks.Text:
		v.Prompt = mark
		return v
	}
	return tasks.Embedding{Texts: []string{mark + "-000."}}
}

func (p *plan) drawPayload(r *rand.Rand, e *errand) {
	k := oneOf(r, p.kinds...)
	long := ""
	if r.IntN(15) == 0 {
		long = strings.Repeat(" and so on", 2000) // more than goes through Redis
	}
	switch k {
	case tasks.KindTranscription:
		e.payload = tasks.Transcription{Audio: tasks.Audio{Key: "default/files/f/a.wav"}, InitialPrompt: e.mark}
	case tasks.KindImage:
		e.payload = tasks.Image{Prompt: "a mill " + e.mark, Width: 256, Height: 256}
		e.options = append(e.options, tasks.WithModel("@cf/lykon/dreamshaper-8-lcm"))
	case tasks.KindTranslation:
		e.payload = tasks.Translation{Text: e.mark + " hello world", TargetLang: "es"}
	case tasks.KindText:
		e.payload = tasks.Text{Prompt: "say " + e.mark + long}
	case tasks.KindEmbedding:
		texts := make([]string, oneOf(r, 1, 1, 1, 2, 5, 20, 130))
		for i := range texts {
			texts[i] = fmt.Sprintf("%s-%03d. wind", e.mark, i)
		}
		e.payload = tasks.Embedding{Texts: texts}
	}
}

func (p *plan) drawOptions(r *rand.Rand, e *errand) {
	e.options = append(e.options, tasks.WithMetadata(map[string]string{"sim": e.mark}), tasks.WithLane(oneOf(r, tasks.Interactive, tasks.Bulk)))
	switch r.IntN(12) {
	case 0:
		e.delayed = true
		e.options = append(e.options, tasks.WithDelay(between(r, time.Second, p.span/2)))
	case 1:
		e.ttl = between(r, 5*time.Second, 2*time.Minute)
		e.options = append(e.options, tasks.WithTimeToLive(e.ttl))
		e.may = append(e.may, "deadline_exceeded")
	case 2:
		e.cancel = between(r, 0, 30*time.Second)
		e.may = append(e.may, "cancelled")
	}
	if r.IntN(3) == 0 {
		e.key = "key " + e.mark
		e.options = append(e.options, tasks.WithIdempotencyKey(e.key))
	}
	switch r.IntN(20) {
	case 0:
		e.boxless = true
	case 1, 2:
		e.dies = 1 + r.IntN(8)
	}
}

// drawFaults draws the API's faults for the first calls that hold the errand's mark.
func (p *plan) drawFaults(r *rand.Rand, e *errand) {
	if r.IntN(100) >= 40 {
		return
	}
	nth := 1
	for range 1 + r.IntN(2) {
		f := workersaitest.Fault{Contains: e.mark, From: nth, To: nth}
		nth++
		sort := r.IntN(17)
		if nth > 2 && (sort == 14 || sort == 15) {
			sort = 0 // a call that came before may have done it
		}
		switch sort {
		case 0:
			f.Status, f.Body = http.StatusBadGateway, "<html>bad gateway</html>"
		case 1:
			f.Status, f.Body = http.StatusInternalServerError, "caf\xc3" // cut in the middle of a letter
		case 2:
			f.Code = 3043
		case 3:
			f.Reset = true
		case 4:
			f.Status, f.Body = http.StatusOK, "<html>sign in</html>"
			f.Header = http.Header{"Content-Type": {"text/html"}}
			e.unpaid++
		case 5:
			f.DropAnswer = true
		case 6, 7:
			f.Cut, f.CutAt = true, r.IntN(60)
		case 8:
			f.Hang = true
		case 9, 10, 11:
			f.Delay = between(r, 5*time.Second, 60*time.Second)
		case 12:
			f.Code, f.Header = 3021, http.Header{"Retry-After": {oneOf(r, "1", "3", "soon", "")}}
		case 13:
			f.Code = 3040
		case 14:
			f.Code, f.To = oneOf(r, 5006, 8007), 0
			e.refused()
		case 15:
			f.Status, f.Body, f.To = http.StatusBadRequest, "\xff\xfe no \xc3", 0
			e.refused()
		case 16:
			f.Code = 10000
		}
		e.faults = append(e.faults, f)
		if f.To == 0 {
			return
		}
	}
}

// drawLength makes the calls of a third of the tasks long, so that faults meet them: the
// last fault that matches a call decides nothing, so that it only comes to calls that no
// other fault hits.
func (p *plan) drawLength(r *rand.Rand, e *errand) {
	if r.IntN(3) == 0 {
		e.faults = append(e.faults, workersaitest.Fault{Contains: e.mark, Delay: between(r, 5*time.Second, 45*time.Second)})
	}
}

// refused: every call is. What rides with others may be done all the same, where a fault
// of theirs comes first and decides what becomes of the call.
func (e *errand) refused() {
	if e.payload.Kind() != tasks.KindEmbedding {
		e.may = e.may[1:]
	}
	e.may = append(e.may, "request_refused", "content_flagged")
}

// kills: every worker that sends it dies, as of a library that a payload crashes. It
// ends as poisoned, and so do none of those that were in the same workers.
func (e *errand) kills(at string) {
	e.deadly, e.faults = at, nil
	e.may = slices.DeleteFunc(e.may, func(code string) bool {
		return code == "" || code == tasks.CodeRequestRefused || code == tasks.CodeContentFlagged
	})
	e.may = append(e.may, "poisoned")
}

// deadly says where a call with this body kills its sender; "" means that it does not.
func (p *plan) deadly(body string) string {
	for _, e := range p.errands {
		if e.deadly != "" && strings.Contains(body, e.mark) {
			return e.deadly
		}
	}
	return ""
}

func (p *plan) redisFate(x float64) redistest.Fate {
	n := p.network
	switch {
	case x < n.request:
		return redistest.RequestLost
	case x < n.request+n.reply:
		return redistest.ReplyLost
	case x < n.request+n.reply+n.silent:
		return redistest.ReplySilent
	}
	return redistest.Delivered
}

func (p *plan) storeFate(what, method string) storeFate {
	r := p.chance(what)
	rates, x := p.store[method], r.Float64()
	var f storeFate
	switch {
	case x < rates.refused:
		f.refused = true
	case x < rates.refused+rates.lied:
		f.lied = true
	}
	if r.Float64() < rates.slow {
		f.slow = between(r, 100*time.Millisecond, 8*time.Second)
	}
	return f
}

// String describes the plan, for people.
func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kinds %v of nodes %v, %d nodes, %d errands in %v, pace %d, network %+v, store %+v\n", p.kinds, p.kindsOf, p.nodes, len(p.errands), p.span, p.pace, p.network, p.store)
	for _, e := range p.events {
		fmt.Fprintln(&b, "  ", e)
	}
	for _, f := range p.general {
		fmt.Fprintf(&b, "   API %+v\n", f)
	}
	return b.String()
}
