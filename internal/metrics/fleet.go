package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	readFor  = 2 * time.Second // how long a reading of the fleet may be used again
	readTime = 5 * time.Second // in which Redis must answer a reading
)

// same ends the help of the fleet's gauges.
const same = " The same from every process: use max."

func fleetDesc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help+same, labels, nil)
	fleetDescs = append(fleetDescs, d)
	return d
}

// fleetDescs are the descriptions of the fleet's metrics.
var fleetDescs []*prometheus.Desc

var (
	redisUp        = fleetDesc("neuronmill_redis_up", "1 if Redis answered when the fleet was read; the other gauges of the fleet are absent while it is 0.")
	waiting        = fleetDesc("neuronmill_waiting", "Tasks that wait for a worker, or outside of workers for a gate.", "kind", "lane")
	oldestWaiting  = fleetDesc("neuronmill_oldest_waiting_seconds", "Time since the oldest of the waiting tasks was accepted; 0 when none waits.", "kind", "lane")
	running        = fleetDesc("neuronmill_running", "Tasks in workers: in a call, or waiting for their gate there.", "kind", "lane")
	delayed        = fleetDesc("neuronmill_delayed", "Tasks that wait for their start or for their next try.", "kind", "lane")
	deferred       = fleetDesc("neuronmill_parked", "Tasks that wait outside of workers until the gate of their model has room.", "model")
	gatePace       = fleetDesc("neuronmill_gate_pace", "Calls a minute that the gate lets through: as set, and as learned from the API's answers.", "model", "is")
	gateState      = fleetDesc("neuronmill_gate_state", "1 for the state that the gate is in: open, learned, narrow, closed, probing or held.", "model", "state")
	gateClosed     = fleetDesc("neuronmill_gate_closed_until_seconds", "Unix time until which the gate is closed; 0 while it is open.", "model")
	gateCalls      = fleetDesc("neuronmill_gate_calls_total", "Calls that the gate has let through since it was first used.", "model")
	gateThrottled  = fleetDesc("neuronmill_gate_throttled_total", "Answers that said too many requests or no capacity, since the gate was first used.", "model")
	gateInFlight   = fleetDesc("neuronmill_gate_in_flight", "Calls under way.", "model")
	gateWaiting    = fleetDesc("neuronmill_gate_waiting", "Tasks in workers that wait for the gate.", "model", "lane")
	workers        = fleetDesc("neuronmill_workers", "Worker processes that take a kind.", "kind", "state")
	slots          = fleetDesc("neuronmill_slots", "Tasks that the running workers can have at a time.", "kind", "lane")
	workersWanted  = fleetDesc("neuronmill_workers_wanted", "Worker processes that the limits and the waiting work can use; max over the kinds is the answer of /v1/scaling.", "kind")
	webhooksQueued = fleetDesc("neuronmill_webhooks_waiting", "Webhooks that wait to be sent or sent again.")
	batchesDriven  = fleetDesc("neuronmill_batches", "Batches that workers work on.")
)

// fleetReader reads the fleet for scrapes.
type fleetReader struct {
	monitor *monitor.Monitor
	gate    *gate.Gate

	mu   sync.Mutex
	last reading
	at   time.Time // of last
}

// reading is what one read found.
type reading struct {
	fleet             monitor.Fleet
	webhooks, batches int64
	err               error
}

// ReadFleet makes each scrape read the fleet's state from Redis. Later calls do nothing.
func (m *Metrics) ReadFleet(from *monitor.Monitor, g *gate.Gate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fleet == nil {
		m.fleet = &fleetReader{monitor: from, gate: g}
	}
}

// read reads the fleet, at most once in readFor for all scrapes.
func (r *fleetReader) read() reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() && time.Since(r.at) < readFor {
		return r.last
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	var now reading
	if now.fleet, now.err = r.monitor.Fleet(ctx, r.gate); now.err == nil {
		pipe := r.monitor.Redis.Pipeline()
		queued, driven := pipe.ZCard(ctx, webhook.DueKey), pipe.SCard(ctx, batchesKey)
		_, now.err = pipe.Exec(ctx)
		now.webhooks, now.batches = queued.Val(), driven.Val()
	}
	r.last, r.at = now, time.Now()
	return now
}

