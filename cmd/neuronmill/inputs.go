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
// they come, until the context ends. Blank lines are passed over.
func inputs(ctx context.Context, args []string, stdin io.Reader) iter.Seq[input] {
	if isStdin(args) {
		return until(ctx, lines(stdin))
	}
	return func(yield func(input) bool) {
		for i, a := range args {
			if ctx.Err() != nil || !yield(input{n: i + 1, text: a}) {
				return
			}
		}
	}
}

func isStdin(args []string) bool { return len(args) == 1 && args[0] == "-" }

// until passes a sequence on until the context ends, also while the next element is
// being waited for: nothing ends a read of a terminal, so the goroutine that reads is
// left behind then.
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

// lines reads lines.
func lines(r io.Reader) iter.Seq[input] {
	return func(yield func(input) bool) {
		lines := bufio.NewReaderSize(r, 64<<10)
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

// countLines is how many lines a file has from where it stands; 0 when that cannot be
// told without reading it away.
func countLines(r io.Reader) (n int64) {
	file, ok := r.(*os.File)
	if !ok {
		return 0
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0 // a pipe or a terminal
	}
	buffer := make([]byte, 256<<10)
	for {
		got, err := file.Read(buffer)
		n += int64(bytes.Count(buffer[:got], []byte("\n")))
		if err != nil {
			break
		}
	}
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return 0
	}
	return n
}
