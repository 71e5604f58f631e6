package schedule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// NewObjects are recordings in the bucket. A slot runs those that no slot has run before, as the
// lines of a batch: each object once, by its key and its ETag.
//
// Objects of a tenant, beside those of the package:
//
//	schedule-new/<name>/slots/<slot>.json  the objects that a slot found, create-only
//	schedule-new/<name>/seen/<digest>      the slot that runs an object, create-only
//
// Whoever works on a slot finds the same list, and an object belongs to the slot that created
// its mark. So schedulers that work on one slot at once make the same batch.
type NewObjects struct {
	Prefix string `json:"prefix" yaml:"prefix" maxLength:"900" doc:"Of the objects in the tenant's folder: in/... or files/...; may have {{date}} and its like."`
}

const (
	// mostNew is the most objects of a slot; the next slot runs the others.
	mostNew = 10_000
	// seenFor is how long the mark of an object is kept that is gone, and mostForgotten how
	// many a slot deletes.
	seenFor       = 90 * 24 * time.Hour
	mostForgotten = 1000
	marksAtOnce   = 16
)

// object is an object that a slot found.
type object struct {
	Key  string `json:"key"`
	ETag string `json:"etag"`
}

// digest names an object with its content.
func (o object) digest() string {
	sum := sha256.Sum256([]byte(o.Key + "\x00" + o.ETag))
	return hex.EncodeToString(sum[:16])
}

// fresh checks the prefix of a definition, and the payload of its lines.
func (p *problems) fresh(e Entry) {
	p.onlyBulk(e)
	prefix, err := e.fillText(e.New.Prefix, time.Now())
	if err != nil {
		p.add("new.prefix", "%v", err)
	}
	p.inFolder("new.prefix", prefix)
	if e.Kind != tasks.KindTranscription {
		p.add("kind", "wants transcription: new objects are recordings")
		return
	}
	if _, has := e.Payload["audio"]; has {
		p.add("payload.audio", "is that of each object: leave it out")
	}
	input, err := e.recording("default/in/any.wav", time.Now())
	if err == nil {
		var payload tasks.Payload
		if payload, err = tasks.Parse(e.Kind, input); err == nil {
			err = tasks.Check(payload, e.options()...)
		}
	}
	p.payload(err)
}

// recording returns the payload of a recording.
func (e Entry) recording(key string, slot time.Time) (json.RawMessage, error) {
	filled, err := e.fill(e.Payload, slot)
	if err != nil {
		return nil, err
	}
	payload := map[string]any{}
	if fields, ok := filled.(map[string]any); ok {
		payload = maps.Clone(fields)
	}
	if payload == nil {
		payload = map[string]any{}
	}
	payload["audio"] = map[string]string{"key": key}
	return json.Marshal(payload)
}

// freshKey returns the key of an object that a schedule with NewObjects keeps.
func (d *dispatcher) freshKey(e Entry, name string) string {
	return d.tenant + "/schedule-new/" + e.Name + "/" + name
}

func foundName(slot time.Time, manual bool) string {
	name := "slots/" + slot.UTC().Format("20060102T150405Z")
	if manual {
		name += manualSuffix
	}
	return name + ".json"
}

// finishBefore makes the batch of the slot before, if its scheduler gave up or died: objects
// may be marked as that slot's.
func (d *dispatcher) finishBefore(ctx context.Context, e Entry, runs ledger, refs []slotRef, r Run) error {
	before, err := d.before(ctx, runs, refs, r)
	if err != nil || before == nil || before.Status != Claimed {
		return err
	}
	done, err := d.submitNew(ctx, e, runs, refs, *before, time.Time{})
	if err != nil {
		return err
	}
	return runs.put(ctx, done)
}

