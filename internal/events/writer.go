package events

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

const (
	flushEvery = 250 * time.Millisecond // how often events are written
	checkEvery = 2 * time.Second        // how often a task without news is looked up among the followed
	mostTasks  = 10_000                 // tasks whose events are kept
	mostEvents = 32                     // unwritten events of a task
	perCheck   = 500                    // tasks looked up by one command
	keepFailed = time.Minute            // how long events are kept while Redis fails
	mostBytes  = 16 << 20               // text of all tasks; beyond it a text is cut
)

// Writer writes the events of a worker's tasks. Its methods never wait; only its own
// goroutine uses Redis, and not at all while no task runs. NewWriter starts it.
type Writer struct {
	redis redis.UniversalClient
	log   *slog.Logger
	wake  chan struct{}
	stop  context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex
	tasks map[string]*unwritten
	bytes int // of text of all tasks
}

// unwritten has the events of a task that its stream lacks.
type unwritten struct {
	attempt int
	events  []Event
	text    strings.Builder // of the attempt
	written int             // bytes of text that are in the stream
	cut     bool            // the text is longer than MaxText
	cutSaid bool
	news    bool      // something came since the last check
	checked time.Time // when the task was last looked up among the followed
	leaving bool      // no more comes for now: forget the task after the next check
	since   time.Time // of the first failure to write; zero after a success
}

// NewWriter starts a writer. Close ends it.
func NewWriter(r redis.UniversalClient, log *slog.Logger) *Writer {
	ctx, stop := context.WithCancel(context.Background())
	w := &Writer{redis: r, log: log, wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}), tasks: map[string]*unwritten{}}
	go w.run(ctx)
	return w
}

// Close writes the rest and ends the writer.
func (w *Writer) Close() {
	w.stop()
	<-w.done
}

// Observe takes the events of the engine; it is a tasks.Observer.
func (w *Writer) Observe(e tasks.Event) {
	switch e.Type {
	case tasks.EventStarted:
		w.add(e.ID, Event{Type: Running, Time: e.Time, Attempt: e.Attempt})
	case tasks.EventWaiting:
		w.add(e.ID, Event{Type: Waiting, Time: e.Time, Attempt: e.Attempt, Reason: e.Reason, Until: e.Until})
	case tasks.EventFinished:
		w.add(e.ID, Event{Type: Done, Time: e.Time, Attempt: e.Attempt, Status: tasks.Status(e.Outcome), Code: e.Code})
	}
}

// Left reports that a task leaves this worker and will be run again, perhaps elsewhere.
func (w *Writer) Left(task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u := w.tasks[task]; u != nil {
		u.leaving, u.news = true, true
	}
}

// Progress reports that some parts of a task are done.
func (w *Writer) Progress(task string, part, parts int) {
	w.add(task, Event{Type: Progress, Time: time.Now().UTC(), Part: part, Parts: parts})
}

// Text adds a further part of a task's text.
func (w *Writer) Text(task, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.get(task)
	if u == nil || text == "" || u.cut {
		return
	}
	if room := max(0, min(MaxText-u.text.Len(), mostBytes-w.bytes)); len(text) > room {
		for room > 0 && !utf8.RuneStart(text[room]) {
			room--
		}
		text, u.cut = text[:room], true
	}
	u.text.WriteString(text)
	w.bytes += len(text)
	w.hasNews(u)
}

// add appends an event. A task keeps its latest events.
func (w *Writer) add(task string, e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.get(task)
	if u == nil {
		return
	}
	switch e.Type {
	case Running:
		u.attempt, u.leaving = e.Attempt, false
		w.bytes -= u.text.Len()
		u.text.Reset()
		u.written, u.cut, u.cutSaid = 0, false, false
		u.events = slices.DeleteFunc(u.events, func(e Event) bool { return e.Type == Text })
	case Done:
		u.flushText()
		u.leaving = true
	case Waiting:
		u.flushText()
		u.leaving = false
		if last := len(u.events) - 1; last >= 0 && u.events[last].Type == Waiting {
			u.events = u.events[:last]
		}
	}
	if u.events = append(u.events, e); len(u.events) > mostEvents {
		u.events = slices.Delete(u.events, 0, len(u.events)-mostEvents)
	}
	w.hasNews(u)
}

// forget removes a task's entry.
func (w *Writer) forget(task string) {
	if u := w.tasks[task]; u != nil {
		w.bytes -= u.text.Len()
		delete(w.tasks, task)
	}
}

// get returns a task's entry; nil when there are too many tasks.
func (w *Writer) get(task string) *unwritten {
	u := w.tasks[task]
	if u == nil && len(w.tasks) < mostTasks {
		u = &unwritten{}
		w.tasks[task] = u
	}
	return u
}

