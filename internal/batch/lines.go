package batch

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// failed returns failed lines for all records.
func failed(records []record, f *tasks.TaskError) *chunkEnd {
	end := &chunkEnd{counts: Counts{Failed: len(records)}}
	for _, r := range records {
		end.lines = append(end.lines, failedLine(r.ID, f))
	}
	return end
}

// failedLine makes a line of output:
//
//	{"id": "row-17", "status": "failed", "error": {"code", "message"}}
func failedLine(id string, f *tasks.TaskError) []byte {
	line := appendText([]byte(`{"id":`), id)
	line = append(line, `,"status":"failed","error":{"code":`...)
	line = appendText(line, f.Code)
	line = append(line, `,"message":`...)
	line = appendText(line, f.Message)
	return append(line, '}', '}')
}

// appendText appends a JSON string. Ids and messages are valid UTF-8; other bytes are
// replaced.
func appendText(line []byte, text string) []byte {
	quoted, err := jsontext.AppendQuote(line, text)
	if err != nil {
		quoted, _ = jsontext.AppendQuote(line, fmt.Sprintf("%+q", text))
	}
	return quoted
}

// completed returns the lines of a completed task. The vectors of an embedding are copied
// as text.
func (d *driver) completed(request tasks.Request, records []record, r *taskResult) *chunkEnd {
	end := &chunkEnd{counts: Counts{Completed: len(records), Neurons: r.Usage.Neurons}, costs: r.cost()}
	if len(r.Artefacts) == 0 {
		end.requests = []tasks.Request{request}
	}
	e, ok := request.Payload.(tasks.Embedding)
	if !ok {
		usage, _ := json.Marshal(r.Usage)
		end.lines = [][]byte{completedLine(records[0].ID, r.Output, usage)}
		return end
	}
	var output struct {
		Dimensions int              `json:"dimensions"`
		Vectors    []jsontext.Value `json:"vectors"`
	}
	err := json.Unmarshal(r.Output, &output)
	if err == nil && len(output.Vectors) != len(e.Texts) {
		err = fmt.Errorf("it has %d vectors for %d texts", len(output.Vectors), len(e.Texts))
	}
	if err != nil {
		broken := failed(records, &tasks.TaskError{Code: tasks.CodeAnswerUnusable, Message: "the result of the chunk: " + err.Error()})
		broken.counts.Neurons = r.Usage.Neurons
		broken.costs = r.cost()
		return broken
	}
	total := 0
	for _, t := range e.Texts {
		total += len(t) + 1
	}
	texts, vectors := e.Texts, output.Vectors
	for _, record := range records {
		n := max(textsOf(record), 1)
		n = min(n, len(vectors))
		size := 0
		for _, t := range texts[:n] {
			size += len(t) + 1
		}
		usage := strconv.AppendFloat([]byte(`{"neurons":`), r.Usage.Neurons*float64(size)/float64(total), 'g', 6, 64)
		end.lines = append(end.lines, embeddingLine(record.ID, output.Dimensions, vectors[:n], append(usage, '}')))
		texts, vectors = texts[n:], vectors[n:]
	}
	return end
}

// textsOf returns the number of texts of an embedding line.
func textsOf(r record) int {
	var e struct {
		Texts []jsontext.Value `json:"texts"`
	}
	_ = json.Unmarshal(r.Input, &e) // it was decoded before
	return len(e.Texts)
}

// completedLine makes a line of output:
//
//	{"id": "row-17", "status": "completed", "output": {...}, "usage": {...}}
func completedLine(id string, output, usage []byte) []byte {
	line := make([]byte, 0, len(id)+len(output)+len(usage)+64)
	line = appendText(append(line, `{"id":`...), id)
	line = append(append(line, `,"status":"completed","output":`...), output...)
	line = append(append(line, `,"usage":`...), usage...)
	return append(line, '}')
}

func embeddingLine(id string, dimensions int, vectors []jsontext.Value, usage []byte) []byte {
	size := len(id) + len(usage) + 128
	for _, v := range vectors {
		size += len(v) + 1
	}
	line := make([]byte, 0, size)
	line = appendText(append(line, `{"id":`...), id)
	line = append(line, `,"status":"completed","output":{"dimensions":`...)
	line = append(strconv.AppendInt(line, int64(dimensions), 10), `,"vectors":[`...)
	for i, v := range vectors {
		if i > 0 {
			line = append(line, ',')
		}
		line = append(line, v...)
	}
	line = append(append(line, `]},"usage":`...), usage...)
	return append(line, '}')
}
