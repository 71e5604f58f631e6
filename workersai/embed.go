package workersai

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// EmbedInput is the input of an embedding model. The catalogue has the maximum number of
// texts.
type EmbedInput struct {
	Texts   []string
	Pooling string // mean or cls; empty means the model's default (mean)
}

// Embedding has one vector per text, in the same order.
type Embedding struct {
	Dimensions int
	// Vectors are lists of numbers that fit into float32, as the API wrote them.
	Vectors []json.RawMessage
}

// Embed turns texts into vectors. It returns an error if the number or size of the
// vectors is wrong, or an element is not a number. It never returns a partial answer.
func (c *Client) Embed(ctx context.Context, model string, in EmbedInput) (*Embedding, Meta, error) {
	body := map[string]any{"text": in.Texts}
	if in.Pooling != "" {
		body["pooling"] = in.Pooling
	}
	var result struct {
		Data     json.RawMessage `json:"data"`
		Response json.RawMessage `json:"response"` // bge-m3 in one of its modes
	}
	answer, err := c.ask(ctx, model, body, &result)
	meta := answer.meta()
	if err != nil {
		return nil, meta, err
	}
	if blank(result.Data) {
		result.Data = result.Response
	}
	row, _ := catalogue.Find(model)
	out, why := vectors(result.Data, row.Dimensions, len(in.Texts))
	if why != "" {
		return nil, meta, answer.unusable(why)
	}
	meta.estimate(row.TextNeurons(tokens(in.Texts...), 0))
	return out, meta, nil
}

// vectors splits an answer into count vectors of the given size; 0 means the size of the
// first one. If they are unusable, why has the reason. raw is valid JSON.
func vectors(raw json.RawMessage, dimensions, count int) (out *Embedding, why string) {
	all, ok := inBrackets(raw)
	if !ok {
		return nil, "the vectors are not lists of numbers"
	}
	out = &Embedding{Dimensions: dimensions, Vectors: make([]json.RawMessage, 0, count)}
	for len(all) > 0 {
		end := bytes.IndexByte(all, ']') + 1
		vector := all[:end]
		size, why := vectorSize(vector)
		if why != "" {
			return nil, why
		}
		if out.Dimensions == 0 {
			out.Dimensions = size
		}
		if size == 0 || size != out.Dimensions {
			return nil, "a vector has another size than the model's"
		}
		out.Vectors = append(out.Vectors, vector)
		all = bytes.TrimLeft(all[end:], ", \t\r\n")
	}
	if len(out.Vectors) != count {
		return nil, "the vectors are not as many as the texts"
	}
	return out, ""
}

// inBrackets returns the elements of a JSON array, without space around them.
func inBrackets(raw []byte) ([]byte, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) < 2 || raw[0] != '[' || raw[len(raw)-1] != ']' {
		return nil, false
	}
	return bytes.TrimSpace(raw[1 : len(raw)-1]), true
}

// vectorSize counts the numbers of a vector, all of which fit into a float32.
func vectorSize(vector []byte) (n int, why string) {
	numbers, ok := inBrackets(vector)
	if !ok {
		return 0, "the vectors are not lists of numbers"
	}
	for ; len(numbers) > 0; n++ {
		var number []byte
		number, numbers, _ = bytes.Cut(numbers, []byte(","))
		number = bytes.TrimSpace(number)
		switch {
		case string(number) == "null":
			return 0, "a vector holds null"
		case len(number) == 0 || number[0] != '-' && (number[0] < '0' || number[0] > '9'), tooLarge(number):
			return 0, "the vectors are not lists of numbers"
		}
	}
	return n, ""
}

// tooLarge reports whether a number is beyond the range of a float32. Numbers of up to 38
// characters without an exponent are within.
func tooLarge(number []byte) bool {
	if len(number) <= 38 && bytes.IndexByte(number, 'e') < 0 && bytes.IndexByte(number, 'E') < 0 {
		return false
	}
	_, err := strconv.ParseFloat(string(number), 32)
	return err != nil
}
