package tasks

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Options are the settings of one task. The zero value is an interactive task with the
// kind's default model. It runs at once and expires after the spec's maximum age.
type Options struct {
	Lane           Lane
	Model          string
	Deadline       time.Time         // the task fails with deadline_exceeded if it has not run by then
	StartAt        time.Time         // earliest start; at most 90 days ahead
	IdempotencyKey string            // the same key returns the same task
	Metadata       map[string]string // copied to the result
	Webhook        string            // https URL that gets a signed request when the task has ended
	Durability     Durability        // empty means the client's default
	MaxNeurons     float64           // most that the task may cost; 0 means no bound
	Spend          Spend             // what may pay for the task; empty means the account

	space  keySpace // key space of the idempotency key
	origin Origin
}

// Option sets one of the Options.
type Option func(*Options)

// WithLane sets the lane.
func WithLane(l Lane) Option { return func(o *Options) { o.Lane = l } }

// WithModel sets the model.
func WithModel(id string) Option { return func(o *Options) { o.Model = id } }

// WithDeadline sets the time at which the task expires.
func WithDeadline(at time.Time) Option { return func(o *Options) { o.Deadline = at } }

// WithTimeToLive sets the deadline to a duration from now.
func WithTimeToLive(d time.Duration) Option {
	return func(o *Options) { o.Deadline = time.Now().Add(d) }
}

// WithStart sets the earliest start.
func WithStart(at time.Time) Option { return func(o *Options) { o.StartAt = at } }

// WithDelay sets the earliest start to a duration from now.
func WithDelay(d time.Duration) Option { return func(o *Options) { o.StartAt = time.Now().Add(d) } }

// WithIdempotencyKey makes Enqueue safe to repeat: the same key returns the same task.
func WithIdempotencyKey(key string) Option {
	return func(o *Options) { o.IdempotencyKey, o.space = key, personKeys }
}

// WithScheduleSlot returns the same task for the same slot of a schedule, however many
// schedulers enqueue it. It cannot collide with a producer's own idempotency key.
func WithScheduleSlot(schedule string, slot time.Time) Option {
	return func(o *Options) {
		o.IdempotencyKey, o.space = schedule+"/"+slot.UTC().Format(time.RFC3339), scheduleKeys
		o.origin.Schedule = schedule
	}
}

// retryOf returns the same task for each retry of a failed one.
func retryOf(id string) Option {
	return func(o *Options) { o.IdempotencyKey, o.space = id, retryKeys }
}

// WithMetadata adds the producer's own metadata, which is copied to the result.
func WithMetadata(m map[string]string) Option {
	return func(o *Options) { o.Metadata = maps.Clone(m) }
}

// WithWebhook sets the URL that gets a signed request when the task has ended, by the rules
// of Standard Webhooks. It must begin with https:// and name a public host, unless
// [Config.WebhookNetworks] allows more. A duplicate keeps the URL of the first task.
func WithWebhook(url string) Option { return func(o *Options) { o.Webhook = url } }

// WithMaxNeurons bounds the cost of a task. A call that might exceed the bound is not sent:
// the task fails with budget_exceeded. A task is refused if its first call might.
func WithMaxNeurons(n float64) Option { return func(o *Options) { o.MaxNeurons = n } }

// Spend is what may pay for a task.
type Spend string

// SpendFree pays for a task from what all others leave of the account's free allocation of the
// day. The task waits for 00:00 UTC when that is too little. It expires after a month unless it
// has a deadline.
const SpendFree Spend = "free"

// freeMaxAge is the default deadline of a task with SpendFree, counted from acceptance.
const freeMaxAge = 31 * 24 * time.Hour

// WithSpend sets what may pay for the task: SpendFree, or anything when empty.
func WithSpend(s Spend) Option { return func(o *Options) { o.Spend = s } }

// WithDurability sets the task's durability.
func WithDurability(d Durability) Option { return func(o *Options) { o.Durability = d } }

func (o Options) check(now time.Time, networks []netip.Prefix) ValidationError {
	var p ValidationError
	if o.Lane != "" {
		oneOf(&p, "lane", string(o.Lane), string(Interactive), string(Bulk))
	}
	if !o.Deadline.IsZero() && !o.Deadline.After(now) {
		p.add("deadline", "has passed")
	}
	if o.StartAt.After(now.AddDate(0, 0, 90)) {
		p.add("start", "is more than 90 days ahead")
	}
	if !o.Deadline.IsZero() && o.StartAt.After(o.Deadline) {
		p.add("deadline", "lies before the start")
	}
	if k := o.IdempotencyKey; len(k) > 255 || !utf8.ValidString(k) || strings.ContainsFunc(k, unprintable) {
		p.add("idempotency_key", "wants at most 255 bytes of visible characters")
	}
	if n := o.MaxNeurons; !(n >= 0 && n <= 1e12) {
		p.add("max_neurons", "%v is out of range, 0 to 1e12", n)
	}
	oneOf(&p, "spend", string(o.Spend), string(SpendFree))
	if o.Webhook != "" {
		checkWebhook(&p, o.Webhook, networks)
	}
	if len(o.Metadata) > 16 {
		p.add("metadata", "has %d pairs, more than 16", len(o.Metadata))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Metadata)) {
		field, v := fmt.Sprintf("metadata.%s", quoteField(k)), o.Metadata[k]
		if k == "" || len(k) > 64 || len(v) > 512 {
			p.add(field, "wants a key of 1 to 64 and a value of at most 512 bytes")
		}
		if !utf8.ValidString(k+v) || strings.ContainsFunc(k+v, control) {
			p.add(field, "must be UTF-8 without control characters")
		}
	}
	return p
}

// checkWebhook refuses a URL that is not valid. It may hold a token, so it is short enough
// for the queue.
func checkWebhook(p *ValidationError, raw string, networks []netip.Prefix) {
	const most = 2048
	if len(raw) > most {
		p.add("webhook", "has %d bytes, more than %d", len(raw), most)
		return
	}
	if len(networks) == 0 {
		checkURL(p, "webhook", raw)
		return
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		p.add("webhook", "is not a valid URL")
		return
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		p.add("webhook", "must begin with https:// or http:// and a host")
		return
	}
	if u.User != nil {
		p.add("webhook", "must not hold a user name or password")
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil && u.Port() != "" {
		p.add("webhook", "has a port that is not valid")
	}
	address, err := netip.ParseAddr(u.Hostname())
	within := func(network netip.Prefix) bool { return network.Contains(address.Unmap()) }
	if err == nil && (address.IsLinkLocalUnicast() || !slices.ContainsFunc(networks, within)) {
		p.add("webhook", "must name a host, or an address in a network that webhooks may reach")
	}
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
