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

// edge is one way of one process to one server, where the network can be bad.
type edge struct {
	name  string // "worker-redis"
	slot  int    // of the worker; -1 is the producer's
	proxy *toxiproxy.Proxy
}

// network makes edges.
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

// addr is where the process is sent.
func (e *edge) addr() string { return e.proxy.Listen }

// toxic is one way a network is bad. Answers get lost in all but latency: the request
// arrived and was done.
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

// spoil makes an edge bad until the returned func is called.
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
		_ = e.proxy.Toxics.RemoveToxic(context.Background(), wrapper.Name) // it is there: nobody else removes it
		end()
	}, nil
}

// losesAnswers are the toxics after which a request may have been done although its
// answer never came.
var losesAnswers = []string{"timeout", "reset_peer", "limit_data"}

// answersLost reports whether answers on an edge may have been lost at a time.
func (j *journal) answersLost(edge string, slot int, from, to time.Time) bool {
	for _, t := range losesAnswers {
		if j.met(edge+" "+t, slot, from, to, time.Second) {
			return true
		}
	}
	return false
}
