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
	Key         string `json:"key" yaml:"key" maxLength:"900" doc:"Of the object in the tenant's folder: in/... or files/...; may have {{date}} and its like. May end in .gz or .zst."`
	Column      string `json:"column,omitempty" yaml:"column" maxLength:"200" doc:"The file is CSV with a header; this column is the input."`
	IDColumn    string `json:"id_column,omitempty" yaml:"id_column" maxLength:"200" doc:"The column with the ids; the numbers of the lines when left out."`
	SkipInvalid bool   `json:"skip_invalid,omitempty" yaml:"skip_invalid" doc:"Run the valid lines of a file that has others."`
	AutoStop    string `json:"auto_stop,omitempty" yaml:"auto_stop" maxLength:"40" doc:"End a batch once too many of its lines have failed: failed>5%."`
}

// folders are the parts of a tenant's folder that files may lie in: the rest of the bucket
// is neuronmill's own.
var folders = []string{"in/", "files/"}

// file checks the file of a definition.
func (p *problems) file(e Entry) {
	for field, value := range map[string]string{"webhook": e.Webhook, "lane": string(e.Lane)} {
		if value != "" && value != string(tasks.Bulk) {
			p.add(field, "is not for a file: its lines run as a batch, in the lane bulk")
		}
	}
	key, err := e.fileKey(time.Now())
	switch {
	case err != nil:
		p.add("file.key", "%v", err)
	case !strings.HasPrefix(key, folders[0]) && !strings.HasPrefix(key, folders[1]), strings.Contains(key, ".."):
		p.add("file.key", "wants the name of an object in the tenant's folder that begins with in/ or files/")
	}
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
	if err := new(batch.AutoStop).UnmarshalText([]byte(e.File.AutoStop)); err != nil {
		p.add("file.auto_stop", "%v", err)
	}
}

// fileKey returns the key of a slot's file in the tenant's folder.
func (e Entry) fileKey(slot time.Time) (string, error) {
	key, err := e.fill(e.File.Key, slot)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(key), nil
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
	key, err := e.fileKey(r.Slot)
	if err != nil {
		return refuse(r, err), nil
	}
	format, err := e.fileForm(r.Slot, key)
	if err != nil {
		return refuse(r, err), nil
	}
	options := batch.AcceptOptions{ByWorkers: true, Deadline: deadline, Metadata: e.Metadata, SkipInvalid: e.File.SkipInvalid, Schedule: e.Name}
	_ = options.AutoStop.UnmarshalText([]byte(e.File.AutoStop)) // Check has read it
	object := d.tenant + "/" + key
	src := batch.Source{Name: key, Format: format, Open: func() (io.ReadCloser, error) { return d.store.Get(ctx, object) }}
	id := d.batches.KeyedID("schedule " + e.Name + " " + r.Slot.UTC().Format(time.RFC3339))
	accepted, err := d.batches.Accept(ctx, id, src, options)
	invalid, refused := errors.AsType[*batch.InvalidError](err)
	switch {
	case err == nil:
		r.Status, r.Batch = Running, accepted.ID
		d.log.Info("slot submitted", "schedule", e.Name, "slot", r.Slot, "batch", accepted.ID, "lines", accepted.Lines)
	case errors.Is(err, storage.ErrNotFound):
		r = refuse(r, fmt.Errorf("there is no object %s", object))
	case errors.Is(err, batch.ErrEmpty):
		r = refuse(r, fmt.Errorf("%s has no lines", object))
	case refused && len(invalid.Report.Problems) > 0:
		r = refuse(r, fmt.Errorf("%w: %w", err, &invalid.Report.Problems[0]))
	default:
		return r, fmt.Errorf("submit %s: %w", object, err)
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
