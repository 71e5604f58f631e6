package batch

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// NewID returns a random id. Ids of later batches sort after those of earlier ones.
func NewID() string {
	return "b_" + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
}

// DerivedID returns the id of a batch with a content and the settings that change its
// lines. The same file and settings give the same id.
func (b *Batches) DerivedID(src Source, settings ...string) (string, error) {
	file, err := src.Open()
	if err != nil {
		return "", fmt.Errorf("open %s: %w", src.Name, err)
	}
	defer file.Close()
	sum := sha256.New()
	for _, s := range append([]string{b.Tenant}, settings...) {
		fmt.Fprintf(sum, "%d %s\n", len(s), s)
	}
	if _, err := io.CopyBuffer(sum, file, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", src.Name, err)
	}
	return idOf(sum.Sum(nil)), nil
}

// KeyedID returns the id of the batch with an idempotency key: the same key gives the same
// batch.
func (b *Batches) KeyedID(key string) string {
	sum := sha256.Sum256([]byte(b.Tenant + "\x00key\x00" + key))
	return idOf(sum[:])
}

func idOf(sum []byte) string {
	return "b_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum)[:26])
}

// AcceptOptions are the settings of a batch.
type AcceptOptions struct {
	Deadline    time.Time // zero means none
	Metadata    map[string]string
	Key         string // id of the API key that submitted it; empty for none
	Schedule    string // name of the schedule that submitted it; empty for none
	ByWorkers   bool   // workers drive the batch; otherwise the caller does
	SkipInvalid bool   // run the valid lines of a file that has others
	NoOutput    bool   // the end of the batch writes no output.jsonl
	AutoStop    AutoStop
	MaxNeurons  float64     // most that the batch may cost; 0 means no cap
	Spend       tasks.Spend // limits which neurons the calls may use; empty means all
	Keep        MaxAge      // delete the batch with its output so long after its end; 0 means never
	Sample      bool        // the lines are a Sample: later batches take their results
	Reuse       MaxAge      // take results of the tenant that are no older instead of calls
}

// InvalidError reports that a file has invalid lines and was not accepted.
type InvalidError struct{ Report *Report }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%d of %d lines are not valid", e.Report.Invalid, e.Report.Lines)
}

// segmentsAtOnce is how many segments are written in parallel.
const segmentsAtOnce = 4

// Accept validates a file and stores it as a batch. It returns an *InvalidError, and
// stores nothing, if a line is not valid; with SkipInvalid such a line fails alone. If the
// batch exists already, Accept returns it. After Accept has returned nil, the batch is in
// the bucket whole.
func (b *Batches) Accept(ctx context.Context, id string, src Source, o AcceptOptions) (*Batch, error) {
	known, err := b.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		known, err = b.store(ctx, id, src, o)
	}
	if err != nil || !known.ByWorkers {
		return known, err
	}
	return known, b.Hand(ctx, known.ID)
}

// store writes the segments and, last, the definition.
func (b *Batches) store(ctx context.Context, id string, src Source, o AcceptOptions) (*Batch, error) {
	w := segmentWriter{b: b, id: id, upload: strings.ToLower(rand.Text()[:8]), keep: o.SkipInvalid}
	if !(o.MaxNeurons >= 0 && o.MaxNeurons <= 1e12) {
		return nil, tasks.ValidationError{{Field: "max_neurons", Message: "is out of range, 0 to 1e12"}}
	}
	if o.Spend != "" && o.Spend != tasks.SpendFree {
		return nil, tasks.ValidationError{{Field: "spend", Message: fmt.Sprintf("%q is not free", o.Spend)}}
	}
	src.capped, src.free = o.MaxNeurons > 0, o.Spend == tasks.SpendFree
	stored, err := b.finderFor(ctx, src, o.Reuse)
	if err != nil {
		return nil, err
	}
	defer stored.close()
	w.group, w.ctx = errgroup.WithContext(ctx)
	w.group.SetLimit(segmentsAtOnce)
	report, err := scan(w.ctx, b.Client, src, stored, w.line, w.cut)
	if failed := w.group.Wait(); failed != nil {
		err = failed
	}
	if err == nil && report.Refusing > 0 && !o.SkipInvalid {
		err = &InvalidError{report}
	}
	if err != nil {
		w.remove()
		return nil, err
	}
	d := &Batch{
		ID: id, Name: src.Name, CreatedAt: time.Now().UTC(), Lines: report.Lines, Invalid: report.Invalid, Repeated: report.Repeated, Reused: report.Reused, Reuse: o.Reuse, Sample: o.Sample, MaxNeurons: o.MaxNeurons, Spend: o.Spend, Keep: o.Keep, Segments: w.segments, Upload: w.upload,
		Demands: report.Demands, Deadline: o.Deadline.UTC(), Metadata: o.Metadata, Key: o.Key, Schedule: o.Schedule, ByWorkers: o.ByWorkers, NoOutput: o.NoOutput, AutoStop: o.AutoStop,
	}
	if o.Deadline.IsZero() {
		d.Deadline = time.Time{}
	}
	if err := b.create(ctx, b.key(id, "batch.json"), d); err != nil {
		if errors.Is(err, storage.ErrNotWritten) {
			w.remove() // otherwise the definition may be there, and needs them
		}
		return nil, err
	}
	first, err := b.Get(ctx, id)
	if err == nil && first.Upload != w.upload {
		w.remove() // another attempt was faster
	}
	return first, err
}

