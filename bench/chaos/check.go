package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// verdict holds the findings of a run.
type verdict struct {
	accepted, unknown, refused int
	ends                       map[string]int // results by status and code
	calls, paid                int
	inStorm                    int // paid calls while faults were injected
	throttled                  int // calls refused with a retry later
	groundless                 groundless
	again                      map[string]int // excused paid calls beyond the first, by reason
	twice                      []string       // the same calls, one entry each
	lost, double, overpaid     []string
	unexplained, litter, wrong []string
	orphans                    []string // checkpoints of ended tasks that only Redis knew; see orphaned
}

// broken reports whether a promise is broken, or more litter is left than allowed.
func (v *verdict) broken(litter int) bool {
	return len(v.lost)+len(v.double)+len(v.overpaid)+len(v.unexplained)+len(v.wrong) > 0 || len(v.litter) > litter
}

// judge checks the invariants from outside the system.
func (r *run) judge(ctx context.Context, o *outside, calls []call, healed time.Time) *verdict {
	v := &verdict{ends: map[string]int{}, again: map[string]int{}, calls: len(calls)}
	v.wrong = append(slices.Clone(r.fleet.wrong), r.front.wrong...)
	byMark := map[string][]tasks.Result{}
	for _, end := range o.ends {
		byMark[end.Metadata["mark"]] = append(byMark[end.Metadata["mark"]], end)
	}
	callsOf := map[string][]call{}
	for _, c := range calls {
		if c.paid() {
			v.paid++
			if c.Start.Before(healed) {
				v.inStorm++
			}
		}
		if c.Code == 3021 {
			v.throttled++
		}
		for _, mark := range marksIn(c.Body) {
			callsOf[mark] = append(callsOf[mark], c)
		}
	}
	for _, order := range r.producer.orders {
		r.judgeOrder(v, order, byMark[order.Mark], callsOf[order.Mark])
		v.groundless.add(r.replay(order.ID, callsOf[order.Mark], healed))
	}
	if n := v.groundless; n.calls == 0 || 50*n.excused > n.calls {
		v.wrong = append(v.wrong, fmt.Sprintf("the excuses are too wide to show anything: %s", n))
	}
	for id, times := range r.front.stored {
		if len(times) > 1 {
			v.double = append(v.double, fmt.Sprintf("the result of %s was stored %d times", id, len(times)))
		}
	}
	for _, check := range []func(context.Context, *verdict, *outside) error{r.judgeObjects, r.judgeKeys} {
		if err := check(ctx, v, o); err != nil {
			v.wrong = append(v.wrong, "check: "+err.Error())
		}
	}
	return v
}

// marksIn returns the distinct marks of the tasks whose input is in a call's body.
func marksIn(body string) []string {
	var marks []string
	for {
		i := strings.Index(body, "zq")
		if i < 0 || len(body) < i+9 {
			slices.Sort(marks)
			return slices.Compact(marks)
		}
		if mark := body[i : i+9]; mark[8] == 'z' {
			marks = append(marks, mark)
		}
		body = body[i+2:]
	}
}

func (r *run) judgeOrder(v *verdict, o *order, ends []tasks.Result, calls []call) {
	name := o.Mark + " " + o.ID
	switch o.Outcome {
	case "accepted":
		v.accepted++
		if len(ends) == 0 && !r.forgotten(o) {
			v.lost = append(v.lost, name)
		}
	case "unknown":
		v.unknown++
	default:
		v.refused++
		if len(calls)+len(ends) > 0 {
			v.wrong = append(v.wrong, name+" was refused, but ran: "+o.Error)
		}
	}
	if o.Outcome == "accepted" && o.Error != "" && strings.HasPrefix(o.Error, "its key") {
		v.double = append(v.double, name+": "+o.Error)
	}
	if len(ends) > 1 {
		v.double = append(v.double, fmt.Sprintf("%s has %d results", name, len(ends)))
	}
	for _, end := range ends {
		v.ends[strings.TrimSpace(string(end.Status)+" "+codeOf(end))]++
		if why := r.unexplained(o, end, calls); why != "" {
			v.unexplained = append(v.unexplained, name+": "+why)
		}
		if end.Status == tasks.Completed {
			if why := wrongAnswer(o, end, calls); why != "" {
				v.wrong = append(v.wrong, name+": "+why)
			}
		}
	}
	r.judgePaid(v, name, taskID(o, ends), calls)
}

