package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/tasks"
)

type scheduleCmd struct {
	Add     scheduleAddCmd     `cmd:"" help:"Store a schedule."`
	List    scheduleListCmd    `cmd:"" help:"List the schedules with their last and next runs."`
	Show    scheduleShowCmd    `cmd:"" help:"Print a schedule as JSON."`
	Next    scheduleNextCmd    `cmd:"" help:"Print the runs that come next."`
	History scheduleHistoryCmd `cmd:"" help:"Print the latest runs of a schedule: outcome and cost."`
	Pause   schedulePauseCmd   `cmd:"" help:"Stop a schedule from firing."`
	Resume  scheduleResumeCmd  `cmd:"" help:"Let a paused schedule fire again."`
	Run     scheduleRunCmd     `cmd:"" help:"Fire a schedule now."`
	Remove  scheduleRemoveCmd  `cmd:"" help:"Remove a schedule."`
}

// Help is shown by --help.
func (scheduleCmd) Help() string {
	return examples(
		`neuronmill schedule add report text "News of {{date}}" --cron "0 2 * * *"`,
		"neuronmill schedule list",
		"neuronmill schedule history report",
	) + `
Schedules are kept in the bucket. neuronmill scheduler, serve and dev run them, and follow changes within seconds.`
}

// stored opens the stack for a command about stored schedules.
func storedSchedules(g *globals, do func(*schedule.Stored) error) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	err = do(schedule.NewStored(schedule.StoredConfig{Client: stack.Client, Store: stack.Store, Redis: stack.Redis.UniversalClient, Log: g.log}))
	if errors.Is(err, schedule.ErrNotFound) {
		return errors.New("there is no such schedule; neuronmill schedule list shows all")
	}
	return err
}

type scheduleAddCmd struct {
	Name         string            `arg:"" help:"1 to 64 letters, digits and _.-"`
	Kind         tasks.Kind        `arg:"" optional:"" help:"transcription, image, translation, embedding or text; left out with a --file of native lines."`
	Input        string            `arg:"" optional:"" help:"The payload's main field: text, prompt, or the URL of audio."`
	Cron         string            `required:"" placeholder:"CRON" help:"Five fields, or @hourly, @daily, @weekly, @monthly."`
	TimeZone     string            `placeholder:"ZONE" help:"IANA name such as Europe/Berlin; UTC when left out."`
	Payload      string            `placeholder:"JSON" help:"A whole payload, instead of INPUT."`
	With         map[string]string `placeholder:"FIELD=VALUE" mapsep:"," help:"Other payload fields: --with target_lang=es. A value that is JSON is taken as it is."`
	File         string            `placeholder:"KEY" help:"Run the lines of this object in the bucket as a batch: in/... or files/... of the tenant's folder, with {{date}} and its like. Lines as for neuronmill batch; with KIND plain text or CSV."`
	New          string            `placeholder:"PREFIX" help:"Transcribe the new recordings of the bucket under this prefix of the tenant's folder, in/... or files/..., as a batch: each once. For KIND transcription, without INPUT."`
	Column       string            `placeholder:"NAME" help:"The --file is CSV with a header; this column is the input."`
	IDColumn     string            `name:"id-column" placeholder:"NAME" help:"The column with the ids."`
	SkipInvalid  bool              `help:"Run the valid lines of a --file that has others."`
	CallEach     bool              `help:"Call every line of the --file. Otherwise lines with equal kind, model and input are called once."`
	Reuse        string            `placeholder:"90d" help:"For a --file: take results that are no older from earlier batches, at no cost, where model and input are equal."`
	MaxNeurons   float64           `placeholder:"N" help:"Most that a run may cost; it ends before a call that might cost more."`
	Spend        tasks.Spend       `placeholder:"free" enum:",free" default:"" help:"free: use what all others leave of the free 10,000 neurons of a day, and wait for 00:00 UTC when they are spent."`
	Keep         batch.MaxAge      `placeholder:"30d" help:"For --file and --new: delete a batch with its output so long after its end."`
	AutoStop     string            `placeholder:"LIMIT" help:"End a batch once too many of its lines have failed: \"failed>5%%\"."`
	Model        string            `placeholder:"ID" help:"Which model; see neuronmill models."`
	Lane         tasks.Lane        `placeholder:"LANE" help:"interactive or bulk; bulk when left out."`
	Deadline     time.Duration     `placeholder:"6h" help:"Give a run up so long after its slot."`
	FinishBy     string            `placeholder:"06:30" help:"Give a run up at this time of day in the time zone."`
	Metadata     map[string]string `placeholder:"K=V" mapsep:"," help:"Words of yours that come back in the result."`
	Webhook      string            `placeholder:"URL" help:"Gets a signed request when a run has ended; https."`
	Overlap      schedule.Overlap  `placeholder:"POLICY" help:"While the run before has not ended: queue (default) enqueues the next one too, skip leaves it out, cancel cancels the run before."`
	Missed       schedule.Missed   `placeholder:"POLICY" help:"Slots missed while no scheduler ran: once (default) runs the latest, all runs each, skip none."`
	MissedWithin time.Duration     `placeholder:"12h" help:"Greatest age of a missed slot that still runs; 12h by default."`
}

