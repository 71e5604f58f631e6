package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The bounds of the queue and the log.
const (
	MostWaiting = 100_000             // deliveries that wait; those that are due last give way
	MostLogged  = 1000                // entries of a tenant's log
	KeptFor     = 7 * 24 * time.Hour  // a delivery after it was queued, and a log after its last entry
	DisabledFor = 30 * 24 * time.Hour // an endpoint that answered 410
	MostBody    = 20 << 10            // bytes of a body, exclusive
	mostGone    = 10_000              // endpoints that answered 410
)

// The keys in Redis. DueKey is a sorted set of waiting deliveries by the time in
// milliseconds at which they are due. GoneKey is a sorted set of endpoints that answered
// 410, as hashes of their URLs, by the time of that.
const (
	DueKey  = "neuronmill:webhooks"
	GoneKey = "neuronmill:webhooks:gone"
)

// Key returns the key of a delivery, a hash with the fields "url", "tenant", "task", "body",
// "state", "attempts" and "last".
func Key(id string) string { return "neuronmill:webhook:{" + id + "}" }

// LogKey returns the key of a tenant's log, a list with the latest entry first.
func LogKey(tenant string) string { return "neuronmill:webhooks:log:{" + tenant + "}" }

// ID returns the id of the delivery of a task's end. It is the same for each try.
func ID(task string) string { return "msg_" + task }

// State is where a delivery stands.
type State string

// A waiting delivery is tried again. The others are final until a person replays them.
const (
	Waiting   State = "waiting"
	Delivered State = "delivered" // the receiver answered 2xx
	Failed    State = "failed"    // all tries failed
	Gone      State = "gone"      // the endpoint answered 410, to this or an earlier delivery
)

// Delivery is the notification of one task's end.
type Delivery struct {
	ID       string `json:"id"`
	Task     string `json:"task"`
	Tenant   string `json:"tenant"`
	URL      string `json:"-"` // it may hold a token
	Body     []byte `json:"-"`
	State    State  `json:"state"`
	Attempts int    `json:"attempts"`
	Last     string `json:"last,omitempty"` // answer to the last try
}

// Host returns the host of the URL, which may be shown and logged.
func (d Delivery) Host() string {
	u, err := url.Parse(d.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// ErrUnknown means that Redis has no such delivery, or no longer.
var ErrUnknown = errors.New("there is no such delivery; they are kept for 7 days")

//go:embed add.lua
var addLua string

var addScript = redis.NewScript(addLua)

// Queue is the queue of deliveries. BaseURL begins the links of a body, "https://mill.example";
// without one they begin with "/".
type Queue struct {
	Redis   redis.UniversalClient // the caller closes it
	BaseURL string
}

// Add queues the delivery of a task's end with a pipeline, whose caller runs it. A delivery
// that exists already is left alone. It does nothing for a task without a webhook.
func (q *Queue) Add(ctx context.Context, pipe redis.Pipeliner, t tasks.Task, r tasks.Result) {
	if t.Webhook == "" {
		return
	}
	id, now := ID(t.ID), time.Now().UnixMilli()
	// The source itself is sent: a pipeline cannot fall back to it.
	addScript.Eval(ctx, pipe, []string{Key(id)}, KeptFor.Milliseconds(),
		"url", t.Webhook, "tenant", t.Tenant, "task", t.ID, "body", q.body(t, r), "state", string(Waiting), "attempts", 0)
	pipe.ZAddNX(ctx, DueKey, redis.Z{Score: float64(now), Member: id})
}

// Event is a notification that is not of a task's end. Its body is sent as it is.
type Event struct {
	ID      string // the same for each try, and for a repeated Add
	Tenant  string
	URL     string
	Subject string // an id, for the log
	Body    []byte // fewer than MostBody bytes
}

// AddEvent queues an event. One with the same id is left alone.
func (q *Queue) AddEvent(ctx context.Context, e Event) error {
	pipe := q.Redis.Pipeline()
	addScript.Eval(ctx, pipe, []string{Key(e.ID)}, KeptFor.Milliseconds(),
		"url", e.URL, "tenant", e.Tenant, "task", e.Subject, "body", e.Body, "state", string(Waiting), "attempts", 0)
	pipe.ZAddNX(ctx, DueKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: e.ID})
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("queue the event %s: %w", e.ID, err)
	}
	return nil
}