// forgotten reports whether a task accepted by Redis alone may be lost: Redis lost memory
// after the task was enqueued.
func (r *run) forgotten(o *order) bool {
	return o.InRedis && r.j.met("redis forgets", -1, o.At, time.Now(), 0)
}

// leaseEnd is how long after the death of its worker a task is in another one's hands.
const leaseEnd = time.Minute

// orphaned reports whether a file beside a result may be a checkpoint that nothing names any
// more, as docs/guarantees.md says: the worker died right after the result, and Redis, which
// alone knew the task, lost it before another worker had it.
func (r *run) orphaned(o *order, end tasks.Result, file string) bool {
	return strings.HasPrefix(file, "answer") && o.InRedis && r.fleet.killed(end.FinishedAt, end.FinishedAt.Add(5*time.Second)) &&
		r.j.met("redis forgets", -1, end.FinishedAt, end.FinishedAt.Add(leaseEnd), 0)
}

// taskID returns the id of an order's task. Where the outcome is unknown, the result
// names it.
func taskID(o *order, ends []tasks.Result) string {
	if o.ID == "" && len(ends) > 0 {
		return ends[0].ID
	}
	return o.ID
}

func codeOf(r tasks.Result) string {
	if r.Error == nil {
		return ""
	}
	return r.Error.Code
}

// unexplained describes a failure without an external reason. It returns "" when a reason
// is found.
func (r *run) unexplained(o *order, end tasks.Result, calls []call) string {
	spec, _ := tasks.SpecOf(o.Kind)
	failed, deaths := 0, 0
	for _, c := range calls {
		lost := r.excuse(c, end.ID, time.Now()) != ""
		if lost || c.Status/100 != 2 && !throttled[c.Code] {
			failed++
		}
		if k := r.fleet.workers[c.Worker].killed; k.After(c.Start) && k.Before(r.heldUntil(c, end.ID)) {
			deaths++
		}
	}
	switch code := codeOf(end); {
	case end.Status == tasks.Completed,
		code == tasks.CodeContentFlagged && o.Bad,
		code == tasks.CodeAnswerUnusable && slices.ContainsFunc(calls, func(c call) bool { return c.Broken }),
		code == tasks.CodeCancelled && o.Cancelled,
		code == tasks.CodeDeadlineExceeded && o.Short,
		code == tasks.CodeAttemptsExhausted && failed >= spec.Attempts,
		code == tasks.CodePoisoned && deaths >= 3:
		return ""
	}
	return fmt.Sprintf("failed as %s after %d calls, %d of which failed and %d killed their worker: %s", codeOf(end), len(calls), failed, deaths, end.Error.Message)
}

// throttled lists the error codes of refusals that do not count as an attempt.
var throttled = map[int]bool{3021: true, 3036: true, 3040: true, 4006: true}

// wrongAnswer compares a result with the emulator's answer to the same input. It returns
// "" when they agree.
func wrongAnswer(o *order, end tasks.Result, calls []call) string {
	switch o.Kind {
	case tasks.KindText, tasks.KindTranslation: // the emulator repeats its input
		if strings.Contains(string(end.Output), o.Mark) {
			return ""
		}
		return "its text is another task's"
	case tasks.KindEmbedding:
		var out tasks.EmbeddingOutput
		if err := json.Unmarshal(end.Output, &out); err != nil || len(out.Vectors) != len(o.texts) {
			return fmt.Sprintf("%d vectors came for %d texts", len(out.Vectors), len(o.texts))
		}
		for i, text := range o.texts {
			if !slices.Equal(out.Vectors[i], workersaitest.Vector(text, out.Dimensions)) {
				return fmt.Sprintf("vector %d is not that of its text", i)
			}
		}
		return ""
	}
	return wrongFile(end, calls)
}

