// Package metrics counts what happens in a process and reads the state of the fleet, for
// Prometheus. docs/metrics.md explains each metric.
//
// Counters and histograms are of this process and come from events. Gauges of the fleet are
// read from Redis when somebody asks, at most once in two seconds and with a number of
// commands that does not depend on the number of tasks. Labels have bounded sets of values:
// kinds, lanes, models of the catalogue, and stable codes. What is in none of them counts
// as "other".
package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
)

// Metrics are the metrics of a process. Of makes them.
type Metrics struct {
	accepted, ended, calls, neurons, webhooks *prometheus.CounterVec
	seconds, redis                            *prometheus.HistogramVec
	texts                                     *prometheus.HistogramVec
	redisErrors                               prometheus.Counter
	bucket                                    prometheus.Gauge

	mu      sync.Mutex
	fleet   *fleetReader // nil until ReadFleet
	watched map[redis.UniversalClient]bool
}

// Of returns the metrics that are registered with r; it registers them at the first call.
func Of(r prometheus.Registerer) (*Metrics, error) {
	m := newMetrics()
	err := r.Register(m)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := there.ExistingCollector.(*Metrics); ok {
			return same, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register the metrics: %w", err)
	}
	return m, nil
}

// buckets are the bounds of durations in seconds: 5 ms to 1 h. Few, since each is a series
// for each kind, lane and phase; Prometheus reads finer ones as a native histogram.
var buckets = []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 900, 3600}

func newMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, bounds []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: bounds,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, labels)
	}
	return &Metrics{
		watched:  map[redis.UniversalClient]bool{},
		accepted: counter("neuronmill_tasks_accepted_total", "Tasks that this process accepted, by the surface that submitted them.", "kind", "lane", "surface"),
		ended:    counter("neuronmill_tasks_ended_total", "Tasks that ended in this process, by outcome and error code.", "kind", "model", "outcome", "code"),
		calls:    counter("neuronmill_calls_total", "Calls of Workers AI that this process sent. The code is that of the API or the HTTP status; ok and lost are ours.", "model", "code"),
		neurons:  counter("neuronmill_neurons_total", "Neurons that the calls of this process cost, at list price where the API states none.", "model", "kind"),
		webhooks: counter("neuronmill_webhook_deliveries_total", "Tries of webhooks that this process made.", "outcome"),
		seconds:  histogram("neuronmill_task_seconds", "Time of tasks in each phase: queue, gate, call, store, and total from acceptance to end.", buckets, "kind", "lane", "phase"),
		texts:    histogram("neuronmill_call_texts", "Tasks that shared one call.", []float64{1, 2, 5, 10, 25, 50, 100}, "model"),
		redis:    histogram("neuronmill_redis_seconds", "Time of round trips to Redis: of one command, or of a pipeline.", []float64{.0005, .002, .01, .05, .25, 1, 5}, "op"),
		redisErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "neuronmill_redis_errors_total", Help: "Round trips to Redis that failed: no connection, a timeout, or a refusal.",
		}),
		bucket: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "neuronmill_bucket_refuses", Help: "1 while the bucket takes no results from this worker, so that it sends no calls.",
		}),
	}
}

// parts lists the collectors of this process' own counters.
func (m *Metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{
		m.accepted, m.ended, m.calls, m.neurons, m.webhooks, m.seconds, m.texts, m.redis, m.redisErrors, m.bucket,
	}
}

// Describe sends the descriptions of all metrics.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, p := range m.parts() {
		p.Describe(to)
	}
	for _, d := range fleetDescs {
		to <- d
	}
}

// Collect sends all metrics. It reads the fleet from Redis if ReadFleet was called.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, p := range m.parts() {
		p.Collect(to)
	}
	m.mu.Lock()
	fleet := m.fleet
	m.mu.Unlock()
	if fleet != nil {
		fleet.collect(to)
	}
}

// mostScrapes is how many scrapes a process answers at a time.
const mostScrapes = 4

// Handler answers scrapes of g. Clients that ask for OpenMetrics get exemplars.
func Handler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: mostScrapes, Timeout: 10 * time.Second, ErrorHandling: promhttp.ContinueOnError,
	})
}

// Accepted returns an observer that counts the tasks that a surface accepts: "http",
// "batch" or "schedule".
func (m *Metrics) Accepted(surface string) tasks.Observer {
	return func(e tasks.Event) {
		if e.Type == tasks.EventAccepted {
			m.accepted.WithLabelValues(kindLabel(e.Kind), laneLabel(e.Lane), surface).Inc()
		}
	}
}

// Observe counts an event of a worker's task.
func (m *Metrics) Observe(e tasks.Event) {
	kind, lane, model := kindLabel(e.Kind), laneLabel(e.Lane), modelLabel(e.Model)
	phase := func(name string, took time.Duration) {
		observe(m.seconds.WithLabelValues(kind, lane, name), max(took, 0).Seconds(), e.TraceID())
	}
	switch e.Type {
	case tasks.EventStarted:
		if e.Attempt == 1 {
			phase("queue", e.Queued)
		}
		phase("gate", e.Waited)
	case tasks.EventCalled:
		phase("call", e.Took)
		m.neurons.WithLabelValues(model, kind).Add(max(e.Neurons, 0))
		if e.Rider == 0 { // the others share its call
			m.calls.WithLabelValues(model, callCode(e)).Inc()
			m.texts.WithLabelValues(model).Observe(float64(max(e.Riders, 1)))
		}
	case tasks.EventFinished:
		if e.Repeated {
			return
		}
		m.ended.WithLabelValues(kind, model, outcomeLabel(e.Outcome), errorCode(e.Code)).Inc()
		phase("total", e.Took)
		if e.Outcome == string(tasks.Completed) {
			phase("store", e.Stored)
		}
	}
}

// observe records a value, with the trace as its exemplar where there is one.
func observe(o prometheus.Observer, value float64, trace string) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && trace != "" {
		with.ObserveWithExemplar(value, prometheus.Labels{"trace_id": trace})
		return
	}
	o.Observe(value)
}

// Webhook counts a try of a webhook: "delivered", "failed" or "gone".
func (m *Metrics) Webhook(outcome string) { m.webhooks.WithLabelValues(outcome).Inc() }

// Bucket says whether the bucket takes results.
func (m *Metrics) Bucket(open bool) {
	m.bucket.Set(0)
	if !open {
		m.bucket.Set(1)
	}
}
