package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/robfig/cron/v3"
)

// Definition is a schedule as people write it: an item of schedules.yaml, or the body of
// POST /v1/schedules.
type Definition struct {
	Name     string            `json:"name" yaml:"name" maxLength:"64" doc:"1 to 64 letters, digits and _.-"`
	Cron     string            `json:"cron" yaml:"cron" maxLength:"200" doc:"Five fields, or @hourly, @daily, @weekly, @monthly, @yearly."`
	TimeZone string            `json:"time_zone,omitempty" yaml:"time_zone" maxLength:"64" doc:"IANA name such as Europe/Berlin; UTC by default."`
	Kind     tasks.Kind        `json:"kind,omitempty" yaml:"kind" doc:"Kind of the task, or of the lines of a file that are plain text or CSV."`
	Payload  map[string]any    `json:"payload,omitempty" yaml:"payload" doc:"The task's input. Texts may have {{date}}, {{date -1d}}, {{datetime}}, {{slot}} and {{name}}. With a file of plain lines, their other fields."`
	New      *NewObjects       `json:"new,omitempty" yaml:"new" doc:"Transcribe the new recordings under a prefix of the bucket as a batch, instead of one task: each object once."`
	File     *File             `json:"file,omitempty" yaml:"file" doc:"Run the lines of a file in the bucket as a batch, instead of one task."`
	Lane     tasks.Lane        `json:"lane,omitempty" yaml:"lane" enum:"interactive,bulk" doc:"bulk by default."`
	Model    string            `json:"model,omitempty" yaml:"model" maxLength:"200" doc:"Instead of the kind's default model."`
	Deadline string            `json:"deadline,omitempty" yaml:"deadline" maxLength:"20" doc:"A duration after the slot, such as 6h."`
	FinishBy string            `json:"finish_by,omitempty" yaml:"finish_by" maxLength:"5" doc:"Instead of a deadline, a time of day in the time zone such as 06:30: the deadline of a run is the next one after its slot." example:"06:30"`
	Metadata map[string]string `json:"metadata,omitempty" yaml:"metadata" doc:"Copied to the result."`
	Webhook  string            `json:"webhook,omitempty" yaml:"webhook" maxLength:"2048" doc:"https URL that gets a signed request when a run has ended."`

	MaxNeurons float64     `json:"max_neurons,omitzero" yaml:"max_neurons" minimum:"0" maximum:"1000000000000" doc:"Most that a run may cost over all its calls; 0 means no bound."`
	Spend      tasks.Spend `json:"spend,omitempty" yaml:"spend" enum:"free" doc:"free: a run uses what all others leave of the account's free 10,000 neurons of a day, waits for 00:00 UTC when they are spent, and costs nothing."`
	Keep       string      `json:"keep,omitempty" yaml:"keep" maxLength:"20" doc:"Delete the batch of a run with its output so long after its end: 30d. Without it the bucket keeps it."`

	Overlap      Overlap `json:"overlap,omitempty" yaml:"overlap" enum:"queue,skip,cancel" doc:"What happens to a slot while the run before it has not ended: queue puts it into the queue too (default), skip leaves it out, cancel cancels the run before it."`
	Missed       Missed  `json:"missed,omitempty" yaml:"missed" enum:"skip,once,all" doc:"What happens to slots that were missed while no scheduler ran: skip leaves them out, once runs the latest, all runs each."`
	MissedWithin string  `json:"missed_within,omitempty" yaml:"missed_within" maxLength:"20" doc:"Greatest age of a missed slot that once and all still run, up to 744h; 12h by default."`
}

// Overlap says what happens to a slot while the run before it has not ended.
type Overlap string

// The values of Overlap. Empty means OverlapQueue.
const (
	OverlapQueue  Overlap = "queue"  // the new run enters the queue beside the earlier one
	OverlapSkip   Overlap = "skip"   // the slot has no run
	OverlapCancel Overlap = "cancel" // the earlier run is cancelled
)

