package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"
)

// lineLimit is the longest line of stdin.
const lineLimit = 1 << 20

// input is one INPUT, or one line of stdin.
type input struct {
	n    int // from 1
	text string
	err  error // of this line alone; the next may be well
}

// inputs gives the arguments, or where the one argument is "-", the lines of stdin as
// they come. Blank lines are passed over.
func inputs(args []string, stdin io.Reader) iter.Seq[input] {
	return func(yield func(input) bool) {
		if len(args) != 1 || args[0] != "-" {
			for i, a := range args {
				if !yield(input{n: i + 1, text: a}) {
					return
				}
			}
			return
		}
		lines := bufio.NewReaderSize(stdin, 64<<10)
		for n := 1; ; n++ {
			line, err := readLine(lines)
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\xEF\xBB\xBF"))
			}
			in := input{n: n, text: string(line)}
			switch {
			case errors.Is(err, errLong):
				in.err, err = err, nil
			case !utf8.Valid(line):
				in.err = errors.New("is not valid UTF-8")
			}
			if len(bytes.TrimSpace(line)) > 0 || in.err != nil {
				if !yield(in) {
					return
				}
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, io.EOF) {
				yield(input{n: n, err: fmt.Errorf("read stdin: %w", err)})
			}
			return
		}
	}
}

var errLong = fmt.Errorf("is longer than %d bytes", lineLimit)

// readLine reads a line without its end; the rest of one that is too long is skipped.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line) <= lineLimit {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > lineLimit {
			return nil, errLong
		}
		return line, err
	}
}