// batchesKey is batch.ActiveKey; package batch would bring the readers of its files along.
const batchesKey = "neuronmill:batches"

func (r *fleetReader) collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := r.read()
	if now.err != nil {
		gauge(redisUp, 0)
		return
	}
	gauge(redisUp, 1)
	gauge(webhooksQueued, float64(now.webhooks))
	gauge(batchesDriven, float64(now.batches))
	collectQueues(now.fleet, gauge)
	collectWorkers(now.fleet, r.gate, gauge)
	collectGates(now.fleet, gauge, func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	})
}

// send sends a value with its labels.
type send func(d *prometheus.Desc, value float64, labels ...string)

func collectQueues(f monitor.Fleet, gauge send) {
	parked := map[string]int{}
	for _, q := range f.Queues {
		kind, lane := string(q.Kind), string(q.Lane)
		gauge(waiting, float64(q.Waiting()), kind, lane)
		gauge(running, float64(q.Active), kind, lane)
		gauge(delayed, float64(q.Scheduled+q.Retry), kind, lane)
		oldest := 0.0
		if !q.Oldest.IsZero() {
			oldest = max(f.At.Sub(q.Oldest).Seconds(), 0)
		}
		gauge(oldestWaiting, oldest, kind, lane)
		for model, n := range q.Deferred {
			parked[modelLabel(model)] += n
		}
	}
	for model, n := range parked {
		gauge(deferred, float64(n), model)
	}
}

func collectWorkers(f monitor.Fleet, g *gate.Gate, gauge send) {
	scaling := f.Scaling(g.PaceOf)
	for _, spec := range tasks.Specs {
		states := map[string]int{"running": 0, "stopping": 0}
		for _, w := range f.Workers {
			for _, k := range w.Kinds() {
				if k == spec.Kind {
					states[w.Status]++
				}
			}
		}
		for state, n := range states {
			gauge(workers, float64(n), string(spec.Kind), state)
		}
		for _, lane := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			n, _ := monitor.SlotsOf(f.Workers, spec.Kind, lane)
			gauge(slots, float64(n), string(spec.Kind), string(lane))
		}
		gauge(workersWanted, float64(scaling.Kinds[spec.Kind]), string(spec.Kind))
	}
}

// gateStates are all words of gate.State.Word.
var gateStates = []string{"open", "learned", "narrow", "closed", "probing", "held"}

// gateLabel bounds the names of gates: models of the catalogue, totals of kinds and the
// account. The others are left out, since their sum would mean nothing.
func gateLabel(name string) (string, bool) {
	if _, ok := catalogue.Find(name); ok || name == gate.Account {
		return name, true
	}
	for _, spec := range tasks.Specs {
		if name == gate.TotalOf(string(spec.Kind)) {
			return name, true
		}
	}
	return "", false
}

func collectGates(f monitor.Fleet, gauge, counter send) {
	for _, s := range f.Gates {
		model, ok := gateLabel(s.Name)
		if !ok {
			continue
		}
		for _, word := range gateStates {
			is := 0.0
			if s.Word() == word {
				is = 1
			}
			gauge(gateState, is, model, word)
		}
		until := 0.0
		if s.Closed > 0 {
			until = float64(f.At.Add(s.Closed).Unix())
		}
		gauge(gateClosed, until, model)
		if s.Name != gate.Account { // it has no pace
			gauge(gatePace, float64(s.Pace.PerMinute), model, "set")
			gauge(gatePace, float64(s.Pace.PerMinute)*s.RateFactor, model, "learned")
		}
		gauge(gateInFlight, float64(s.InFlight), model)
		gauge(gateWaiting, float64(s.Interactive), model, string(tasks.Interactive))
		gauge(gateWaiting, float64(s.Bulk), model, string(tasks.Bulk))
		counter(gateCalls, float64(s.Calls), model)
		counter(gateThrottled, float64(s.Throttled+s.Busy), model)
	}
}
