package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Config has the settings of Batches. All parts are required, and the caller's to close.
type Config struct {
	Client *tasks.Client
	Store  storage.Store // the bucket of the client
	Redis  redis.UniversalClient
	Tenant string // that of the client; "default" when empty
	Log    *slog.Logger
	// KeepTasks leaves the objects of the tasks in the bucket after their lines are in a
	// shard.
	KeepTasks bool
}

// Batches accepts, drives and reads the batches of a tenant.
type Batches struct {
	Config
}

// New returns the batches of a tenant; there is nothing to close.
func New(c Config) *Batches {
	if c.Tenant == "" {
		c.Tenant = objects.DefaultTenant
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Batches{c}
}

// ErrNotFound: there is no batch with the id.
var ErrNotFound = errors.New("batch not found")

// Batch is the definition of a batch, as accepted.
type Batch struct {
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"` // of the file, for people
	CreatedAt time.Time         `json:"created_at"`
	Lines     int               `json:"lines"`
	Invalid   int               `json:"invalid,omitempty"`  // lines that failed validation and are not run
	Repeated  int               `json:"repeated,omitempty"` // lines that equal an earlier one, and get its output
	Reused    int               `json:"reused,omitempty"`   // lines that get a stored result
	Reuse     MaxAge            `json:"reuse,omitzero"`     // how old that may be
	Sample    bool              `json:"sample,omitempty"`   // of the lines of a file
	Segments  int               `json:"segments"`
	Upload    string            `json:"upload,omitempty"` // of the attempt that stored the segments
	Demands   []*Demand         `json:"demands"`
	Deadline  time.Time         `json:"deadline,omitzero"` // lines that have not run by then fail; zero means none
	Metadata  map[string]string `json:"metadata,omitempty"`
	Key       string            `json:"key,omitempty"`        // id of the API key that submitted it
	Schedule  string            `json:"schedule,omitempty"`   // name of the schedule that submitted it
	ByWorkers bool              `json:"by_workers,omitempty"` // workers drive it
	NoOutput  bool              `json:"no_output,omitempty"`  // its end writes no output.jsonl
	AutoStop  AutoStop          `json:"auto_stop,omitzero"`
	// MaxNeurons caps the cost over all rounds; 0 means no cap.
	MaxNeurons float64 `json:"max_neurons,omitempty"`
	// Spend limits which neurons the calls may use; empty means all.
	Spend tasks.Spend `json:"spend,omitempty"`
	// Keep is how long after its end a sweep deletes the batch with its output; 0 means never.
	Keep MaxAge `json:"keep,omitzero"`
}

// round is a run over a batch: 0 runs all lines, each later one the failed lines of the
// round before.
type round struct {
	Number int    `json:"round"`
	Model  string `json:"model,omitempty"` // instead of that of the lines
	// Patch is a merge patch for the input of each line; nil leaves them.
	Patch jsontext.Value `json:"patch,omitempty"`
	// MaxNeurons is instead of that of the batch; 0 leaves it.
	MaxNeurons float64   `json:"max_neurons,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
}

// own reports whether the lines run as they were accepted, so that outputs of equal lines fit.
func (r round) own() bool { return r.Model == "" && r.Patch == nil }

// Counts are lines by their end, and the cost of all calls.
type Counts struct {
	Completed int     `json:"completed"`
	Failed    int     `json:"failed"`
	Neurons   float64 `json:"neurons"`
	Cached    int     `json:"cached,omitempty"` // completed lines that cost nothing, since another one had their result
	// Lost is the most that calls may have cost whose price is not known. Neurons is without it.
	Lost float64 `json:"lost_neurons,omitzero"`
}

func (c *Counts) add(d Counts) {
	c.Completed, c.Failed, c.Cached = c.Completed+d.Completed, c.Failed+d.Failed, c.Cached+d.Cached
	c.Neurons, c.Lost = c.Neurons+d.Neurons, c.Lost+d.Lost
}

// minus returns the difference of two counts.
func (c Counts) minus(d Counts) Counts {
	return Counts{c.Completed - d.Completed, c.Failed - d.Failed, c.Neurons - d.Neurons, c.Cached - d.Cached, c.Lost - d.Lost}
}

// End is the end of a round.
type End struct {
	Status  Status    `json:"status"` // completed, cancelled, expired or stopped
	EndedAt time.Time `json:"ended_at"`
	Why     string    `json:"why,omitempty"` // of a round that stopped itself
	Counts
}

// Status is the state of a batch. A batch with failed lines is completed too.
type Status string

// The states.
const (
	Waiting   Status = "waiting" // no process drives it at the moment
	Running   Status = "running"
	Completed Status = "completed"
	Cancelled Status = "cancelled"
	Expired   Status = "expired"
	Stopped   Status = "stopped" // by its AutoStop
)

// The codes of lines that a batch ended without running.
const (
	CodeCancelled = "batch_cancelled"
	CodeExpired   = "batch_expired"
	CodeStopped   = "batch_stopped"
)

// endsOf are the states of halted rounds.
var endsOf = map[string]Status{CodeCancelled: Cancelled, CodeExpired: Expired, CodeStopped: Stopped}

var batchID = regexp.MustCompile(`^b_[a-z0-9]{8,62}$`)

func (b *Batches) root() string { return b.Tenant + "/batches/" }

// key returns the key of an object of a batch.
func (b *Batches) key(id, name string) string { return b.root() + id + "/" + name }

func (b *Batches) pendingKey(id string) string { return b.root() + "pending/" + id + ".json" }

// OutputKey returns the key of the output of a batch that workers drove.
func (b *Batches) OutputKey(id string) string { return b.key(id, "output.jsonl") }

// segmentKey returns the key of a segment. upload is that of the definition; earlier versions
// have none.
func (b *Batches) segmentKey(id, upload string, n int) string {
	return b.key(id, path.Join("segments", upload, fmt.Sprintf("%08d.jsonl", n)))
}

func (b *Batches) shardKey(id string, round, n int) string {
	return b.key(id, fmt.Sprintf("shards/%d/%08d.jsonl", round, n))
}

func (b *Batches) endKey(id string, round int) string {
	return b.key(id, fmt.Sprintf("ends/%d.json", round))
}

func (b *Batches) cancelKey(id string, round int) string {
	return b.key(id, fmt.Sprintf("cancel/%d.json", round))
}

func (b *Batches) roundKey(id string, round int) string {
	return b.key(id, fmt.Sprintf("rounds/%d.json", round))
}

// Get returns the definition of a batch, or ErrNotFound.
func (b *Batches) Get(ctx context.Context, id string) (*Batch, error) {
	if !batchID.MatchString(id) {
		return nil, ErrNotFound
	}
	var d Batch
	err := b.read(ctx, b.key(id, "batch.json"), &d)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, ErrNotFound
	}
	return &d, err
}

// lastRound returns the latest round, and its end or nil.
func (b *Batches) lastRound(ctx context.Context, id string) (round, *End, error) {
	var r round
	for n := 1; ; n++ {
		var next round
		err := b.read(ctx, b.roundKey(id, n), &next)
		if errors.Is(err, storage.ErrNotFound) {
			break
		}
		if err != nil {
			return r, nil, err
		}
		r = next
	}
	var e End
	err := b.read(ctx, b.endKey(id, r.Number), &e)
	if errors.Is(err, storage.ErrNotFound) {
		return r, nil, nil
	}
	return r, &e, err
}

func (b *Batches) read(ctx context.Context, key string, into any) error {
	document, err := objects.Read(ctx, b.Store, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(document, into); err != nil {
		return fmt.Errorf("decode %s: %w", key, err)
	}
	return nil
}

// create writes a document once. A document that exists already is not an error.
func (b *Batches) create(ctx context.Context, key string, v any) error {
	document, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return objects.CreateJSON(ctx, b.Store, key, document)
}
