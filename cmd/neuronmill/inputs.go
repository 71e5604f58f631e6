package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/tasks"
)

// lineLimit is the maximum length of a line of stdin in bytes.
const lineLimit = 1 << 20

// input is one INPUT, or one line of stdin.
type input struct {
	n     int // number of the argument or line, from 1
	row   int // the same without blank lines
	text  string
	blank bool  // a blank line, which is not a task
	err   error // about this line only; the next one may be valid
}

// inputs yields the arguments. If the only argument is "-", it yields the lines of stdin
// as they arrive, until the context ends.
func inputs(ctx context.Context, args []string, stdin io.Reader) iter.Seq[input] {
	if isStdin(args) {
		return until(ctx, lines(stdin))
	}
	return func(yield func(input) bool) {
		for i, a := range args {
			if ctx.Err() != nil || !yield(input{n: i + 1, row: i + 1, text: a}) {
				return
			}
		}
	}
}

func isStdin(args []string) bool { return len(args) == 1 && args[0] == "-" }

// until yields a sequence until the context ends, also while it waits for the next
// element. A read of a terminal cannot be interrupted, so the reading goroutine may be
// left behind.
func until(ctx context.Context, seq iter.Seq[input]) iter.Seq[input] {
	return func(yield func(input) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		passed := make(chan input)
		go func() {
			defer close(passed)
			for in := range seq {
				select {
				case passed <- in:
				case <-ctx.Done():
					return
				}
			}
		}()
		for {
			select {
			case in, ok := <-passed:
				if !ok || !yield(in) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// lines yields the lines of a reader. A line that is too long or not UTF-8 has its own
// error, and the following lines are read. A read error is the last input.
func lines(r io.Reader) iter.Seq[input] {
	return func(yield func(input) bool) {
		lines, row := bufio.NewReaderSize(r, 64<<10), 0
		for n := 1; ; n++ {
			line, err := readLine(lines)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLong) {
				yield(input{n: n, row: row + 1, err: fmt.Errorf("read stdin: %w", err)})
				return
			}
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\xEF\xBB\xBF"))
			}
			in := input{n: n, text: string(line)}
			switch {
			case errors.Is(err, errLong):
				in.err = tasks.ValidationError{{Message: errLong.Error()}}
			case len(bytes.TrimSpace(line)) == 0:
				in.blank = true
			case !utf8.Valid(line):
				in.err = tasks.ValidationError{{Message: "is not valid UTF-8"}}
			}
			last := errors.Is(err, io.EOF)
			if last && len(line) == 0 {
				return // no line follows the last newline
			}
			if !in.blank {
				row++
			}
			in.row = row
			if !yield(in) || last {
				return
			}
		}
	}
}

var errLong = fmt.Errorf("is longer than %d bytes", lineLimit)

// readLine reads a line without its newline. It skips the rest of a line that is too
// long.
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

// countLines returns the number of lines from the current position of a file that are not
// blank. It returns 0 if counting would consume the input.
func countLines(r io.Reader) (n int64) {
	file, ok := r.(*os.File)
	if !ok {
		return 0
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0 // a pipe or a terminal
	}
	buffer, blank := make([]byte, 256<<10), true
	for {
		got, err := file.Read(buffer)
		for _, c := range buffer[:got] {
			switch c {
			case '\n':
				blank = true
			case ' ', '\t', '\r', '\v', '\f':
			default:
				if blank {
					n++
				}
				blank = false
			}
		}
		if err != nil {
			break
		}
	}
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return 0
	}
	return n
}
