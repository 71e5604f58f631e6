package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// edge is the network path from one process to one server. Faults are injected into it.
type edge struct {
	name  string // "worker-redis"
	slot  int    // of the worker; -1 for the producer
	proxy *toxiproxy.Proxy
}

// network creates edges.
type network struct{ server *toxiproxy.ApiServer }

func newNetwork() network {
	return network{toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
}

func (n network) edge(name string, slot int, to string) (*edge, error) {
	p := toxiproxy.NewProxy(n.server, fmt.Sprintf("%s-%d", name, slot), "127.0.0.1:0", to)
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("edge %s: %w", name, err)
	}
	return &edge{name, slot, p}, nil
}

// addr returns the address that the process connects to.
func (e *edge) addr() string { return e.proxy.Listen }

// toxic is one network fault. All except latency lose answers: the request arrived and
// was executed.
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]int `json:"attributes"`
}

func randomToxic(rng *rand.Rand) toxic {
	switch rng.IntN(4) {
	case 0:
		return toxic{"latency", "downstream", map[string]int{"latency": 50 + rng.IntN(1500), "jitter": 50}}
	case 1:
		return toxic{"timeout", "downstream", map[string]int{"timeout": 0}}
	case 2:
		return toxic{"reset_peer", "downstream", map[string]int{"timeout": rng.IntN(200)}}
	}
	return toxic{"limit_data", "downstream", map[string]int{"bytes": rng.IntN(4000)}}
}

// spoil makes an edge faulty until the returned func is called.
func (e *edge) spoil(j *journal, t toxic) (heal func(), err error) {
	document, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	wrapper, err := e.proxy.Toxics.AddToxicJson(strings.NewReader(string(document)))
	if err != nil {
		return nil, fmt.Errorf("spoil %s: %w", e.name, err)
	}
	end := j.begin(e.name+" "+t.Type, e.slot, string(document))
	return func() {
		_ = e.proxy.Toxics.RemoveToxic(context.Background(), wrapper.Name) // it exists: only this func removes it
		end()
	}, nil
}

// losesAnswers lists the toxics after which a request may have been executed although its
// answer never arrived.
var losesAnswers = []string{"timeout", "reset_peer", "limit_data"}

// answersLost reports whether answers on an edge may have been lost during a period.
func (j *journal) answersLost(edge string, slot int, from, to time.Time) bool {
	for _, t := range losesAnswers {
		if j.met(edge+" "+t, slot, from, to, 100*time.Millisecond) {
			return true
		}
	}
	return false
}
