package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// File is a file in the bucket whose lines a slot runs as a batch. The lines are native
// ones, or with the definition's kind plain text or CSV; then its payload has the other
// fields of each line.
type File struct {
	Key         string  `json:"key" yaml:"key" maxLength:"900" doc:"Of the object in the tenant's folder: in/... or files/...; may have {{date}} and its like. May end in .gz or .zst."`
	Column      string  `json:"column,omitempty" yaml:"column" maxLength:"200" doc:"The file is CSV with a header; this column is the input."`
	IDColumn    string  `json:"id_column,omitempty" yaml:"id_column" maxLength:"200" doc:"The column with the ids; the numbers of the lines when left out."`
	SkipInvalid bool    `json:"skip_invalid,omitempty" yaml:"skip_invalid" doc:"Run the valid lines of a file that has others."`
	CallEach    bool    `json:"call_each,omitempty" yaml:"call_each" doc:"Call every line. Otherwise lines with equal kind, model and input are called once."`
	Reuse       string  `json:"reuse,omitempty" yaml:"reuse" maxLength:"20" doc:"Take results that are no older from earlier batches, at no cost, where model and input are equal: 90d."`
	MaxNeurons  float64 `json:"max_neurons,omitempty" yaml:"max_neurons" minimum:"0" maximum:"1000000000000" doc:"Most that a batch may cost; it stops before a call that might cost more. 0 means no bound."`
	AutoStop    string  `json:"auto_stop,omitempty" yaml:"auto_stop" maxLength:"40" doc:"End a batch once too many of its lines have failed: failed>5%."`
}

// folders are the parts of a tenant's folder that files may lie in: the rest of the bucket
// is neuronmill's own.
var folders = []string{"in/", "files/"}

// file checks the file of a definition.
func (p *problems) file(e Entry) {
	p.onlyBulk(e)
	key, err := e.fillText(e.File.Key, time.Now())
	if err != nil {
		p.add("file.key", "%v", err)
	}
	p.inFolder("file.key", key)
	if _, err := e.fileForm(time.Now(), key); err != nil {
		invalid, _ := errors.AsType[tasks.ValidationError](err)
		for _, one := range invalid {
			if one.Field != "kind" {
				one.Field = "file." + one.Field
			}
			*p = append(*p, one)
		}
		if invalid == nil {
			p.add("payload", "%v", err)
		}
	}
	if err := new(batch.MaxAge).UnmarshalText([]byte(e.File.Reuse)); err != nil {
		p.add("file.reuse", "%v", err)
	}
	if e.File.Reuse != "" && e.File.CallEach {
		p.add("file.reuse", "excludes call_each: a stored result would be that of all equal lines")
	}
	if n := e.File.MaxNeurons; !(n >= 0 && n <= 1e12) {
		p.add("file.max_neurons", "is out of range, 0 to 1e12")
	}
	if e.File.MaxNeurons > 0 && e.MaxNeurons > 0 {
		p.add("file.max_neurons", "is the same as max_neurons: leave one of them out")
	}
	if err := new(batch.AutoStop).UnmarshalText([]byte(e.File.AutoStop)); err != nil {
		p.add("file.auto_stop", "%v", err)
	}
}

// onlyBulk refuses the settings of a task that a batch does not have.
func (p *problems) onlyBulk(e Entry) {
	for field, value := range map[string]string{"webhook": e.Webhook, "lane": string(e.Lane)} {
		if value != "" && value != string(tasks.Bulk) {
			p.add(field, "is not for a batch: its lines run in the lane bulk")
		}
	}
}

// inFolder checks a key or a prefix in the tenant's folder.
func (p *problems) inFolder(field, key string) {
	if !strings.HasPrefix(key, folders[0]) && !strings.HasPrefix(key, folders[1]) || strings.Contains(key, "..") {
		p.add(field, "is in the tenant's folder: it begins with in/ or files/")
	}
}

