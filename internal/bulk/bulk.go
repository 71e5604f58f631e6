// Package bulk retries, cancels or forgets all tasks that match a filter. Prepare counts them and freezes
// the filter in a signed token, which has a limit in time and belongs to a tenant. Start runs
// the action of a token once, however often and on however many servers it is called.
//
// An action runs in bounded pages on the server that started it, under a lease in Redis. Its
// state is stored after each page. When its server dies, Start or Get on any server continues
// it. Tasks that come after the filter was frozen are never changed, so every action ends.
package bulk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"
)

// Action is applied to the tasks.
type Action string

// The actions.
const (
	Retry  Action = "retry"  // failed tasks run again, as new tasks
	Cancel Action = "cancel" // tasks that have not ended are cancelled
	Drop   Action = "drop"   // failed tasks leave the dead letters, with the data for another run; their results stay
)

// Filter selects tasks. Empty fields select all.
type Filter struct {
	State    string            `json:"state,omitempty" enum:"pending,scheduled,active,retry,failed" doc:"failed, for retry and drop; the state of a task that has not ended, for cancel."`
	Kind     tasks.Kind        `json:"kind,omitempty"`
	Lane     tasks.Lane        `json:"lane,omitempty" enum:"interactive,bulk" doc:"For cancel only."`
	Model    string            `json:"model,omitempty" maxLength:"200"`
	Code     string            `json:"code,omitempty" maxLength:"64" doc:"Error code of failed tasks."`
	Message  string            `json:"message,omitempty" maxLength:"2000" doc:"Beginning of the error message of failed tasks; digits do not matter."`
	Since    time.Time         `json:"since,omitzero" doc:"Accepted at this time or later; failed tasks: failed then."`
	Metadata map[string]string `json:"metadata,omitempty" doc:"For cancel only; all must match."`
}

// The bounds of Filter.Metadata.
const (
	mostMetadata = 16   // pairs
	mostPair     = 1000 // bytes of a pair
)

// check returns the faults of a filter for an action.
func (f Filter) check(a Action) error {
	var wrong tasks.ValidationError
	add := func(field, message string) {
		wrong = append(wrong, tasks.Problem{Field: field, Message: message})
	}
	live := []string{"", "pending", "scheduled", "active", "retry"}
	switch {
	case a != Retry && a != Cancel && a != Drop:
		add("action", "must be retry, cancel or drop")
	case a != Cancel && f.State != "" && f.State != string(tasks.Failed):
		add("filter.state", "must be failed or absent: only failed tasks run again or are dropped")
	case a == Cancel && !slices.Contains(live, f.State):
		add("filter.state", "must be pending, scheduled, active, retry or absent: only tasks that have not ended can be cancelled")
	}
	if a != Cancel && (f.Lane != "" || len(f.Metadata) > 0) {
		add("filter", "lane and metadata do not select failed tasks")
	}
	if a == Cancel && (f.Code != "" || f.Message != "") {
		add("filter", "code and message select failed tasks only")
	}
	if _, ok := tasks.SpecOf(f.Kind); f.Kind != "" && !ok {
		add("filter.kind", "is no kind of task")
	}
	for key, value := range f.Metadata {
		if len(f.Metadata) > mostMetadata || len(key)+len(value) > mostPair {
			add("filter.metadata", "must have at most 16 pairs of at most 1,000 bytes")
			break
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// Words writes a filter for people, as the search of the dashboard does, with or without the
// message.
func (f Filter) Words(message bool) string {
	var words []string
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+":"+value)
		}
	}
	add("state", f.State)
	add("kind", string(f.Kind))
	add("lane", string(f.Lane))
	add("model", f.Model)
	add("code", f.Code)
	if !f.Since.IsZero() {
		add("since", f.Since.UTC().Format(time.RFC3339))
	}
	for _, key := range slices.Sorted(maps.Keys(f.Metadata)) {
		add("meta", key+":"+f.Metadata[key])
	}
	if message {
		add("message", f.Message)
	}
	if len(words) == 0 {
		return "all"
	}
	return strings.Join(words, " ")
}

