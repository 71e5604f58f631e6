package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// The emulator's log is the source of all measurements: it holds each call, its time, its
// caller and its answer.

func refused(r workersaitest.Request) bool  { return r.Status == http.StatusTooManyRequests }
func answered(r workersaitest.Request) bool { return r.Status == http.StatusOK }

func count(calls []workersaitest.Request, which func(workersaitest.Request) bool) int {
	n := 0
	for _, r := range calls {
		if which(r) {
			n++
		}
	}
	return n
}

// between returns the calls from one time to another. The log is in order of arrival.
func between(calls []workersaitest.Request, from, to time.Time) []workersaitest.Request {
	at := func(t time.Time) int {
		i, _ := slices.BinarySearchFunc(calls, t, func(r workersaitest.Request, t time.Time) int { return r.At.Compare(t) })
		return i
	}
	return calls[at(from):at(to)]
}

// textIn returns the text of a translation request.
func textIn(r workersaitest.Request) string {
	var body struct {
		Text string `json:"text"`
	}
	_ = json.Unmarshal(r.Body, &body) // the benchmark wrote this body
	return body.Text
}

// percentile returns the value that p percent of the sorted values do not exceed.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p/100*float64(len(sorted))))]
}
