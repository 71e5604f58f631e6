package workersai

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// event is one server-sent event.
type event struct {
	name string // of the field event; empty when there is none
	data []byte
}

// eventReader reads server-sent events as the WHATWG specification defines, section
// "Interpreting an event stream", with one exception. It also returns an event that the
// end of the stream leaves unfinished. That may be the last event of a paid answer, and a
// reader detects truncated JSON.
type eventReader struct {
	lines   *bufio.Reader
	left    *io.LimitedReader
	begun   bool // the first line is read, and its byte order mark removed
	skipsLF bool // the last line ended with CR: a following LF belongs to it
}

// errTooLarge reports that a stream exceeds bodyLimit.
var errTooLarge = errors.New("the stream is too large")

func newEventReader(r io.Reader) *eventReader {
	limited := &io.LimitedReader{R: r, N: bodyLimit + 1}
	return &eventReader{lines: bufio.NewReader(limited), left: limited}
}

// next returns the next event with data, or io.EOF after the last one.
func (r *eventReader) next() (event, error) {
	var (
		e       event
		hasData bool
	)
	for {
		line, err := r.line()
		if r.left.N <= 0 {
			return event{}, errTooLarge
		}
		if name, value, ok := field(line); ok {
			switch name {
			case "event":
				e.name = string(value)
			case "data":
				if hasData {
					e.data = append(e.data, '\n')
				}
				e.data, hasData = append(e.data, value...), true
			}
		}
		ends := len(line) == 0 || errors.Is(err, io.EOF)
		switch {
		case ends && hasData:
			return e, nil
		case err != nil:
			return event{}, err
		case ends:
			e = event{}
		}
	}
}

// field splits a line into its name and value; false for a comment.
func field(line []byte) (name string, value []byte, ok bool) {
	before, after, _ := bytes.Cut(line, []byte(":"))
	return string(before), bytes.TrimPrefix(after, []byte(" ")), len(before) > 0
}

// line reads up to CR LF, LF or CR. It does not wait for the byte after a CR.
func (r *eventReader) line() ([]byte, error) {
	var line []byte
	for {
		if _, err := r.lines.Peek(1); err != nil {
			return r.withoutMark(line), err
		}
		buffered, _ := r.lines.Peek(r.lines.Buffered())
		if buffered[0] == '\n' && r.skipsLF {
			buffered = buffered[:0]
		}
		r.skipsLF = false
		n := bytes.IndexByte(buffered, '\n')
		if cr := bytes.IndexByte(buffered, '\r'); cr >= 0 && (n < 0 || cr < n) {
			n = cr
		}
		switch {
		case len(buffered) == 0:
			_, _ = r.lines.Discard(1)
		case n < 0:
			line = append(line, buffered...)
			_, _ = r.lines.Discard(len(buffered))
		default:
			r.skipsLF = buffered[n] == '\r'
			line = append(line, buffered[:n]...)
			_, _ = r.lines.Discard(n + 1)
			return r.withoutMark(line), nil
		}
	}
}

// withoutMark removes the byte order mark of the stream's first line.
func (r *eventReader) withoutMark(line []byte) []byte {
	if !r.begun {
		line = bytes.TrimPrefix(line, []byte("\xEF\xBB\xBF"))
	}
	r.begun = true
	return line
}