// Help is shown by --help.
func (scheduleAddCmd) Help() string {
	return examples(
		`neuronmill schedule add report text "News of {{date}}" --cron "0 2 * * *"`,
		`neuronmill schedule add report text "Sum up" --cron @daily --overlap skip`,
		`neuronmill schedule add hi text Hello --with max_tokens=9 --cron @daily`,
		`neuronmill schedule add night --file in/rows.jsonl --cron @daily --reuse 90d`,
		`neuronmill schedule add calls transcription --new in/calls/ --cron @daily`,
	) + `
Texts of the payload may have {{date}}, {{date -1d}} and {{datetime}} of the slot in the time zone, {{slot}} in UTC, and {{name}}. A schedule cannot be changed: remove it and add it again.`
}

// Run stores a schedule.
func (c *scheduleAddCmd) Run(g *globals) error {
	payload, err := c.payload()
	if err != nil {
		return app.Usage(err)
	}
	d := schedule.Definition{
		Name: c.Name, Cron: c.Cron, TimeZone: c.TimeZone, Kind: c.Kind, Payload: payload, Lane: c.Lane, Model: wholeModel(c.Model),
		Deadline: durationText(c.Deadline), FinishBy: c.FinishBy, MaxNeurons: c.MaxNeurons, Spend: c.Spend, Metadata: c.Metadata, Webhook: c.Webhook,
		Overlap: c.Overlap, Missed: c.Missed, MissedWithin: durationText(c.MissedWithin),
	}
	keep, _ := c.Keep.MarshalText() // it has no error
	d.Keep = string(keep)
	if d.File, err = c.file(); err != nil {
		return app.Usage(err)
	}
	if c.New != "" {
		d.New = &schedule.NewObjects{Prefix: c.New}
	}
	if _, err := d.Check(); err != nil {
		return app.Usage(err)
	}
	return storedSchedules(g, func(s *schedule.Stored) error {
		added, err := s.Add(g.ctx, d)
		if errors.Is(err, schedule.ErrExists) {
			return fmt.Errorf("there is a schedule %s: remove it first with neuronmill schedule remove %s", c.Name, c.Name)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(g.stdout, "%s fires next at %s, where neuronmill scheduler, serve or dev runs\n", c.Name, added.Next.Format(time.RFC3339))
		return err
	})
}

// file returns the file of the flags; nil when there is none.
func (c *scheduleAddCmd) file() (*schedule.File, error) {
	f := schedule.File{Key: c.File, Column: c.Column, IDColumn: c.IDColumn, SkipInvalid: c.SkipInvalid, CallEach: c.CallEach, Reuse: c.Reuse, AutoStop: c.AutoStop}
	switch {
	case c.File == "" && f != (schedule.File{}):
		return nil, errors.New("--column, --id-column, --skip-invalid, --call-each, --reuse and --auto-stop are for a --file")
	case c.File == "" && c.Kind == "":
		return nil, errors.New("give the KIND of the task, or a --file")
	case c.File != "" && c.Input != "":
		return nil, errors.New("the lines of a --file are the input: leave INPUT out")
	case c.File == "":
		return nil, nil
	}
	return &f, nil
}

// payload makes the payload of the arguments.
func (c *scheduleAddCmd) payload() (map[string]any, error) {
	payload := map[string]any{}
	switch {
	case c.Payload != "" && (c.Input != "" || len(c.With) > 0):
		return nil, errors.New("--payload is the whole payload: leave INPUT and --with out")
	case c.Payload != "":
		if err := json.Unmarshal([]byte(c.Payload), &payload); err != nil {
			return nil, fmt.Errorf("--payload is not a JSON object: %w", err)
		}
		return payload, nil
	}
	for name, value := range c.With {
		var decoded any = value
		if json.Valid([]byte(value)) {
			_ = json.Unmarshal([]byte(value), &decoded) // it is valid
		}
		payload[name] = decoded
	}
	if spec, ok := tasks.SpecOf(c.Kind); ok && c.Input != "" {
		payload[spec.Field] = c.Input
		switch c.Kind {
		case tasks.KindEmbedding:
			payload[spec.Field] = []any{c.Input}
		case tasks.KindTranscription:
			source := "key"
			if isURL(c.Input) {
				source = "url"
			}
			payload[spec.Field] = map[string]any{source: c.Input}
		}
	}
	return payload, nil
}

// durationText returns a duration as definitions have it; empty for zero.
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

type scheduleListCmd struct {
	JSON bool `name:"json" help:"Print the schedules as JSON, one per line."`
}

// Help is shown by --help.
func (scheduleListCmd) Help() string {
	return examples("neuronmill schedule list", "neuronmill schedule list --json")
}

// Run lists schedules.
func (c *scheduleListCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		all, err := s.List(g.ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			encoder := json.NewEncoder(g.stdout)
			for _, one := range all {
				if err := encoder.Encode(one); err != nil {
					return err
				}
			}
			return nil
		}
		t := newTable(column{name: "NAME", least: 8}, column{name: "CRON", least: 9}, column{name: "LAST RUN", shorten: shortTimes},
			column{name: "STATUS", least: 7}, column{name: "NEXT RUN", shorten: shortComing})
		for _, one := range all {
			last, status, next := "", "", "paused"
			if one.Last != nil {
				last, status = one.Last.Slot.Format(time.RFC3339), string(one.Last.Status)
			}
			if !one.Paused {
				next = one.Next.Format(time.RFC3339)
			}
			t.add(one.Name, one.Cron, last, status, next)
		}
		if err := t.print(g.stdout); err != nil {
			return err
		}
		return c.warn(g, s, all)
	})
}