// submitNew makes the batch of a slot with the new objects. Its error means that the slot must
// be tried again.
func (d *dispatcher) submitNew(ctx context.Context, e Entry, runs ledger, refs []slotRef, r Run, deadline time.Time) (Run, error) {
	if err := d.finishBefore(ctx, e, runs, refs, r); err != nil {
		return r, err
	}
	all, err := d.found(ctx, e, r)
	if err != nil {
		return r, err
	}
	mine, err := d.mark(ctx, e, r, all)
	if err != nil {
		return r, err
	}
	if len(mine) == 0 {
		r.Status, r.Reason = Skipped, "nothing is new"
		return r, nil
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for _, o := range mine {
		input, err := e.recording(o.Key, r.Slot)
		if err != nil {
			return refuse(r, err), nil
		}
		line := map[string]any{"id": strings.TrimPrefix(o.Key, d.tenant+"/"), "kind": e.Kind, "input": input}
		if e.Model != "" {
			line["model"] = e.Model
		}
		if err := encoder.Encode(line); err != nil {
			return r, fmt.Errorf("encode %s: %w", o.Key, err)
		}
	}
	src := batch.Source{Name: e.New.Prefix, Format: batch.Native, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(lines.Bytes())), nil
	}}
	return d.accept(ctx, e, r, src, batch.AcceptOptions{Deadline: deadline, SkipInvalid: true, MaxNeurons: e.MaxNeurons})
}

// found returns the objects that a slot found, at most mostNew. The first to look for the slot
// decides.
func (d *dispatcher) found(ctx context.Context, e Entry, r Run) (all []object, err error) {
	key := d.freshKey(e, foundName(r.Slot, r.Manual))
	err = readJSON(ctx, d.store, key, &all)
	if !errors.Is(err, storage.ErrNotFound) {
		return all, err
	}
	if all, err = d.unseen(ctx, e, r.Slot); err != nil {
		return nil, err
	}
	document, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode the objects: %w", err)
	}
	if err := objects.CreateJSON(ctx, d.store, key, document); err != nil {
		return nil, err
	}
	all = nil
	return all, readJSON(ctx, d.store, key, &all)
}

// unseen lists the objects without a mark. It deletes old marks of objects that are gone.
func (d *dispatcher) unseen(ctx context.Context, e Entry, slot time.Time) ([]object, error) {
	seen := map[string]time.Time{}
	prefix := d.freshKey(e, "seen/")
	for info, err := range d.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the objects that were run: %w", err)
		}
		seen[strings.TrimPrefix(info.Key, prefix)] = info.Modified
	}
	folder, err := e.fillText(e.New.Prefix, slot)
	if err != nil {
		return nil, err
	}
	all := []object{}
	for info, err := range d.store.List(ctx, d.tenant+"/"+folder, "") {
		if err != nil {
			return nil, fmt.Errorf("list the objects: %w", err)
		}
		o := object{info.Key, info.ETag}
		if _, known := seen[o.digest()]; known {
			delete(seen, o.digest())
		} else if len(all) < mostNew {
			all = append(all, o)
		}
	}
	var gone []string
	for digest, at := range seen {
		if d.now().Sub(at) > seenFor && len(gone) < mostForgotten {
			gone = append(gone, prefix+digest)
		}
	}
	if err := storage.DeleteMany(ctx, d.store, gone); err != nil {
		d.log.Debug("marks of objects that are gone stay until the next slot", "error", err)
	}
	return all, nil
}

// mark marks objects as those of a slot, and returns those that no other slot has marked.
func (d *dispatcher) mark(ctx context.Context, e Entry, r Run, all []object) (mine []object, err error) {
	slot := []byte(foundName(r.Slot, r.Manual))
	owned := make([]bool, len(all))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(marksAtOnce)
	for i, o := range all {
		g.Go(func() error {
			key := d.freshKey(e, "seen/"+o.digest())
			err := d.store.Create(inner, key, bytes.NewReader(slot), "text/plain")
			if errors.Is(err, storage.ErrExists) {
				var had []byte
				had, err = objects.Read(inner, d.store, key)
				owned[i] = bytes.Equal(had, slot)
				return err
			}
			owned[i] = err == nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("mark the new objects: %w", err)
	}
	for i, o := range all {
		if owned[i] {
			mine = append(mine, o)
		}
	}
	return mine, nil
}