// Missed says what happens to slots that were missed while no scheduler ran.
type Missed string

// The values of Missed. Empty means MissedOnce for a stored schedule. For one of a file it
// means MissedSkip, or MissedAll with Config.CatchUp.
const (
	MissedSkip Missed = "skip" // none runs
	MissedOnce Missed = "once" // the latest runs
	MissedAll  Missed = "all"  // each runs, in order
)

const (
	// onTime is the most a slot may be late and not count as missed.
	onTime = 5 * time.Minute
	// missedWithin is the default of Definition.MissedWithin, and mostMissed its maximum.
	missedWithin = 12 * time.Hour
	mostMissed   = 31 * 24 * time.Hour
)

// Entry is a schedule that was checked and can run.
type Entry struct {
	Definition
	slots cron.Schedule
	zone  *time.Location
	ttl   time.Duration // from the slot on; 0 means the kind's maximum age
	by    time.Time     // its hour and minute are FinishBy; zero when there is none
	reach time.Duration // greatest age of a missed slot that still runs
	since time.Time     // slots up to then have no run; zero means that the start of the scheduler decides
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// problems collects the faults of a definition.
type problems tasks.ValidationError

func (p *problems) add(field, format string, args ...any) {
	*p = append(*p, tasks.Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Check checks a definition. Its error is a tasks.ValidationError with all problems.
func (d Definition) Check() (Entry, error) {
	var p problems
	e := Entry{Definition: d, zone: time.UTC}
	if !goodName.MatchString(d.Name) {
		p.add("name", "wants 1 to 64 letters, digits and _.-")
	}
	if z, err := zone(d.TimeZone); err != nil {
		p.add("time_zone", "%v", err)
	} else {
		e.zone = z
	}
	s, err := slots(d.Cron, e.zone)
	if err != nil {
		p.add("cron", "%v", err)
	}
	e.slots = s
	e.ttl = p.duration("deadline", d.Deadline, 0)
	p.finishBy(&e)
	p.policies(&e)
	if e.Lane == "" {
		e.Lane = tasks.Bulk
	}
	p.work(e)
	if len(p) > 0 {
		return e, tasks.ValidationError(p)
	}
	return e, nil
}

// duration reads a duration; an empty text means the default.
func (p *problems) duration(field, text string, byDefault time.Duration) time.Duration {
	if text == "" {
		return byDefault
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		p.add(field, "is no duration like 6h")
	}
	return d
}

// finishBy reads the time of day by which a run ends.
func (p *problems) finishBy(e *Entry) {
	if e.FinishBy == "" {
		return
	}
	at, err := time.Parse("15:04", e.FinishBy)
	switch {
	case err != nil:
		p.add("finish_by", "is no time of day like 06:30")
	case e.Deadline != "":
		p.add("finish_by", "is instead of a deadline: leave one of them out")
	}
	e.by = at.AddDate(2, 0, 0) // midnight is not the zero time
}

// deadline returns by when the run of a slot must have ended; zero when there is no such time.
func (e Entry) deadline(slot time.Time) time.Time {
	switch {
	case e.ttl > 0:
		return slot.Add(e.ttl)
	case e.by.IsZero():
		return time.Time{}
	}
	local := slot.In(e.zone)
	at := time.Date(local.Year(), local.Month(), local.Day(), e.by.Hour(), e.by.Minute(), 0, 0, e.zone)
	if !at.After(slot) {
		at = time.Date(local.Year(), local.Month(), local.Day()+1, e.by.Hour(), e.by.Minute(), 0, 0, e.zone)
	}
	return at
}

// EndsBy returns by when the run of a slot must have ended; zero when there is no such time, or
// the definition is not valid.
func (d Definition) EndsBy(slot time.Time) time.Time {
	e, err := d.Check()
	if err != nil {
		return time.Time{}
	}
	return e.deadline(slot)
}

// policies checks what happens on overlap and to missed slots, and sets the reach.
func (p *problems) policies(e *Entry) {
	if !slices.Contains([]Overlap{"", OverlapQueue, OverlapSkip, OverlapCancel}, e.Overlap) {
		p.add("overlap", "is none of queue, skip, cancel")
	}
	if !slices.Contains([]Missed{"", MissedSkip, MissedOnce, MissedAll}, e.Missed) {
		p.add("missed", "is none of skip, once, all")
	}
	e.reach = p.duration("missed_within", e.MissedWithin, missedWithin)
	if e.reach > mostMissed {
		p.add("missed_within", "is more than 744h")
	}
	if e.Missed == MissedSkip {
		if e.MissedWithin != "" {
			p.add("missed_within", "has no effect with missed: skip")
		}
		e.reach = onTime
	}
	e.reach = max(e.reach, onTime)
}

// work checks the task of a slot, its file, or its prefix of new objects.
func (p *problems) work(e Entry) {
	if n := e.MaxNeurons; !(n >= 0 && n <= 1e12) {
		p.add("max_neurons", "is out of range, 0 to 1e12")
		e.MaxNeurons = 0
	}
	if e.Spend != "" && e.Spend != tasks.SpendFree {
		p.add("spend", "is not free")
		e.Spend = ""
	}
	if err := new(batch.MaxAge).UnmarshalText([]byte(e.Keep)); err != nil {
		p.add("keep", "%v", err)
	}
	if e.Keep != "" && e.File == nil && e.New == nil {
		p.add("keep", "is for the batch of a file or of new objects")
	}
	switch {
	case e.File != nil && e.New != nil:
		p.add("new", "is instead of a file: leave one of them out")
		return
	case e.File != nil:
		p.file(e)
		return
	case e.New != nil:
		p.fresh(e)
		return
	}
	if e.Lane != tasks.Bulk && e.Lane != tasks.Interactive {
		p.add("lane", "is neither interactive nor bulk")
		e.Lane = tasks.Bulk
	}
	payload, err := e.payload(time.Now())
	if err == nil {
		err = tasks.Check(payload, e.options()...)
	}
	p.payload(err)
}

// payload adds the faults of a payload and its options.
func (p *problems) payload(err error) {
	invalid, ok := errors.AsType[tasks.ValidationError](err)
	switch {
	case ok:
		for _, one := range invalid {
			first, _, _ := strings.Cut(one.Field, ".")
			if !slices.Contains([]string{"kind", "model", "metadata", "webhook", "max_neurons"}, first) {
				one.Field = strings.TrimSuffix("payload."+one.Field, ".")
			}
			*p = append(*p, one)
		}
	case err != nil:
		p.add("payload", "%v", err)
	}
}

// payload returns the payload of a slot.
func (e Entry) payload(slot time.Time) (tasks.Payload, error) {
	filled, err := e.fill(e.Payload, slot)
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(filled)
	if err != nil {
		return nil, fmt.Errorf("encode the payload: %w", err)
	}
	return tasks.Parse(e.Kind, encoded)
}

// options returns the options that all slots have in common.
func (e Entry) options() []tasks.Option {
	return []tasks.Option{tasks.WithLane(e.Lane), tasks.WithModel(e.Model), tasks.WithMetadata(e.Metadata), tasks.WithWebhook(e.Webhook), tasks.WithMaxNeurons(e.MaxNeurons), tasks.WithSpend(e.Spend)}
}

// zone finds a time zone by its name; a path is refused.
func zone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" || strings.Contains(name, "..") {
		return nil, fmt.Errorf("there is no time zone %q", name)
	}
	return z, nil
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

func slots(spec string, z *time.Location) (cron.Schedule, error) {
	if strings.HasPrefix(strings.TrimSpace(spec), "@every") || strings.Contains(spec, "TZ=") {
		return nil, errors.New("takes five fields or @daily and its like; a time zone goes into time_zone")
	}
	s, err := parser.Parse(spec)
	if err != nil {
		return nil, err
	}
	if s.Next(time.Now().In(z)).IsZero() {
		return nil, errors.New("never comes")
	}
	return s, nil
}
