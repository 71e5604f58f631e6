package batch

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Source is a file that can be read from the start any number of times.
type Source struct {
	Name   string // for people
	Open   func() (io.ReadCloser, error)
	Format Format
	// CallEach calls every line. Otherwise a line that equals an earlier one gets its output.
	CallEach bool

	capped bool // each line must have a highest price
	free   bool // each line must have a known price
}

// ProblemLimit is the most problems that a Report lists.
const ProblemLimit = 100

// Report has the findings of a scan.
type Report struct {
	Lines    int       `json:"lines"` // blank ones left out
	Invalid  int       `json:"invalid"`
	Refusing int       `json:"-"`                  // the invalid lines that refuse the file
	Repeated int       `json:"repeated,omitempty"` // lines that equal an earlier one, and need no call
	Reused   int       `json:"reused,omitempty"`   // lines whose result is stored, and that need no call
	Problems []Problem `json:"problems,omitempty"` // the first ProblemLimit
	Demands  []*Demand `json:"demands"`            // in the order of their first lines
}

// Demand is the valid lines of a kind and model.
type Demand struct {
	Kind   tasks.Kind `json:"kind"`
	Model  string     `json:"model"`
	Lines  int        `json:"lines"`
	ToCall int        `json:"to_call"` // lines that need a call: the others are equal or stored ones
	Calls  int        `json:"calls"`   // of Workers AI, when none is tried again
	// Neurons is the estimated price by the list; Unpriced counts lines without an
	// estimate, such as recordings whose length is not known.
	Neurons  float64 `json:"neurons"`
	Unpriced int     `json:"unpriced,omitempty"`
}

// Calls returns the calls of all lines.
func (r *Report) Calls() (n int) {
	for _, d := range r.Demands {
		n += d.Calls
	}
	return n
}

// Neurons returns the estimated price of all lines, and how many lines have no estimate.
func (r *Report) Neurons() (neurons float64, unpriced int) {
	for _, d := range r.Demands {
		neurons, unpriced = neurons+d.Neurons, unpriced+d.Unpriced
	}
	return neurons, unpriced
}

// ErrEmpty: the file has no lines.
var ErrEmpty = errors.New("the file has no lines")

// Scan validates every line of a file, counts and estimates. It spends nothing.
func Scan(ctx context.Context, c *tasks.Client, src Source) (*Report, error) {
	return scan(ctx, c, src, &finder{}, func(*Line, int) error { return nil }, func() error { return nil })
}

// scan reads a file and calls line for each line, with the number of its chunk, and cut
// at the end of each segment. Lines whose output the finder finds need no call.
func scan(ctx context.Context, c *tasks.Client, src Source, stored *finder, line func(l *Line, chunk int) error, cut func() error) (*Report, error) {
	file, err := src.Open()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", src.Name, err)
	}
	defer file.Close()
	plain, err := Decompress(file)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	s := scanner{report: &Report{}, ids: newIDSet(), demands: map[route]*Demand{}, callEach: src.CallEach}
	for l, err := range src.Format(plain) {
		if err != nil {
			return nil, err
		}
		if s.report.Lines%1000 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.check(c)
		if err := src.unbounded(l); err != nil {
			l.wrong(tasks.CodePayloadInvalid, "%v", err)
		}
		s.add(l)
		if s.segment.full(l) {
			if err := cut(); err != nil {
				return nil, err
			}
			s.segment = segmentPlan{number: s.segment.number + 1}
		}
		if err := s.identify(ctx, l, stored); err != nil {
			return nil, err
		}
		if err := line(l, s.segment.chunk(l)); err != nil {
			return nil, err
		}
		s.count(l)
	}
	if s.report.Lines == 0 {
		return nil, ErrEmpty
	}
	if err := cut(); err != nil {
		return nil, err
	}
	return s.report, nil
}

type scanner struct {
	report  *Report
	ids     *idSet
	demands map[route]*Demand
	segment segmentPlan

	callEach bool
	first    firstLines
}

// route is what lines must have in common to share a chunk.
type route struct {
	kind    tasks.Kind
	model   string
	options string
}

// add counts a line and looks for its id among those before it.
func (s *scanner) add(l *Line) {
	s.report.Lines++
	if l.ID != "" {
		if first := s.ids.add(l.ID, l.Number); first > 0 {
			l.wrong(CodeDuplicateID, "the id is that of line %d", first)
			l.ID = ""
		}
	}
	if l.Problem == nil {
		return
	}
	s.report.Invalid++
	if l.Problem.Alone {
		return
	}
	s.report.Refusing++
	if len(s.report.Problems) < ProblemLimit {
		s.report.Problems = append(s.report.Problems, *l.Problem)
	}
}

