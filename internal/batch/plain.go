package batch

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// RawJSON is an encoded JSON value.
type RawJSON = jsontext.Value

// Template makes lines of plain values: texts, or the columns of a CSV file.
type Template struct {
	Kind  tasks.Kind
	Model string
	// Fields are the payload's other fields, for example {"target_lang": "es"}; may be nil.
	Fields map[string]RawJSON
}

// payload builds the payload whose main field is the text.
func (t Template) payload(text string) (jsontext.Value, error) {
	spec, _ := tasks.SpecOf(t.Kind)
	value, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		return nil, err
	}
	switch t.Kind {
	case tasks.KindEmbedding:
		value = append(append([]byte("["), value...), ']')
	case tasks.KindTranscription:
		value = append(append([]byte(`{"url":`), value...), '}')
	}
	out := append([]byte("{\""+spec.Field+"\":"), value...)
	for _, name := range slices.Sorted(maps.Keys(t.Fields)) {
		if name == spec.Field {
			continue
		}
		key, err := jsontext.AppendQuote(nil, name)
		if err != nil {
			return nil, err
		}
		out = append(append(append(append(out, ','), key...), ':'), t.Fields[name]...)
	}
	return append(out, '}'), nil
}

// set makes a line of a plain text.
func (t Template) set(l *Line, text string) {
	l.Kind, l.Model = t.Kind, t.Model
	if !utf8.ValidString(text) {
		l.wrong(CodeInvalidUTF8, "is not valid UTF-8")
		return
	}
	input, err := t.payload(text)
	if err != nil {
		l.wrong(CodeInvalidUTF8, "is not valid: %v", err)
		return
	}
	l.Input = input
}

// Text reads a file whose lines are the main field of a payload. The number of a line is
// its id.
func (t Template) Text() Format {
	return PerLine(func(l *Line, text []byte) {
		l.ID = strconv.Itoa(l.Number)
		t.set(l, string(text))
	})
}

// CSV reads a file with a header line. The column is the main field of a payload; the
// idColumn, if not empty, has the ids, otherwise the number of a row's first line is its
// id.
func (t Template) CSV(column, idColumn string, comma rune) Format {
	return func(r io.Reader) iter.Seq2[*Line, error] {
		return func(yield func(*Line, error) bool) {
			file := &rowReader{r: r, rest: rowLimit}
			rows := csv.NewReader(file)
			rows.ReuseRecord, rows.Comma = true, comma
			header, err := rows.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read the header: %w", err))
				return
			}
			names := slices.Clone(header)
			at, idAt := slices.Index(names, column), -1
			if at < 0 {
				yield(nil, fmt.Errorf("there is no column %q; the header has %s", column, quoted(names)))
				return
			}
			if idColumn != "" {
				if idAt = slices.Index(names, idColumn); idAt < 0 {
					yield(nil, fmt.Errorf("there is no column %q; the header has %s", idColumn, quoted(names)))
					return
				}
			}
			var l Line
			for {
				file.rest = rowLimit
				row, err := rows.Read()
				if errors.Is(err, io.EOF) {
					return
				}
				l = Line{}
				broken, isRow := errors.AsType[*csv.ParseError](err)
				if err != nil && !isRow {
					yield(nil, fmt.Errorf("read the file: %w", err))
					return
				}
				if isRow {
					l.Number = broken.StartLine
					l.wrong(CodeInvalidCSV, "%v", broken.Err)
					if !errors.Is(err, csv.ErrFieldCount) { // the rows after an open quote cannot be told
						l.Problem.Message += "; the lines after it are not read"
						yield(&l, nil)
						return
					}
				} else {
					l.Number, _ = rows.FieldPos(0)
					t.row(&l, row, at, idAt)
				}
				if !yield(&l, nil) {
					return
				}
			}
		}
	}
}

// row makes a line of a row of CSV.
func (t Template) row(l *Line, row []string, at, idAt int) {
	l.ID = strconv.Itoa(l.Number)
	if idAt >= 0 {
		l.ID = row[idAt]
		if !l.checkID() {
			return
		}
	}
	if len(row[at]) > LineLimit {
		l.wrong(CodeTooLarge, "the column is longer than %d bytes", LineLimit)
		return
	}
	t.set(l, row[at])
}

func quoted(names []string) string {
	const most = 20
	encoded, _ := json.Marshal(names[:min(len(names), most)])
	return short(string(encoded))
}

// rowLimit is the most bytes that are read for one row: an open quote would otherwise take
// the rest of the file into memory.
const rowLimit = 16 << 20

var errLongRow = fmt.Errorf("a row has more than %d bytes: is a quote open?", rowLimit)

// rowReader bounds the length of a row and skips a byte order mark at the start.
type rowReader struct {
	r       io.Reader
	rest    int // bytes that may still be read for the row
	started bool
}

func (f *rowReader) Read(p []byte) (int, error) {
	if f.rest <= 0 {
		return 0, errLongRow
	}
	if !f.started {
		f.started = true
		mark := make([]byte, len(byteOrderMark))
		n, err := io.ReadFull(f.r, mark)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err
		}
		mark = bytes.TrimPrefix(mark[:n], byteOrderMark)
		if len(mark) > 0 {
			f.r = io.MultiReader(bytes.NewReader(mark), f.r)
		}
	}
	n, err := f.r.Read(p)
	f.rest -= n
	return n, err
}
