package openai

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

func (r *Request) embeddings(f *fields) {
	p := tasks.Embedding{Texts: r.texts(f), Pooling: f.text("pooling")}
	f.only("encoding_format", "must be float or base64", "float", "base64")
	r.base64 = f.text("encoding_format") == "base64"
	if n := pointer[int](f, "dimensions", "a whole number"); n != nil && f.err == nil {
		if m, _ := find(f.text("model")); m.Dimensions > 0 && *n != m.Dimensions {
			f.fail("dimensions", "cannot be chosen: vectors of %s have %d; leave it out", m.ID, m.Dimensions)
		} else if m.Dimensions == 0 {
			f.fail("dimensions", "cannot be chosen; leave it out")
		}
	}
	for _, t := range p.Texts {
		r.characters += len(t)
	}
	r.Payload = p
}

// texts reads the input: a text or a list of texts.
func (r *Request) texts(f *fields) []string {
	input := f.raw("input")
	switch input.Kind() {
	case '"':
		r.single = true
		return []string{f.text("input")}
	case '[':
		first, _ := bytes.CutPrefix(input, []byte("["))
		if first = bytes.TrimSpace(first); len(first) > 0 && first[0] != '"' && first[0] != ']' {
			f.fail("input", "must hold texts: lists of token numbers are not supported, since they belong to another tokenizer")
			return nil
		}
		texts := value[[]string](f, "input", "a string or a list of strings")
		if len(texts) == 0 && f.err == nil {
			f.fail("input", "is an empty list")
		}
		return texts
	case 0:
		f.fail("input", "is missing; give a string or a list of strings")
	default:
		f.fail("input", "must be a string or a list of strings")
	}
	return nil
}

// embeddingResponse writes the vectors of a result. The numbers are copied as they stand
// in the result, or converted once for base64.
func (r *Request) embeddingResponse(result *tasks.Result) ([]byte, Tokens, error) {
	var out struct {
		Vectors []jsontext.Value `json:"vectors"`
	}
	if err := json.Unmarshal(result.Output, &out); err != nil {
		return nil, Tokens{}, fmt.Errorf("read the vectors of %s: %w", result.ID, err)
	}
	body, err := r.AppendEmbeddings(nil, out.Vectors, result.Usage.Neurons)
	return body, Tokens{Input: r.inputTokens(result.Usage.Neurons)}, err
}

// AppendEmbeddings appends the response with these vectors to dst. A vector is a JSON list
// of numbers. neurons is the price of the calls, from which the tokens follow.
func (r *Request) AppendEmbeddings(dst []byte, vectors []jsontext.Value, neurons float64) ([]byte, error) {
	dst = append(dst, `{"object":"list","data":[`...)
	var err error
	for i, v := range vectors {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"object":"embedding","index":`...)
		dst = strconv.AppendInt(dst, int64(i), 10)
		dst = append(dst, `,"embedding":`...)
		if r.base64 {
			dst, err = appendBase64(dst, v)
		} else {
			dst = append(dst, v...)
		}
		if err != nil {
			return nil, err
		}
		dst = append(dst, '}')
	}
	n := r.inputTokens(neurons)
	dst = append(dst, `],"model":`...)
	dst = strconv.AppendQuote(dst, r.Model)
	return fmt.Appendf(dst, `,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, n, n), nil
}

// inputTokens returns the tokens that a price stands for. Without a price it estimates
// them at four characters each, as the API itself does.
func (r *Request) inputTokens(neurons float64) int {
	m, _ := catalogue.Find(r.Model)
	if neurons > 0 && m.Price.PerMInput > 0 {
		return int(math.Round(neurons * 1e6 / m.Price.PerMInput))
	}
	return (r.characters + 3) / 4
}

// appendBase64 appends a vector as a JSON string: its numbers as little-endian float32.
func appendBase64(dst []byte, vector jsontext.Value) ([]byte, error) {
	list := bytes.TrimSpace(vector)
	if len(list) < 2 || list[0] != '[' {
		return nil, fmt.Errorf("a vector is not a list of numbers")
	}
	list = list[1 : len(list)-1]
	packed := make([]byte, 0, 4*(bytes.Count(list, []byte(","))+1))
	for len(list) > 0 {
		number, rest, _ := bytes.Cut(list, []byte(","))
		x, err := strconv.ParseFloat(string(bytes.TrimSpace(number)), 32)
		if err != nil {
			return nil, fmt.Errorf("a vector holds something else than numbers: %w", err)
		}
		packed = binary.LittleEndian.AppendUint32(packed, math.Float32bits(float32(x)))
		list = rest
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, packed)
	return append(dst, '"'), nil
}
