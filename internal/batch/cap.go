package batch

import (
	"context"
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// splits is how often the texts of a chunk may be sent: together, in parts and alone.
const splits = 3

// perText is by how much rounding may raise the price of a text: the API states four digits.
const perText = 0.0001

// mostOf returns the highest price of a task over all its calls; ok is false when there is
// none. That of a recording in the bucket depends on its size: see driver.most.
func mostOf(model string, p tasks.Payload) (neurons float64, ok bool) {
	if t, is := p.(tasks.Transcription); is && t.Audio.Key != "" {
		return tasks.MostAudioNeurons(model, 0)
	}
	neurons, ok = tasks.MostNeurons(model, p)
	texts := 1
	if e, is := p.(tasks.Embedding); is {
		texts = len(e.Texts)
	}
	return neurons + perText*float64(texts), ok
}

// most returns the highest price of a task over all its calls.
func (d *driver) most(ctx context.Context, r record, p tasks.Payload) (neurons float64, err error) {
	model := d.modelOf(r)
	t, is := p.(tasks.Transcription)
	if !is || t.Audio.Key == "" {
		neurons, _ = mostOf(model, p)
		return neurons, nil
	}
	err = d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		info, err := d.Store.Head(ctx, t.Audio.Key)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // the task fails before its call
		}
		neurons, _ = tasks.MostAudioNeurons(model, info.Size)
		return err
	})
	return neurons, err
}

// capped returns the cap of the round; 0 means none.
func (d *driver) capped() float64 {
	if d.round.MaxNeurons > 0 {
		return d.round.MaxNeurons
	}
	return d.batch.MaxNeurons
}

// openPurse caps the cost of the batch, over all rounds.
func (d *driver) openPurse() {
	if most := d.capped(); most > 0 {
		d.purse = budget.NewPurse(most, func() float64 {
			spent := d.progress()
			return spent.Neurons + spent.Lost
		})
	}
}

// reserve reserves the highest price of a chunk. It halts the round when the cap leaves too
// little; then nothing is reserved, and the chunk is not sent.
func (d *driver) reserve(ctx context.Context, key string, records []record) (reserved float64, err error) {
	if d.purse == nil || d.halted() || records[0].Error != nil {
		return 0, nil
	}
	request, err := d.request(key, records)
	if err != nil {
		return 0, nil // the chunk fails by itself
	}
	most, err := d.most(ctx, records[0], request.Payload)
	if err != nil {
		return 0, err
	}
	if len(records) > 1 {
		most = splits * (most + perText*float64(len(records)))
	}
	err = d.purse.Reserve(ctx, most)
	if over, ok := errors.AsType[*budget.SpentError](err); ok {
		d.stopBecause(fmt.Sprintf("%v: neuronmill batch retry %s --failed --max-neurons N runs the rest", over, d.batch.ID))
		return 0, nil
	}
	return most, err
}

// release ends a reservation once the price of its chunk was counted.
func (d *driver) release(reserved float64) {
	if reserved > 0 {
		d.purse.Release(reserved)
	}
}

// unbounded returns why a line cannot run within the budget of its file; nil when it can.
func (s Source) unbounded(l *Line) error {
	switch {
	case l.Problem != nil:
		return nil
	case s.free && unpriced(l.Model):
		return fmt.Errorf("spend: the free allocation cannot be kept: the price of %s is not known", l.Model)
	case s.capped:
		return boundless(l)
	}
	return nil
}

// unpriced reports whether the price of a model's calls is not known.
func unpriced(model string) bool {
	m, known := catalogue.Find(model)
	return !known || m.Price == (catalogue.Price{})
}

// boundless returns why a line cannot run under a cap; nil when it can.
func boundless(l *Line) error {
	if _, ok := mostOf(l.Model, l.Payload); ok {
		return nil
	}
	if l.Kind == tasks.KindText {
		return errors.New("max_tokens: is missing, so a cap of the batch cannot be kept: the price of the answer has no bound")
	}
	return fmt.Errorf("max_neurons: a cap of the batch cannot be kept: the price of %s is not known before the call", l.Kind)
}