// record is a line in a segment.
type record struct {
	Number int              `json:"n"`
	Chunk  int              `json:"c"`
	ID     string           `json:"id"`
	Kind   tasks.Kind       `json:"kind,omitempty"`
	Model  string           `json:"model,omitempty"`
	Input  jsontext.Value   `json:"input,omitempty"`
	Error  *tasks.TaskError `json:"error,omitempty"` // of an invalid line
	Extra  jsontext.Value   `json:"extra,omitempty"`

	Content digest `json:"d,omitzero"`      // of a valid line; earlier versions have none
	First   *place `json:"first,omitempty"` // of the line whose output this one gets, which then has no input of its own
	From    string `json:"from,omitempty"`  // where the stored output is that this line gets, see finder.of
}

// segmentWriter writes lines into segments.
type segmentWriter struct {
	b      *Batches
	id     string
	upload string // random, so that attempts at the same time do not touch each other's segments
	keep   bool   // invalid lines are kept, as failed ones

	ctx      context.Context // of the group
	group    *errgroup.Group
	buffer   []byte
	audio    []string // object keys of the recordings that lines of the buffer name
	segments int
	broken   bool // the file will be refused: no more segments are written
}

func (w *segmentWriter) line(l *Line, chunk int) error {
	if l.Problem != nil && !l.Problem.Alone && !w.keep {
		w.broken = true
	}
	if w.broken {
		return nil
	}
	r := record{Number: l.Number, Chunk: chunk, ID: l.ID, Kind: l.Kind, Model: l.Model, Input: l.Input, Extra: l.Extra, Content: l.content, First: l.first, From: l.from}
	if r.First != nil {
		r.Input = nil
	}
	if recording, ok := l.Payload.(tasks.Transcription); ok && recording.Audio.Key != "" {
		w.audio = append(w.audio, recording.Audio.Key)
	}
	if p := l.Problem; p != nil {
		r = record{Number: l.Number, Chunk: chunk, ID: l.ID, Error: &tasks.TaskError{Code: p.Code, Message: p.Error()}, Extra: l.Extra}
		if r.ID == "" {
			r.ID = fmt.Sprintf("line %d", l.Number)
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode line %d: %w", l.Number, err)
	}
	w.buffer = append(append(w.buffer, text...), '\n')
	return nil
}

// remove removes the segments of an attempt that made no batch.
func (w *segmentWriter) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	keys := make([]string, w.segments)
	for n := range keys {
		keys[n] = w.b.segmentKey(w.id, w.upload, n)
	}
	if err := storage.DeleteMany(ctx, w.b.Store, keys); err != nil {
		w.b.Log.Warn("segments of a refused batch stay in the bucket", "batch", w.id, "error", err)
	}
}

// cut ends a segment and stores it in the background.
func (w *segmentWriter) cut() error {
	if w.broken || len(w.buffer) == 0 {
		return nil
	}
	body, audio, key := w.buffer, w.audio, w.b.segmentKey(w.id, w.upload, w.segments)
	w.buffer, w.audio = make([]byte, 0, len(body)+len(body)/8), nil
	w.segments++
	w.group.Go(func() error {
		if err := objects.ClaimUploads(w.ctx, w.b.Store, audio...); err != nil {
			return err
		}
		if err := w.b.Store.Put(w.ctx, key, bytes.NewReader(body), "application/jsonl"); err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		return nil
	})
	return nil
}

// segment reads the lines of a segment.
func (b *Batches) segment(ctx context.Context, d *Batch, n int) ([]record, error) {
	key := b.segmentKey(d.ID, d.Upload, n)
	body, err := objects.Read(ctx, b.Store, key)
	if err != nil {
		return nil, err
	}
	var records []record
	for line := range bytes.Lines(body) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("decode %s: %w", key, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// Hand marks a batch as driven by workers, in the bucket and in Redis. The batch may not
// exist yet: see Service.Prepare.
func (b *Batches) Hand(ctx context.Context, id string) error {
	if err := b.create(ctx, b.pendingKey(id), map[string]string{"id": id}); err != nil {
		return err
	}
	if err := b.Redis.SAdd(ctx, activeKey, b.Tenant+"/"+id).Err(); err != nil {
		b.Log.Warn("a batch is not announced to the workers; they find it in the bucket within minutes", "batch", id, "error", err)
	}
	return nil
}