// Plan is the effect that an action would have.
type Plan struct {
	Action    Action    `json:"action"`
	Filter    Filter    `json:"filter"`
	Before    time.Time `json:"before" doc:"Tasks that come later are not changed."`
	Count     int       `json:"count" doc:"Tasks that match now."`
	More      bool      `json:"more" doc:"There may be more than count."`
	Neurons   *float64  `json:"neurons" doc:"About what running them costs, from a sample; null when it cannot be known before, 0 for drop."`
	Dollars   *float64  `json:"dollars"`
	Token     string    `json:"token" doc:"Send it to run the action."`
	ExpiresAt time.Time `json:"expires_at"`
}

// frozen is the content of a token.
type frozen struct {
	Action  Action    `json:"a"`
	Filter  Filter    `json:"f"`
	Before  time.Time `json:"b"`
	Expires time.Time `json:"e"`
	Count   int       `json:"n"`
	More    bool      `json:"m,omitempty"`
}

// Status is where an action stands.
type Status string

// The states of an action.
const (
	Running     Status = "running"
	Interrupted Status = "interrupted" // its server stopped or met an outage; Get and Start continue it
	Ended       Status = "ended"
)

// State is an action that was started.
type State struct {
	ID        string    `json:"id"`
	Action    Action    `json:"action"`
	Filter    Filter    `json:"filter"`
	Before    time.Time `json:"before"`
	Status    Status    `json:"status" enum:"running,interrupted,ended"`
	Count     int       `json:"count" doc:"Tasks that matched when the filter was frozen."`
	More      bool      `json:"more" doc:"There may have been more than count."`
	Changed   int       `json:"changed" doc:"Tasks that run again, were cancelled or dropped."`
	Unchanged int       `json:"unchanged" doc:"Tasks that could not be changed: ended or retried meanwhile, or their input is not kept."`
	Key       string    `json:"key,omitempty" doc:"Id of the API key that started it."`
	StartedAt time.Time `json:"started_at"`
	UpdatedAt time.Time `json:"updated_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

// Progress is the part that is done, from 0 to 1.
func (s State) Progress() float64 {
	if s.Status == Ended {
		return 1
	}
	return min(float64(s.Changed+s.Unchanged)/float64(max(s.Count, 1)), 0.99)
}

// saved is a State with the position of its next page.
type saved struct {
	State
	After    string         `json:"after,omitempty"`   // id of the last dead letter
	Position tasks.Position `json:"position"`          // in the list of live tasks
	Pass     int            `json:"pass,omitempty"`    // of the list of live tasks
	InPass   int            `json:"in_pass,omitempty"` // tasks changed in it
}

var (
	// ErrToken: the token was not made by this fleet for this tenant, or is broken.
	ErrToken = errors.New("the token is not valid")
	// ErrExpired: the token was not used in time.
	ErrExpired = errors.New("the token has expired")
	// ErrNotFound: the tenant has no action of the id, or it ended days ago.
	ErrNotFound = errors.New("action not found")
	// ErrBusy: this server runs as many actions as it may.
	ErrBusy = errors.New("too many actions run on this server")
)

// The bounds of actions.
const (
	TokenFor    = 10 * time.Minute
	KeptFor     = 7 * 24 * time.Hour // a state, after its last change
	MostCounted = 2000               // tasks that Prepare counts: a failed one costs a request to the bucket
	MostChanged = 100_000            // tasks of one action
	mostRunning = 4                  // actions of a server at a time
)

// Config has the settings of a Runner. All are required.
type Config struct {
	Redis    redis.UniversalClient
	Store    storage.Store
	Client   func(tenant string) *tasks.Client
	Estimate func(model string, p tasks.Payload, input []byte) (neurons float64, ok bool)
	History  *history.History
	Log      *slog.Logger
	Stopping <-chan struct{} // closed when the server begins to stop
	// Seal signs a value for one purpose, and Open reads it; ok is false for what Seal did not
	// make for the purpose.
	Seal func(ctx context.Context, purpose string, v any) (string, error)
	Open func(ctx context.Context, purpose, text string, v any) (ok bool, err error)
}

// Runner prepares and runs actions.
type Runner struct {
	Config
	owner    string
	running  *semaphore.Weighted
	starting sync.Mutex // held by Start: requests with the same token must not all take a place
}

// New makes a runner; there is nothing to close.
func New(c Config) *Runner {
	return &Runner{Config: c, owner: uuid.NewString(), running: semaphore.NewWeighted(mostRunning)}
}

func purpose(tenant string) string { return "action of " + tenant }

// idOf returns the id of the action of a token.
func idOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "a_" + hex.EncodeToString(sum[:12])
}
