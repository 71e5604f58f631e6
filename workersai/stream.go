package workersai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// readStream takes in server-sent events up to [DONE]. A stream that ends without it
// and without a finish reason was cut off, and one that has nothing before it is none.
func (c *collector) readStream(resp *http.Response) error {
	lines := bufio.NewReader(io.LimitReader(resp.Body, bodyLimit))
	for frames := 0; ; {
		line, err := readLine(lines)
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = bytes.TrimSpace(data)
			switch {
			case string(data) == "[DONE]" && frames == 0:
				return badAnswer(resp, "the stream holds no answer")
			case string(data) == "[DONE]":
				return nil
			case len(data) > 0:
				if err := c.frame(resp, data); err != nil {
					return err
				}
				frames++
			}
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			return transportError(err, resp)
		}
		if c.finish == "" {
			return transportError(io.ErrUnexpectedEOF, resp)
		}
		return nil
	}
}

func (c *collector) frame(resp *http.Response, data []byte) error {
	var p piece
	if err := json.Unmarshal(data, &p); err != nil {
		return badAnswer(resp, "a frame of the stream is not whole JSON")
	}
	if len(p.Errors) > 0 || len(p.Error) > 0 && string(p.Error) != "null" {
		return errorOf(resp, data)
	}
	c.add(p, true)
	return nil
}

// readLine reads a line of any length without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	return bytes.TrimRight(line, "\r\n"), err
}
