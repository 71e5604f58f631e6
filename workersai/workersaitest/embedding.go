package workersaitest

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"unicode"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

func embed(row catalogue.Model, body []byte) answer {
	var in struct {
		Text    texts  `json:"text"`
		Pooling string `json:"pooling"`
	}
	if why := fieldsIn(body, &in); why != "" {
		return failed(5006, why)
	}
	if len(in.Text) == 0 || len(in.Text) > row.Texts {
		return failed(5006, fmt.Sprintf("Error: Length of '/text' must be 1 to %d", row.Texts))
	}
	sum := 0
	data := make([][]float32, len(in.Text))
	for i, t := range in.Text {
		if t == "" {
			return failed(5006, fmt.Sprintf("Error: Length of '/text/%d' must be >= 1", i))
		}
		n := tokens(t)
		if row.CallTokens > 0 && n > row.TextTokens {
			return failed(3030, fmt.Sprintf("%d tokens, at most %d", n, row.TextTokens))
		}
		sum += n
		data[i] = Vector(t, row.Dimensions)
	}
	if row.CallTokens > 0 && sum > row.CallTokens {
		return failed(3030, fmt.Sprintf("Max context reached, %d tokens, at most %d", sum, row.CallTokens))
	}
	out := map[string]any{"shape": []int{len(data), row.Dimensions}, "data": data}
	if row.Pooling {
		out["pooling"] = "mean"
		if in.Pooling != "" {
			out["pooling"] = in.Pooling
		}
	}
	return result(out, row.TextNeurons(sum, 0))
}

// Vector returns the embedding of a text. It has length 1 and is nearer to those of texts
// that share words with it.
func Vector(text string, dimensions int) []float32 {
	sum := make([]float64, dimensions)
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
	if len(words) == 0 {
		words = []string{text}
	}
	for _, word := range words {
		h := fnv.New64a()
		_, _ = h.Write([]byte(word))
		state := h.Sum64()
		for range 24 { // each word sets a few dimensions of its own
			state = state*6364136223846793005 + 1442695040888963407
			sign := float64(1)
			if state>>63 == 1 {
				sign = -1
			}
			sum[(state>>33)%uint64(dimensions)] += sign
		}
	}
	length := 0.0
	for _, x := range sum {
		length += x * x
	}
	length = math.Sqrt(length)
	v := make([]float32, dimensions)
	for i, x := range sum {
		v[i] = float32(x / math.Max(length, 1e-9))
	}
	return v
}