// warn names the schedules whose last run had calls for a longer time than it had.
func (c *scheduleListCmd) warn(g *globals, s *schedule.Stored, all []*schedule.Schedule) error {
	for _, one := range all {
		if one.Last == nil || one.Last.Batch == "" {
			continue
		}
		by := one.EndsBy(one.Last.Slot)
		if by.IsZero() {
			continue
		}
		d, err := s.Batches().Get(g.ctx, one.Last.Batch)
		if errors.Is(err, batch.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if took := longest(g, d.Demands); one.Last.Slot.Add(took).After(by) {
			fmt.Fprintf(g.stderr, "neuronmill: %s: its last run had calls for %s, and %s until its end at %s\n", one.Name, took.Round(time.Minute), by.Sub(one.Last.Slot), by.Format("15:04"))
		}
	}
	return nil
}

// shortComing replaces RFC 3339 times by how far they are ahead.
func shortComing(cells []string) {
	for i, cell := range cells {
		if at, err := time.Parse(time.RFC3339, cell); err == nil {
			cells[i] = "in " + age(time.Until(at))
		}
	}
}

// scheduleArg is the name of a schedule.
type scheduleArg struct {
	Name string `arg:"" help:"Of the schedule."`
}

type scheduleShowCmd struct{ scheduleArg }

// Help is shown by --help.
func (scheduleShowCmd) Help() string { return examples("neuronmill schedule show report") }

// Run prints a schedule.
func (c *scheduleShowCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		found, err := s.Get(g.ctx, c.Name)
		if err != nil {
			return err
		}
		encoder := json.NewEncoder(g.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	})
}

type scheduleNextCmd struct {
	Name  string `arg:"" optional:"" help:"Of the schedule; all when left out."`
	Limit int    `default:"10" help:"How many."`
}

// Help is shown by --help.
func (scheduleNextCmd) Help() string {
	return examples("neuronmill schedule next", "neuronmill schedule next report --limit 30") + `
Times are in the time zone of each schedule. Paused schedules are left out.`
}

// Run prints the next slots.
func (c *scheduleNextCmd) Run(g *globals) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return app.Usage(errors.New("--limit wants a number from 1 to 10000"))
	}
	return storedSchedules(g, func(s *schedule.Stored) error {
		slots, err := s.Next(g.ctx, c.Name, c.Limit)
		if err != nil {
			return err
		}
		return printSlots(g, slots)
	})
}

