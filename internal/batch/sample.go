package batch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"math"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/tasks"
)

// MostSample is the most lines of a sample.
const MostSample = 1000

// Sample is some lines of a file, spread evenly over those that need a call.
type Sample struct {
	Report *Report // of the whole file
	ID     string  // of the batch that runs the lines: the same lines give the same batch
	Source Source  // of the lines

	lines []sampled
}

// sampled is a line of a sample with its estimate.
type sampled struct {
	demand   *Demand
	estimate float64 // 0 when there is none
}

// Sample reads a file and takes up to n lines of it. It spends nothing: accept Source under
// ID with AcceptOptions.Sample and drive it. Batches that are accepted within sampleFor take
// the results instead of calls.
func (b *Batches) Sample(ctx context.Context, src Source, age MaxAge, n int) (*Sample, error) {
	report, err := b.scanForSample(ctx, src, age, func(*Line, int) error { return nil })
	if err != nil {
		return nil, err
	}
	s := &Sample{Report: report}
	total := 0
	for _, d := range report.Demands {
		total += d.ToCall
	}
	n = min(n, total, MostSample)
	var text bytes.Buffer
	seen := 0
	take := func(l *Line, chunk int) error {
		if l.Problem != nil || chunk == noChunk {
			return nil
		}
		seen++
		if len(s.lines) == n || seen-1 != drawn(len(s.lines), n, total) {
			return nil
		}
		line, err := json.Marshal(nativeLine{ID: lineID(l.ID), Kind: l.Kind, Model: l.Model, Input: l.Input})
		if err != nil {
			return fmt.Errorf("encode line %d: %w", l.Number, err)
		}
		text.Write(append(line, '\n'))
		estimate, _ := tasks.Estimate(l.Model, l.Payload, l.Input)
		s.lines = append(s.lines, sampled{report.demand(l), estimate})
		return nil
	}
	if _, err := b.scanForSample(ctx, src, age, take); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text.Bytes())
	s.ID = b.KeyedID("sample " + hex.EncodeToString(sum[:]))
	s.Source = Source{Name: "sample of " + src.Name, Format: Native, CallEach: true, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text.Bytes())), nil
	}}
	return s, nil
}

// scanForSample scans a file without the results of earlier samples, so that the same file has the
// same sample.
func (b *Batches) scanForSample(ctx context.Context, src Source, age MaxAge, take func(*Line, int) error) (*Report, error) {
	stored, err := b.find(ctx, src, age, false)
	if err != nil {
		return nil, err
	}
	defer stored.close()
	return scan(ctx, b.Client, src, stored, take, noCut)
}

// drawn returns which of all lines is the next of a sample: any one of the next nth part of
// the file, so that lines that recur at an interval are not drawn too often or never.
func drawn(next, n, total int) int {
	from, to := next*total/n, (next+1)*total/n
	mixed := fnv.New32a()
	fmt.Fprint(mixed, next)
	return from + int(mixed.Sum32())%(to-from)
}

// demand returns the demand of a valid line.
func (r *Report) demand(l *Line) *Demand {
	for _, d := range r.Demands {
		if d.Kind == l.Kind && d.Model == l.Model {
			return d
		}
	}
	return nil
}

// Lines returns how many lines the sample has.
func (s *Sample) Lines() int { return len(s.lines) }

// Projection is the estimate of a sample for all lines that need a call.
type Projection struct {
	Lines   int     `json:"lines"`   // of the sample
	Paid    float64 `json:"paid"`    // neurons of the sample
	Failed  int     `json:"failed"`  // lines of the sample
	Neurons float64 `json:"neurons"` // of all lines that need a call, those of the sample included
	// NeuronsError is the most that Neurons is wrong with a probability of 95 %, as far as
	// the sample shows.
	NeuronsError float64 `json:"neurons_error"`
	// FailedFrom and FailedTo bound the share of lines that fail, with a probability of 95 %.
	FailedFrom float64      `json:"failed_from"`
	FailedTo   float64      `json:"failed_to"`
	Outputs    []SampleLine `json:"outputs"`
}

// SampleLine is a line of a sample with its output.
type SampleLine struct {
	ID      string           `json:"id"`
	Status  string           `json:"status"`
	Neurons float64          `json:"neurons"`
	Output  RawJSON          `json:"output,omitempty"`
	Error   *tasks.TaskError `json:"error,omitempty"`
}

// Project extrapolates from the output of a sample that has ended.
func (b *Batches) Project(ctx context.Context, s *Sample) (*Projection, error) {
	p := &Projection{Lines: len(s.lines), Outputs: []SampleLine{}}
	_, err := b.Lines(ctx, s.ID, func(line []byte) error {
		var l struct {
			SampleLine
			Usage tasks.Usage `json:"usage"`
		}
		if err := json.Unmarshal(bytes.Clone(line), &l); err != nil {
			return fmt.Errorf("decode a line of output: %w", err)
		}
		l.Neurons = l.Usage.Neurons
		if l.Error != nil {
			p.Failed++
		}
		p.Paid += l.Neurons
		p.Outputs = append(p.Outputs, l.SampleLine)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(p.Outputs) != len(s.lines) {
		return nil, fmt.Errorf("the sample %s has %d lines of output for %d lines", s.ID, len(p.Outputs), len(s.lines))
	}
	variance := 0.0
	for _, d := range s.Report.Demands {
		neurons, v := s.project(d, p.Outputs)
		p.Neurons += neurons
		variance += v
	}
	p.NeuronsError = confidence * math.Sqrt(variance)
	p.FailedFrom, p.FailedTo = share(p.Failed, p.Lines)
	return p, nil
}

const (
	confidence = 1.96 // standard errors of 95 %
	// unsampled is the relative standard error of a price by the list: ±40 %.
	unsampled = 0.4 / confidence
)

// project extrapolates the price of a demand: by the ratio of true and estimated prices, or
// by the mean where there are no estimates.
func (s *Sample) project(d *Demand, outputs []SampleLine) (neurons, variance float64) {
	var paid, size []float64 // by line; size is the estimate, or 1
	sumPaid, sumSize := 0.0, 0.0
	whole := d.Neurons
	if d.Unpriced > 0 {
		whole = float64(d.ToCall)
	}
	for i, l := range s.lines {
		if l.demand != d {
			continue
		}
		one := l.estimate
		if d.Unpriced > 0 {
			one = 1
		}
		paid, size = append(paid, outputs[i].Neurons), append(size, one)
		sumPaid, sumSize = sumPaid+outputs[i].Neurons, sumSize+one
	}
	n := float64(len(paid))
	if n == 0 || sumSize == 0 {
		return d.Neurons, square(unsampled * d.Neurons)
	}
	ratio := sumPaid / sumSize
	neurons = ratio * whole
	if n == 1 {
		return neurons, square(unsampled * neurons)
	}
	residuals := 0.0
	for i := range paid {
		residuals += square(paid[i] - ratio*size[i])
	}
	rest := max(0, 1-n/float64(max(d.ToCall, 1)))
	return neurons, square(whole/(sumSize/n)) * residuals / (n - 1) / n * rest
}

func square(x float64) float64 { return x * x }

// share returns the interval of Wilson for a share of which n draws are known.
func share(hits, n int) (from, to float64) {
	if n == 0 {
		return 0, 1
	}
	p, m, z := float64(hits)/float64(n), float64(n), square(confidence)
	middle := (p + z/(2*m)) / (1 + z/m)
	half := confidence / (1 + z/m) * math.Sqrt(p*(1-p)/m+z/(4*m*m))
	return cmp.Or(max(0, middle-half), 0), min(1, middle+half)
}
