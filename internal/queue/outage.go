package queue

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"
)

// outage logs one line when Redis becomes unreachable and one when it answers again. The
// queue's servers would log each failed command, some twenty a second. The zero value
// works once log is set.
type outage struct {
	log *slog.Logger

	mu     sync.Mutex
	queues map[string]bool // queues whose last dequeue failed
	logged time.Time       // when the queue's own log last named a broken connection
	since  time.Time       // start of the outage; zero while Redis answers
}

// calmFor is how long the queue's log must have been silent before an outage is over.
const calmFor = 2 * time.Second

// active reports whether Redis cannot be reached.
func (o *outage) active() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.since.IsZero()
}

// failed records a dequeue that did not reach Redis.
func (o *outage) failed(queue string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queues == nil {
		o.queues = map[string]bool{}
	}
	o.queues[queue] = true
	o.begin(oneLine(err.Error()))
}

// mentioned records that the queue's own log names a broken connection.
func (o *outage) mentioned(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logged = time.Now()
	if i := strings.Index(text, "dial "); i > 0 {
		text = text[i:] // without the queue's own prefix
	}
	o.begin(oneLine(text))
}

func (o *outage) begin(why string) {
	if !o.since.IsZero() {
		return
	}
	o.since = time.Now()
	o.log.Error("redis cannot be reached: the worker waits until it answers", "error", why)
}

// answered records a dequeue that Redis answered. The outage is over once the dequeues of
// all queues are answered.
func (o *outage) answered(queue string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.queues, queue)
	if o.since.IsZero() || len(o.queues) > 0 || time.Since(o.logged) < calmFor {
		return
	}
	o.log.Info("redis answers again", "after", time.Since(o.since).Round(time.Millisecond))
	o.since = time.Time{}
}

// unreachable reports whether an error is a connection error, not an error reply of Redis.
func unreachable(err error) bool {
	var reply redis.Error
	return err != nil && !errors.Is(err, redis.Nil) && !errors.As(err, &reply)
}

// brokenConnection lists the texts of connection errors in the queue's log, which has no
// error values.
var brokenConnection = []string{
	"dial ", "connection refused", "connection reset", "broken pipe", "EOF", "i/o timeout", "use of closed network connection",
	"connection pool timeout", "no such host", "no route to host", "network is unreachable",
}

func namesBrokenConnection(text string) bool {
	for _, words := range brokenConnection {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// oneLine makes a text fit for one line of a log.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), unicode.IsControl), " ")
}