// printSlots prints slots that come.
func printSlots(g *globals, slots []schedule.Slot) error {
	t := newTable(column{name: "AT"}, column{name: "SCHEDULE", least: 8}, column{name: "KIND"}, column{name: "ZONE", least: 3})
	for _, s := range slots {
		t.add(s.At.Format(time.RFC3339), s.Name, s.Kind, s.Zone)
	}
	return t.print(g.stdout)
}

type scheduleHistoryCmd struct {
	scheduleArg
	Limit int  `default:"20" help:"At most so many, up to 100."`
	JSON  bool `name:"json" help:"Print the runs as JSON, one per line."`
}

// Help is shown by --help.
func (scheduleHistoryCmd) Help() string {
	return examples("neuronmill schedule history report", "neuronmill schedule history report --limit 100 --json") + `
The latest 100 runs of a schedule are kept, also when the schedule is removed.`
}

// Run prints runs.
func (c *scheduleHistoryCmd) Run(g *globals) error {
	if c.Limit < 1 || c.Limit > schedule.KeptRuns {
		return app.Usage(fmt.Errorf("--limit wants a number from 1 to %d", schedule.KeptRuns))
	}
	return storedSchedules(g, func(s *schedule.Stored) error {
		runs, err := s.History(g.ctx, c.Name, c.Limit)
		if err == nil && len(runs) == 0 {
			_, err = s.Get(g.ctx, c.Name)
		}
		if err != nil {
			return err
		}
		encoder := json.NewEncoder(g.stdout)
		t := newTable(column{name: "SLOT"}, column{name: "STATUS"}, column{name: "NEURONS"}, column{name: "WORK", shorten: shortIDs}, column{name: "REASON", least: 8})
		for _, r := range runs {
			if c.JSON {
				if err := encoder.Encode(r); err != nil {
					return err
				}
				continue
			}
			reason := r.Reason
			if r.Manual {
				reason = strings.TrimSpace("by hand " + reason)
			}
			t.add(r.Slot.Format(time.RFC3339), r.Status, fmt.Sprintf("%.2f", r.Neurons), cmp.Or(r.Task, r.Batch), reason)
		}
		if c.JSON {
			return nil
		}
		return t.print(g.stdout)
	})
}

type schedulePauseCmd struct{ scheduleArg }

// Help is shown by --help.
func (schedulePauseCmd) Help() string {
	return examples("neuronmill schedule pause report") + `
Runs that have begun go on.`
}

// Run pauses a schedule.
func (c *schedulePauseCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		if err := s.Pause(g.ctx, c.Name); err != nil {
			return err
		}
		_, err := fmt.Fprintf(g.stdout, "%s is paused; neuronmill schedule resume %s ends that\n", c.Name, c.Name)
		return err
	})
}

type scheduleResumeCmd struct{ scheduleArg }

// Help is shown by --help.
func (scheduleResumeCmd) Help() string {
	return examples("neuronmill schedule resume report") + `
Slots of the meantime are not made up for.`
}

// Run resumes a schedule.
func (c *scheduleResumeCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		if err := s.Resume(g.ctx, c.Name); err != nil {
			return err
		}
		found, err := s.Get(g.ctx, c.Name)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(g.stdout, "%s fires next at %s\n", c.Name, found.Next.Format(time.RFC3339))
		return err
	})
}

type scheduleRunCmd struct{ scheduleArg }

// Help is shown by --help.
func (scheduleRunCmd) Help() string {
	return examples("neuronmill schedule run report") + `
Also a paused schedule. The work is enqueued before the command ends, and its id is printed.`
}

// Run fires a schedule.
func (c *scheduleRunCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		r, err := s.RunNow(g.ctx, c.Name)
		switch {
		case err != nil:
			return err
		case r.Status == schedule.Skipped || r.Status == schedule.Refused:
			return fmt.Errorf("%s: %s", r.Status, r.Reason)
		}
		_, err = fmt.Fprintln(g.stdout, cmp.Or(r.Task, r.Batch))
		return err
	})
}

type scheduleRemoveCmd struct{ scheduleArg }

// Help is shown by --help.
func (scheduleRemoveCmd) Help() string {
	return examples("neuronmill schedule remove report") + `
Runs that have begun go on, and the history stays.`
}

// Run removes a schedule.
func (c *scheduleRemoveCmd) Run(g *globals) error {
	return storedSchedules(g, func(s *schedule.Stored) error {
		if err := s.Remove(g.ctx, c.Name); err != nil {
			return err
		}
		_, err := fmt.Fprintln(g.stdout, c.Name, "is removed")
		return err
	})
}