// identify computes the digest of a valid line, and finds its stored output or the earlier
// line that it equals.
func (s *scanner) identify(ctx context.Context, l *Line, stored *finder) (err error) {
	if l.Problem == nil {
		if l.content, err = contentOf(l.Kind, l.Model, l.Payload); err != nil {
			return fmt.Errorf("line %d: %w", l.Number, err)
		}
	}
	l.from, err = stored.of(ctx, l) // of each line: the finder counts them
	switch {
	case err != nil || l.Problem != nil:
		return err
	case l.from != "":
		s.report.Reused++
	case !s.callEach:
		if first, repeated := s.first.find(l.content, place{s.segment.number, s.segment.records}); repeated {
			l.first = &first
			s.report.Repeated++
		}
	}
	return nil
}

// count adds a valid line to its demand.
func (s *scanner) count(l *Line) {
	if l.Problem != nil {
		return
	}
	key := route{kind: l.Kind, model: l.Model}
	d := s.demands[key]
	if d == nil {
		d = &Demand{Kind: l.Kind, Model: l.Model}
		s.demands[key] = d
		s.report.Demands = append(s.report.Demands, d)
	}
	d.Lines++
	if l.first != nil || l.from != "" {
		return
	}
	d.ToCall++
	d.Calls += s.segment.calls
	if neurons, ok := tasks.Estimate(l.Model, l.Payload, l.Input); ok {
		d.Neurons += neurons
	} else {
		d.Unpriced++
	}
}

const (
	segmentLines = 1000    // texts for embeddings
	segmentBytes = 1 << 20 // of input
)

// segmentPlan assigns the lines of one segment to chunks. The assignment is stored with
// the lines, so that a later version of the catalogue cannot change it.
type segmentPlan struct {
	number       int // of the segment
	records      int // lines in it, each counted once
	lines, bytes int
	chunks       int
	open         map[route]*openChunk
	calls        int // that the last line added
}

// noChunk is the chunk of a line that needs no call.
const noChunk = -1

type openChunk struct{ number, texts, tokens int }

func weight(l *Line) int {
	if e, ok := l.Payload.(tasks.Embedding); ok {
		return max(len(e.Texts), 1)
	}
	return 1
}

// full reports whether a line has no room in the segment.
func (s *segmentPlan) full(l *Line) bool {
	return s.lines > 0 && (s.lines+weight(l) > segmentLines || s.bytes+len(l.Input) > segmentBytes)
}

// chunk returns the number of a line's chunk within the segment. Embeddings of one model
// and pooling share a chunk, up to the texts and tokens of one call. A line that equals an
// earlier one, or whose output is stored, has none.
func (s *segmentPlan) chunk(l *Line) int {
	s.records, s.lines, s.bytes = s.records+1, s.lines+weight(l), s.bytes+len(l.Input)
	if l.first != nil || l.from != "" {
		return noChunk
	}
	e, ok := l.Payload.(tasks.Embedding)
	if !ok || l.Problem != nil {
		s.chunks++
		s.calls = 1
		return s.chunks - 1
	}
	model, _ := catalogue.Find(l.Model)
	most, tokens := max(model.Texts, 1), 0
	for _, text := range e.Texts {
		tokens += mostTokens(text, model)
	}
	key := route{l.Kind, l.Model, e.Pooling}
	c := s.open[key]
	s.calls = 0
	if c == nil || c.texts+len(e.Texts) > most || model.CallTokens > 0 && c.tokens+tokens > model.CallTokens {
		c = &openChunk{number: s.chunks}
		s.chunks++
		s.calls = (len(e.Texts) + most - 1) / most
		if s.open == nil {
			s.open = map[route]*openChunk{}
		}
		s.open[key] = c
	}
	c.texts, c.tokens = c.texts+len(e.Texts), c.tokens+tokens
	return c.number
}

// mostTokens estimates the tokens of a text on the high side, as a worker does before it
// fills a call.
func mostTokens(text string, m catalogue.Model) int {
	n := len(text)/3 + 2
	if m.TextTokens > 0 {
		n = min(n, m.TextTokens)
	}
	return n
}
