package workersai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// streamed reports whether the body is an event stream rather than one JSON document. The
// first byte decides; if it is ambiguous, the content type does.
func (r reply) streamed() bool {
	head := bufio.NewReaderSize(r.Body, 64)
	r.Body = struct {
		io.Reader
		io.Closer
	}{head, r.Body}
	start := ""
	for n := 1; n <= head.Size(); n++ {
		peeked, err := head.Peek(n)
		start = strings.TrimLeft(strings.TrimPrefix(string(peeked), "\xEF\xBB\xBF"), " \t\r\n")
		if err != nil || len(start) > len("event:") || start != "" && (start[0] == '{' || start[0] == ':') {
			break
		}
	}
	if strings.HasPrefix(start, "{") {
		return false
	}
	for _, field := range []string{":", "data:", "event:"} {
		if strings.HasPrefix(start, field) {
			return true
		}
	}
	return r.mediaType() == "text/event-stream"
}

// readStream reads server-sent events up to [DONE]. A stream that ends without [DONE] and
// without a finish reason was cut off.
func (c *collector) readStream(r reply) error {
	events := newEventReader(r.Body)
	for {
		e, err := events.next()
		switch {
		case errors.Is(err, errTooLarge):
			return r.tooLarge()
		case errors.Is(err, io.EOF) && c.finish == "":
			return r.transportError(io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return r.transportError(err)
		}
		data := bytes.TrimSpace(e.data)
		if string(data) == "[DONE]" {
			return nil
		}
		if err := c.frame(r, e.name, data); err != nil {
			return err
		}
		c.passText()
	}
}

// frame adds one event. It ignores unknown keys and frames.
func (c *collector) frame(r reply, name string, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var p piece
	err := decode(data, &p)
	if err != nil && data[0] != '{' && json.Valid(data) && name != "error" {
		return nil
	}
	isError := name == "error" || p.statement().found || strings.HasPrefix(string(data), "AiError")
	switch {
	case isError || c.finish == "error":
		e := r.refusal(data)
		e.lost = c.begun()
		return e
	case err != nil:
		return r.damaged("a frame of the stream is not whole JSON")
	}
	c.add(p, true)
	return nil
}