// fileForm returns the format of a slot's file.
func (e Entry) fileForm(slot time.Time, key string) (batch.Format, error) {
	form := batch.Form{Template: batch.Template{Kind: e.Kind, Model: e.Model}, Column: e.File.Column, IDColumn: e.File.IDColumn}
	filled, err := e.fill(e.Payload, slot)
	if err != nil {
		return nil, err
	}
	fields, _ := filled.(map[string]any)
	for name, value := range fields {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("encode the field %s: %w", name, err)
		}
		if form.Fields == nil {
			form.Fields = map[string]batch.RawJSON{}
		}
		form.Fields[name] = encoded
	}
	return form.Format(key)
}

// submitFile makes the batch of a slot, under an id that follows from the slot. Its error
// means that the slot must be tried again.
func (d *dispatcher) submitFile(ctx context.Context, e Entry, r Run, deadline time.Time) (Run, error) {
	key, err := e.fillText(e.File.Key, r.Slot)
	if err != nil {
		return refuse(r, err), nil
	}
	format, err := e.fileForm(r.Slot, key)
	if err != nil {
		return refuse(r, err), nil
	}
	o := batch.AcceptOptions{Deadline: deadline, SkipInvalid: e.File.SkipInvalid, MaxNeurons: max(e.File.MaxNeurons, e.MaxNeurons)}
	_ = o.AutoStop.UnmarshalText([]byte(e.File.AutoStop)) // Check has read both
	_ = o.Reuse.UnmarshalText([]byte(e.File.Reuse))
	object := d.tenant + "/" + key
	return d.accept(ctx, e, r, batch.Source{Name: key, Format: format, CallEach: e.File.CallEach, Open: func() (io.ReadCloser, error) {
		body, err := d.store.Get(ctx, object)
		if errors.Is(err, storage.ErrNotFound) {
			err = fmt.Errorf("there is no object %s: %w", object, err)
		}
		return body, err
	}}, o)
}

// accept makes the batch of a slot under an id that follows from the slot. Its error means
// that the slot must be tried again.
func (d *dispatcher) accept(ctx context.Context, e Entry, r Run, src batch.Source, o batch.AcceptOptions) (Run, error) {
	o.ByWorkers, o.Metadata, o.Schedule, o.Spend = true, e.Metadata, e.Name, e.Spend
	_ = o.Keep.UnmarshalText([]byte(e.Keep)) // Check has read it
	id := d.batches.KeyedID("schedule " + e.Name + " " + r.Slot.UTC().Format(time.RFC3339))
	accepted, err := d.batches.Accept(ctx, id, src, o)
	invalid, refused := errors.AsType[*batch.InvalidError](err)
	switch {
	case err == nil:
		r.Status, r.Batch = Running, accepted.ID
		d.log.Info("slot submitted", "schedule", e.Name, "slot", r.Slot, "batch", accepted.ID, "lines", accepted.Lines)
	case errors.Is(err, storage.ErrNotFound), errors.Is(err, batch.ErrEmpty):
		r = refuse(r, fmt.Errorf("%s: %w", src.Name, err))
	case refused && len(invalid.Report.Problems) > 0:
		r = refuse(r, fmt.Errorf("%s: %w: %w", src.Name, err, &invalid.Report.Problems[0]))
	default:
		return r, fmt.Errorf("submit %s: %w", src.Name, err)
	}
	return r, nil
}

// refuse ends a run whose work cannot be accepted.
func refuse(r Run, why error) Run {
	r.Status, r.Reason = Refused, why.Error()[:min(len(why.Error()), reasonBytes)]
	return r
}

// settleBatch finds out whether the batch of a run has ended.
func settleBatch(ctx context.Context, b *batch.Batches, r Run) (Run, error) {
	s, err := b.State(ctx, r.Batch)
	switch {
	case errors.Is(err, batch.ErrNotFound):
		r.Status = Unknown
		return r, nil
	case err != nil:
		return r, fmt.Errorf("look for %s: %w", r.Batch, err)
	case s.EndedAt.IsZero():
		return r, nil
	}
	r.Status, r.EndedAt, r.Neurons = Completed, s.EndedAt, s.Neurons
	if s.Failed > 0 {
		r.Reason = fmt.Sprintf("%d of %d lines failed", s.Failed, s.Lines)
	}
	if s.Status != batch.Completed {
		r.Status, r.Reason = Failed, strings.TrimSpace(string(s.Status)+" "+s.Why)
	}
	return r, nil
}