// wrongFile sends the task's input to a fresh emulator, and compares the picture or the
// transcript.
func wrongFile(end tasks.Result, calls []call) string {
	if len(calls) == 0 {
		return "it completed without a call"
	}
	c := calls[0]
	request := httptest.NewRequest(http.MethodPost, "/client/v4/accounts/a/ai/run/"+c.Model, strings.NewReader(c.Body))
	request.Header.Set("Content-Type", c.Type)
	request.Header.Set("Authorization", "Bearer any")
	answer := httptest.NewRecorder()
	workersaitest.New(workersaitest.Options{NoLimits: true}).ServeHTTP(answer, request)
	var in struct {
		Result struct{ Image, Text string }
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &in); err != nil {
		return "the emulator's own answer cannot be read: " + err.Error()
	}
	if end.Kind == tasks.KindTranscription {
		var out tasks.TranscriptionOutput
		if err := json.Unmarshal(end.Output, &out); err != nil || out.Text != in.Result.Text {
			return "its transcript is another task's"
		}
		return ""
	}
	picture, err := base64.StdEncoding.DecodeString(in.Result.Image)
	if sum := sha256.Sum256(picture); err != nil || len(end.Artefacts) != 1 || end.Artefacts[0].SHA256 != hex.EncodeToString(sum[:]) {
		return "its picture is another task's"
	}
	return ""
}

// judgePaid looks for an excuse for each paid call of a task except the last. Calls
// without an excuse are added to the overpaid ones.
func (r *run) judgePaid(v *verdict, name, id string, calls []call) {
	paid := slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return !c.paid() })
	slices.SortFunc(paid, func(a, b call) int { return a.Start.Compare(b.Start) })
	for i := 0; i+1 < len(paid); i++ {
		what := fmt.Sprintf("%s: call by worker %d from %s to %s, again by worker %d at %s, stored at %s", name, paid[i].Worker,
			clock(paid[i].Start), clock(paid[i].End), paid[i+1].Worker, clock(paid[i+1].Start), clock(r.storedAfter(paid[i], id)))
		reason := r.excuse(paid[i], id, paid[i+1].Start)
		if reason == "" {
			v.overpaid = append(v.overpaid, what)
			continue
		}
		v.again[reason]++
		v.twice = append(v.twice, reason+": "+what)
	}
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format("15:04:05.000")
}

// excuse names the fault that made a second paid call at a later time necessary. The
// fault hit this very call, or its worker before the answer was in the bucket. It returns
// "" when there is no such fault.
func (r *run) excuse(c call, id string, next time.Time) string {
	w := r.fleet.workers[c.Worker]
	until := r.heldUntil(c, id)
	if next.Before(until) {
		until = next
	}
	stored := r.storedAfter(c, id)
	switch {
	case c.Broken:
		return "answer broken by the provider"
	case c.Gone && c.End.Sub(c.Start) > specOf(c).Timeout-time.Second:
		return "answer not there within the time limit"
	case !w.frozen.From.IsZero() && w.frozen.From.Before(until) && w.frozen.To.After(c.Start):
		return "worker stopped for longer than its lease"
	case !w.killed.IsZero() && w.killed.Before(until): // also just before its request arrived
		return "worker killed"
	case (stored.IsZero() || stored.After(next)) && r.j.answersLost("worker-provider", w.slot, c.Start, c.End):
		return "answer lost on the way"
	}
	return ""
}

// storedAfter returns when the bucket first accepted a result or a checkpoint of a task
// after the given call began. It is zero when the bucket accepted none. The checkpoint of a
// picture is worth nothing before the picture itself is stored.
func (r *run) storedAfter(c call, id string) time.Time {
	at := firstAfter(r.front.kept[id], c.Start)
	if c.Kind != "image" || at.IsZero() {
		return at
	}
	picture := firstAfter(r.front.files[id], c.Start)
	if picture.IsZero() {
		return picture
	}
	return later(at, picture)
}

func firstAfter(times []time.Time, begin time.Time) time.Time {
	for _, at := range times {
		if at.After(begin) {
			return at
		}
	}
	return time.Time{}
}

// storeWithin is the time a worker has to store a paid answer while the bucket is
// healthy. retryWithin is the longest pause before it repeats a failed write.
const (
	storeWithin = time.Second
	retryWithin = 5 * time.Second
)

