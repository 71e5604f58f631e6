package workersai

import "time"

// Meta describes a call. It accompanies an answer and also an error, since a truncated,
// refused or unusable answer may have been billed.
type Meta struct {
	Neurons   float64 // the price of the call
	Priced    bool    // the API itself stated Neurons; otherwise they are an estimate by the price list, or 0 beside an error
	RequestID string  // cf-ai-req-id
	Ray       string  // cf-ray
	Took      time.Duration
	// InputTokens and OutputTokens are as the API stated them; 0 when it did not.
	InputTokens, OutputTokens int
}

// price stores a price that the API stated. It ignores impossible values: they would
// falsify sums, and NaN cannot be encoded as JSON.
func (m *Meta) price(neurons float64) {
	const most = 1e9 // ten thousand times the most expensive call of the price list
	if neurons >= 0 && neurons <= most && !m.Priced {
		m.Neurons, m.Priced = neurons, true
	}
}

// estimate sets the price if the API did not state one.
func (m *Meta) estimate(neurons float64) {
	if !m.Priced {
		m.Neurons = neurons
	}
}

// tokens returns a rough count: four characters per token, as the API itself estimates.
func tokens(texts ...string) int {
	n := 0
	for _, t := range texts {
		n += (len(t) + 3) / 4
	}
	return n
}
