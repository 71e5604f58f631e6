package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// verdict is what was found after a run.
type verdict struct {
	accepted, unknown, refused int
	ends                       map[string]int // results by status and code
	calls, paid                int
	again                      map[string]int // paid calls beyond the first that are allowed, by reason
	twice                      []string       // the same, each
	lost, double, overpaid     []string
	unexplained, litter, wrong []string
}

// broken reports whether a promise is, or more is left behind than may be.
func (v *verdict) broken(litter int) bool {
	return len(v.lost)+len(v.double)+len(v.overpaid)+len(v.unexplained)+len(v.wrong) > 0 || len(v.litter) > litter
}

// judge checks the invariants from outside.
func (r *run) judge(ctx context.Context, o *outside, calls []call) *verdict {
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
		}
		for _, mark := range marksIn(c.Body) {
			callsOf[mark] = append(callsOf[mark], c)
		}
	}
	for _, order := range r.producer.orders {
		r.judgeOrder(v, order, byMark[order.Mark], callsOf[order.Mark])
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

// marksIn are the marks of the tasks whose input is in a call's body, each once.
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
		if len(ends) == 0 {
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
		if end.Status == tasks.Completed && !rightAnswer(o, end) {
			v.wrong = append(v.wrong, name+" has another task's answer")
		}
	}
	r.judgePaid(v, name, calls, ends)
}

func codeOf(r tasks.Result) string {
	if r.Error == nil {
		return ""
	}
	return r.Error.Code
}

// unexplained says why a failure has no reason that lies outside; empty when it has.
func (r *run) unexplained(o *order, end tasks.Result, calls []call) string {
	spec, _ := tasks.SpecOf(o.Kind)
	deaths := 0
	for _, w := range r.fleet.workers {
		if w.killed.After(o.At) && w.killed.Before(end.FinishedAt) {
			deaths++
		}
	}
	switch code := codeOf(end); {
	case end.Status == tasks.Completed,
		code == "request_refused" && o.Bad,
		code == "cancelled" && o.Cancelled,
		code == "deadline_exceeded" && o.Short,
		code == "attempts_exhausted" && len(calls) >= spec.Attempts,
		code == "poisoned" && deaths >= 3:
		return ""
	}
	return fmt.Sprintf("failed as %s after %d calls: %s", codeOf(end), len(calls), end.Error.Message)
}

// rightAnswer reports whether an answer is this task's: the emulator's texts repeat
// what was asked.
func rightAnswer(o *order, end tasks.Result) bool {
	switch o.Kind {
	case tasks.KindText, tasks.KindTranslation:
		return strings.Contains(string(end.Output), o.Mark)
	}
	return len(end.Output) > 0
}

// judgePaid finds a reason for each paid call of a task but the last, and adds what has
// none to the overpaid.
func (r *run) judgePaid(v *verdict, name string, calls []call, ends []tasks.Result) {
	paid := slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return !c.paid() })
	slices.SortFunc(paid, func(a, b call) int { return a.Start.Compare(b.Start) })
	var stored time.Time
	for _, end := range ends {
		if times := r.front.stored[end.ID]; len(times) > 0 {
			stored = times[0]
		}
	}
	for i := 0; i+1 < len(paid); i++ {
		what := fmt.Sprintf("%s: call by worker %d from %s to %s, again by worker %d at %s, stored at %s", name, paid[i].Worker,
			clock(paid[i].Start), clock(paid[i].End), paid[i+1].Worker, clock(paid[i+1].Start), clock(stored))
		reason := r.reason(paid[i], paid[i+1], stored)
		if reason == "" {
			v.overpaid = append(v.overpaid, what)
			continue
		}
		v.again[reason]++
		v.twice = append(v.twice, reason+": "+what)
	}
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// reason says why a call had to be paid for again: what happened to it, or to its
// worker, between its sending and the next call or the storing of its result.
func (r *run) reason(c, next call, stored time.Time) string {
	w := r.fleet.workers[c.Worker]
	until := next.Start
	if !stored.IsZero() && stored.Before(until) {
		until = stored
	}
	within := func(t time.Time) bool {
		return !t.IsZero() && t.After(c.Start) && t.Before(until.Add(50*time.Millisecond))
	}
	switch {
	case c.Broken:
		return "answer broken by the provider"
	case c.Gone && c.End.Sub(c.Start) > specOf(c).Timeout-time.Second:
		return "answer not there within the time limit"
	case within(w.killed):
		return "worker killed"
	case r.j.answersLost("worker-provider", w.slot, c.Start, c.End):
		return "answer lost on the way"
	case !w.frozen.From.IsZero() && w.frozen.From.Before(until) && w.frozen.To.After(c.Start):
		return "worker stopped for longer than its lease"
	case r.j.met("redis forgets", -1, c.Start, until, 0):
		return "Redis forgot that it ran"
	}
	return ""
}

func specOf(c call) tasks.Spec {
	spec, _ := tasks.SpecOf(tasks.Kind(c.Kind))
	return spec
}

// judgeObjects checks that every object belongs to a result and is what it says.
func (r *run) judgeObjects(ctx context.Context, v *verdict, o *outside) error {
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
		if info.Key == r.producer.audio || info.Key == "default/doctor/create-only" {
			continue // the second is left by a worker that died while it tried the bucket
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
		case ended && (file == "result.json" || file == "task.json" || file == "input.json"):
		case o.ends[dead].Status == tasks.Failed: // its mark in the list of failures
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

// judgeKeys checks that Redis holds nothing of tasks that have ended but what expires.
func (r *run) judgeKeys(ctx context.Context, v *verdict, o *outside) error {
	keys := o.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		ofTask := strings.Contains(key, "}:t:") || strings.HasPrefix(key, "neuronmill:task:") || strings.HasPrefix(key, "neuronmill:parked:")
		if !ofTask {
			continue
		}
		ttl, err := o.redis.TTL(ctx, key).Result()
		if err != nil {
			return err
		}
		if ttl < 0 {
			v.litter = append(v.litter, "redis "+key)
		}
	}
	return keys.Err()
}

func (o order) String() string {
	text, err := json.Marshal(o)
	if err != nil {
		return o.Mark
	}
	return string(text)
}
