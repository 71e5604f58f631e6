package batch

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// OutputFormat is a form of the output.
type OutputFormat string

// The forms. JSONL has a line for each line of the input. Vectorize has the lines that
// Cloudflare Vectorize loads, {"id", "values"}; failed lines are left out.
const (
	JSONL     OutputFormat = "jsonl"
	Vectorize OutputFormat = "vectorize"
)

// Export writes the output so far in a form, as WriteOutput does. The counts are those of
// the lines read.
func (b *Batches) Export(ctx context.Context, id string, f OutputFormat, w io.Writer) (Counts, error) {
	if f != Vectorize {
		return b.WriteOutput(ctx, id, w)
	}
	out := bufio.NewWriterSize(w, 256<<10)
	counts, err := b.Lines(ctx, id, func(line []byte) error {
		if isFailed(line) {
			return nil
		}
		vectorized, err := vectorize(line)
		if err == nil {
			_, err = out.Write(vectorized)
		}
		return err
	})
	if err != nil {
		return counts, err
	}
	return counts, out.Flush()
}

// vectorize turns a completed line with one vector into a line for Vectorize.
func vectorize(line []byte) ([]byte, error) {
	var l struct {
		ID     string `json:"id"`
		Output struct {
			Vectors []jsontext.Value `json:"vectors"`
		} `json:"output"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return nil, fmt.Errorf("decode a line of output: %w", err)
	}
	if len(l.Output.Vectors) != 1 {
		return nil, fmt.Errorf("the line %q has %d vectors; vectorize wants one", l.ID, len(l.Output.Vectors))
	}
	out := appendText([]byte(`{"id":`), l.ID)
	out = append(append(out, `,"values":`...), l.Output.Vectors[0]...)
	return append(out, '}', '\n'), nil
}
