package workersai

import (
	"net/http"
	"strconv"
	"time"
)

// Meta is what is known about a call beside its answer.
type Meta struct {
	Neurons   float64 // as the API says, else by the price list
	RequestID string  // cf-ai-req-id
	Ray       string  // cf-ray
	Took      time.Duration
}

func metaOf(resp *http.Response, start time.Time) Meta {
	neurons, err := strconv.ParseFloat(resp.Header.Get("Cf-Ai-Neurons"), 64)
	if err != nil || neurons < 0 || neurons > 1e12 {
		neurons = 0
	}
	return Meta{
		Neurons: neurons, RequestID: resp.Header.Get("Cf-Ai-Req-Id"), Ray: resp.Header.Get("Cf-Ray"),
		Took: time.Since(start),
	}
}

// estimate fills in the price where the API did not say it.
func (m *Meta) estimate(neurons float64) {
	if m.Neurons == 0 {
		m.Neurons = neurons
	}
}

// tokens is a rough count: four characters each, as the API itself estimates.
func tokens(texts ...string) int {
	n := 0
	for _, t := range texts {
		n += (len(t) + 3) / 4
	}
	return n
}