// body is the JSON that a receiver gets.
type body struct {
	Type      string    `json:"type"` // task.completed or task.failed
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	ID         string            `json:"id"`
	Kind       tasks.Kind        `json:"kind"`
	Model      string            `json:"model"`
	Status     tasks.Status      `json:"status"`
	Error      *tasks.TaskError  `json:"error"`
	Neurons    float64           `json:"neurons"`
	Attempts   int               `json:"attempts"`
	CreatedAt  time.Time         `json:"created_at"`
	FinishedAt time.Time         `json:"finished_at"`
	Metadata   map[string]string `json:"metadata"`
	URLs       map[string]string `json:"urls"`
}

// body encodes the body. It has no input and no output; the links lead there. Metadata that
// would make it too large is left out.
func (q *Queue) body(t tasks.Task, r tasks.Result) []byte {
	self := strings.TrimSuffix(q.BaseURL, "/") + "/v1/tasks/" + t.ID
	b := body{Type: "task." + string(r.Status), Timestamp: r.FinishedAt, Data: data{
		ID: t.ID, Kind: t.Kind, Model: t.Model, Status: r.Status, Error: r.Error, Neurons: r.Usage.Neurons, Attempts: r.Attempts,
		CreatedAt: t.CreatedAt, FinishedAt: r.FinishedAt, Metadata: t.Metadata,
		URLs: map[string]string{"self": self, "result": self + "/result"},
	}}
	document := encode(b)
	if len(document) >= MostBody {
		b.Data.Metadata = nil
		document = encode(b)
	}
	return document
}

func encode(b body) []byte {
	var out bytes.Buffer
	to := json.NewEncoder(&out)
	to.SetEscapeHTML(false)
	if err := to.Encode(b); err != nil {
		return nil // it has plain values only
	}
	return bytes.TrimSpace(out.Bytes())
}

// Get returns a delivery, or ErrUnknown.
func (q *Queue) Get(ctx context.Context, id string) (Delivery, error) {
	fields, err := q.Redis.HGetAll(ctx, Key(id)).Result()
	if err != nil {
		return Delivery{}, fmt.Errorf("read the delivery %s: %w", id, err)
	}
	if fields["url"] == "" {
		return Delivery{}, ErrUnknown
	}
	attempts, _ := strconv.Atoi(fields["attempts"])
	return Delivery{
		ID: id, Task: fields["task"], Tenant: fields["tenant"], URL: fields["url"], Body: []byte(fields["body"]),
		State: State(fields["state"]), Attempts: attempts, Last: fields["last"],
	}, nil
}

// Replay queues a delivery of a tenant again, with the same id and body, whatever its state.
// An endpoint that had answered 410 is enabled again.
func (q *Queue) Replay(ctx context.Context, tenant, id string) error {
	d, err := q.Get(ctx, id)
	if err != nil {
		return err
	}
	if d.Tenant != tenant {
		return ErrUnknown
	}
	pipe := q.Redis.Pipeline()
	pipe.ZRem(ctx, GoneKey, endpoint(d.URL))
	pipe.HSet(ctx, Key(id), "state", string(Waiting), "attempts", 0)
	pipe.PExpire(ctx, Key(id), KeptFor)
	pipe.ZAdd(ctx, DueKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: id})
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("replay %s: %w", id, err)
	}
	return nil
}

// Entry is one try, as the log has it.
type Entry struct {
	ID      string    `json:"id"`
	Task    string    `json:"task"`
	Time    time.Time `json:"time"`
	Attempt int       `json:"attempt"`
	Host    string    `json:"host"`
	State   State     `json:"state"` // after this try
	Answer  string    `json:"answer"`
	Next    time.Time `json:"next,omitzero"` // when it is tried again
}

// Log returns the latest tries of a tenant's deliveries, the latest first.
func (q *Queue) Log(ctx context.Context, tenant string, limit int) ([]Entry, error) {
	lines, err := q.Redis.LRange(ctx, LogKey(tenant), 0, int64(min(limit, MostLogged)-1)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the log of webhooks: %w", err)
	}
	entries := []Entry{}
	for _, line := range lines {
		var e Entry
		if json.Unmarshal([]byte(line), &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// endpoint is a URL as GoneKey has it.
func endpoint(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:16])
}
