package tasks

import "time"

// EventType says what happened to a task.
type EventType string

// The types of events. A task has one accepted event, any number of the next three, and
// one finished event, which may be repeated; see Event.Repeated.
const (
	EventAccepted EventType = "accepted" // a Client put the task into the queue
	EventStarted  EventType = "started"  // a worker sends the first call of a run
	EventWaiting  EventType = "waiting"  // the task waits at its gate, or is retried later
	EventCalled   EventType = "called"   // a call has ended
	EventFinished EventType = "finished" // the result is stored
)

// Event is something that happened to a task. It never has the task's input or output.
type Event struct {
	Type   EventType
	Time   time.Time
	ID     string
	Tenant string
	Kind   Kind
	Lane   Lane
	Model  string
	// CreatedAt is when the task was accepted.
	CreatedAt time.Time
	// Attempt counts the task's attempts, this one included.
	Attempt int
	// Reason is the cause of a wait, as one line of clean text. Until is the time of the
	// next try; zero if that is unknown.
	Reason string
	Until  time.Time
	// Outcome of a call is "ok", the class of the API's error ("throttled", "busy", ...) or
	// "lost". That of a finished task is its Status.
	Outcome string
	// Code is the error code of a failed task. Of a call that failed it is the API's code,
	// or the HTTP status if the API gave none.
	Code string
	// Neurons is the price of the call, or of all calls of a finished task. A call that
	// several tasks share has one event for each task, with the task's share of the price.
	Neurons float64
	// Took is how long the call lasted, or the time from the task's acceptance to its end.
	Took time.Duration
	// Queued is how long a started task was due before its run came to the gate, and Waited
	// how long it waited there. Stored is how long it took to store the output of a
	// completed task.
	Queued, Waited, Stored time.Duration
	// Riders is the number of tasks that share the call, and Rider the place of this one
	// among them, from 0: whoever counts calls counts those of rider 0.
	Rider, Riders int
	// Call names the call: the events of the tasks that share it have the same. It is empty in
	// other events.
	Call string
	// InputTokens and OutputTokens are those of the whole call as the API stated them; 0 when it
	// did not. Only the event of rider 0 has them.
	InputTokens, OutputTokens int
	// Trace is the trace context of the producer, see Task.Trace; empty without tracing.
	Trace string
	// Repeated marks the end of a task that another run committed. That run may have
	// reported the end already, or died before it could.
	Repeated bool
}

// Event returns an event of the task that happens now.
func (t Task) Event(of EventType) Event {
	return Event{
		Type: of, Time: time.Now().UTC(), ID: t.ID, Tenant: t.Tenant, Kind: t.Kind, Lane: t.Lane, Model: t.Model, CreatedAt: t.CreatedAt, Trace: t.Trace,
	}
}

// TraceID returns the task's trace, 32 hexadecimal digits; empty without tracing.
func (e Event) TraceID() string {
	if len(e.Trace) != len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01") {
		return ""
	}
	return e.Trace[3:35]
}

// Observer receives the events of tasks: for metrics, a ledger or notifications. It must
// be safe for concurrent use. A Client calls it on the goroutine that enqueues. A worker
// passes events through a bounded queue, so an observer that is slow or panics neither
// delays nor fails a task, but may miss events. Nil observes nothing.
type Observer func(Event)

// Observers combines observers; nil ones are left out.
func Observers(list ...Observer) Observer {
	var all []Observer
	for _, o := range list {
		if o != nil {
			all = append(all, o)
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return func(e Event) {
		for _, o := range all {
			o.Observe(e)
		}
	}
}

// Observe passes an event to the observer. It discards a panic, since no observer may fail
// a task.
func (o Observer) Observe(e Event) {
	if o == nil {
		return
	}
	defer func() { _ = recover() }()
	o(e)
}