func (w *Writer) hasNews(u *unwritten) {
	u.news = true
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// flushText turns the text that is not written yet into an event.
func (u *unwritten) flushText() {
	all := u.text.String()
	if len(all) == u.written && u.cut == u.cutSaid {
		return
	}
	u.events = append(u.events, Event{
		Type: Text, Time: time.Now().UTC(), Attempt: u.attempt, Text: strings.Clone(all[u.written:]), Offset: u.written, Cut: u.cut,
	})
	u.written, u.cutSaid = len(all), u.cut
}

// run writes events while there are tasks, and waits without a timer while there are none.
func (w *Writer) run(ctx context.Context) {
	defer close(w.done)
	var last time.Time // of a flush
	for {
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			w.flush(final, true)
			return
		case <-w.wake:
		}
		for more := true; more && sleep(ctx, time.Until(last.Add(flushEvery))); last = time.Now() {
			more = w.flush(ctx, false)
		}
	}
}

// flush writes the events of the followed tasks. It reports whether any task is left.
func (w *Writer) flush(ctx context.Context, all bool) bool {
	ids := w.due(all)
	for some := range slices.Chunk(ids, perCheck) {
		asked, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := w.flushSome(asked, some); err != nil {
			w.log.Debug("events of tasks not written", "error", err)
			w.failed(some)
		}
		cancel()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tasks) > 0
}

// due returns the tasks to look up: those with news, and now and then those without.
func (w *Writer) due(all bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	now := time.Now()
	for id, u := range w.tasks {
		unwritten := len(u.events) > 0 || u.text.Len() > u.written || u.leaving
		if unwritten && (all || u.news || now.Sub(u.checked) >= checkEvery) {
			u.news, u.checked = false, now
			ids = append(ids, id)
		}
	}
	return ids
}

// flushSome writes the events of those of the tasks that are followed.
func (w *Writer) flushSome(ctx context.Context, ids []string) error {
	until, err := w.redis.ZMScore(ctx, FollowedKey, ids...).Result()
	if err != nil {
		return err
	}
	now := float64(time.Now().Unix())
	followed := map[string][]Event{}
	w.mu.Lock()
	for i, id := range ids {
		u := w.tasks[id]
		switch {
		case u == nil:
		case until[i] >= now:
			if u.flushText(); len(u.events) > 0 {
				followed[id], u.events = u.events, nil
			} else if u.leaving && !u.news {
				w.forget(id)
			}
		case u.leaving && !u.news:
			w.forget(id)
		}
	}
	w.mu.Unlock()
	return w.write(ctx, followed)
}

// write appends events to the streams of tasks, in one round trip.
func (w *Writer) write(ctx context.Context, followed map[string][]Event) error {
	if len(followed) == 0 {
		return nil
	}
	pipe := w.redis.Pipeline()
	replies := map[string]*redis.Cmd{}
	for id, events := range followed {
		replies[id] = appendCall(ctx, appendScript.EvalSha, pipe, id, false, events)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var failed error
	for id, events := range followed {
		err := replies[id].Err()
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			err = appendTo(ctx, w.redis, id, false, events...)
		}
		if err != nil {
			failed = err
			w.putBack(id, events)
			continue
		}
		w.wrote(id)
	}
	return failed
}

// wrote notes that a task's events are in its stream.
func (w *Writer) wrote(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u := w.tasks[id]; u != nil {
		u.since = time.Time{}
		if u.leaving && len(u.events) == 0 {
			w.forget(id)
		}
	}
}

// putBack restores events that could not be written. Their text is taken from the whole
// text again.
func (w *Writer) putBack(id string, events []Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.tasks[id]
	if u == nil {
		return
	}
	kept := slices.DeleteFunc(slices.Concat(events, u.events), func(e Event) bool {
		if e.Type != Text {
			return false
		}
		if e.Attempt == u.attempt {
			u.written, u.cutSaid = min(u.written, e.Offset), false
		}
		return true
	})
	u.events = kept[max(0, len(kept)-mostEvents):]
	if last := len(u.events) - 1; last >= 0 && u.events[last].Type == Done {
		done := u.events[last]
		u.events = u.events[:last]
		u.flushText()
		u.events = append(u.events, done)
	}
}

// failed keeps the events of tasks for the next try, for at most keepFailed.
func (w *Writer) failed(ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, id := range ids {
		u := w.tasks[id]
		if u == nil {
			continue
		}
		if u.since.IsZero() {
			u.since = now
		}
		if u.leaving && now.Sub(u.since) >= keepFailed {
			w.forget(id)
		}
	}
}