// heldUntil returns when a call's answer was in the bucket, or should have been. A worker
// that dies later does not excuse a second call.
func (r *run) heldUntil(c call, id string) time.Time {
	if at := r.storedAfter(c, id); !at.IsZero() {
		return at
	}
	limit := c.End.Add(storeWithin)
	for _, at := range r.front.failed[id] {
		if at.After(c.Start) && at.Before(limit) {
			limit = later(limit, at.Add(retryWithin))
		}
	}
	for _, s := range r.j.on("worker-s3", r.fleet.workers[c.Worker].slot) {
		if s.From.Before(limit) && (s.To.IsZero() || s.To.After(c.End)) {
			limit = later(limit, s.To.Add(retryWithin))
		}
	}
	return limit
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// groundless counts how many second calls without a reason the excuses above would
// accept. Each call is made up and follows a call whose answer arrived and was stored.
type groundless struct{ calls, excused int }

func (g *groundless) add(more groundless) {
	g.calls += more.calls
	g.excused += more.excused
}

func (g groundless) String() string {
	return fmt.Sprintf("%d of %d made-up second calls excused", g.excused, g.calls)
}

// replay makes up second calls after the successful calls of a task during the storm: 1
// to 36 s after an answer that arrived and was stored.
func (r *run) replay(id string, calls []call, healed time.Time) groundless {
	var g groundless
	for _, c := range calls {
		stored := r.storedAfter(c, id)
		if !c.Billed || c.Status != http.StatusOK || c.Broken || c.Gone || c.Start.After(healed) || stored.IsZero() {
			continue
		}
		if slices.ContainsFunc(calls, func(other call) bool { return other.Start.After(c.Start) && other.Start.Before(stored) }) {
			continue // the checkpoint may belong to the other call
		}
		for _, after := range []time.Duration{1, 2, 3, 5, 10, 20, 36} {
			g.calls++
			if r.excuse(c, id, later(c.End, stored).Add(after*time.Second)) != "" {
				g.excused++
			}
		}
	}
	return g
}

func specOf(c call) tasks.Spec {
	spec, _ := tasks.SpecOf(tasks.Kind(c.Kind))
	return spec
}

// judgeObjects checks that every object belongs to a result and has the right content.
func (r *run) judgeObjects(ctx context.Context, v *verdict, o *outside) error {
	forgotten, orders := map[string]bool{}, map[string]*order{}
	for _, order := range r.producer.orders {
		forgotten[order.ID], orders[order.ID] = r.forgotten(order), order
	}
	of := map[string]tasks.Artefact{}
	for _, end := range o.ends {
		for _, a := range end.Artefacts {
			of[a.Key] = a
		}
	}
	for info, err := range o.store.List(ctx, "default/", "") {
		if err != nil {
			return err
		}
		if slices.Contains(r.producer.audio, info.Key) || strings.HasPrefix(info.Key, "default/doctor/") {
			continue // a worker that died during the preflight leaves the second one
		}
		a, named := of[info.Key]
		id, file, _ := strings.Cut(strings.TrimPrefix(info.Key, "default/tasks/"), "/")
		_, ended := o.ends[id]
		dead, _ := strings.CutSuffix(strings.TrimPrefix(info.Key, "default/dead/"), ".json")
		switch {
		case named:
			delete(of, info.Key)
			if why := whole(ctx, o, a); why != "" {
				v.wrong = append(v.wrong, why)
			}
		case ended && (file == "result.json" || file == "task.json" || strings.HasPrefix(file, "input.")):
		case forgotten[id] && (!ended || strings.HasPrefix(file, "input.")): // only Redis knew the task, so its input and its checkpoints cannot be found
		case ended && orders[id] != nil && r.orphaned(orders[id], o.ends[id], file):
			v.orphans = append(v.orphans, info.Key)
		case o.ends[dead].Status == tasks.Failed: // its entry in the list of dead letters
		default:
			v.litter = append(v.litter, info.Key)
		}
	}
	for key := range of {
		v.wrong = append(v.wrong, key+" is named by a result, but is not there")
	}
	return nil
}

func whole(ctx context.Context, o *outside, a tasks.Artefact) string {
	body, err := o.store.Get(ctx, a.Key)
	if err != nil {
		return err.Error()
	}
	defer body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, body)
	if err != nil || n != a.Bytes || hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
		return a.Key + " is not what its result says"
	}
	return ""
}

// judgeKeys checks that Redis keeps only expiring keys of ended tasks.
func (r *run) judgeKeys(ctx context.Context, v *verdict, o *outside) error {
	keys, err := o.endless(ctx)
	for _, key := range keys {
		fields, _ := o.redis.HGetAll(ctx, key).Result() // evidence; other types have none
		v.litter = append(v.litter, fmt.Sprintf("redis %s %q", key, fields))
	}
	return err
}

func (o order) String() string {
	text, err := json.Marshal(o)
	if err != nil {
		return o.Mark
	}
	return string(text)
}
