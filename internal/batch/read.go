package batch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"github.com/klauspost/compress/gzip"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// Format reads the lines of a file. It yields an error, as the last element, when the
// file cannot be read on; a line that is not valid has its Problem instead.
type Format func(io.Reader) iter.Seq2[*Line, error]

// Native reads lines in the native form, one JSON object each.
func Native(r io.Reader) iter.Seq2[*Line, error] { return PerLine(parseNative)(r) }

// PerLine makes a Format of a function that reads the text of one line. The function sets
// the fields of the line, or its Problem. Blank lines are skipped. Text and line are valid
// until the next one is read.
func PerLine(parse func(l *Line, text []byte)) Format {
	return func(r io.Reader) iter.Seq2[*Line, error] {
		return func(yield func(*Line, error) bool) {
			var l Line
			for n, text := range textLines(r) {
				l = Line{Number: n}
				switch {
				case text.err != nil:
					yield(nil, text.err)
					return
				case text.long:
					l.wrong(CodeTooLarge, "is longer than %d bytes", LineLimit)
				default:
					parse(&l, text.bytes)
				}
				if !yield(&l, nil) {
					return
				}
			}
		}
	}
}

// textLine is the text of one line that is not blank.
type textLine struct {
	bytes []byte // without the end of the line; nil for a long one
	long  bool   // longer than LineLimit
	err   error  // the file cannot be read on
}

var byteOrderMark = []byte("\xEF\xBB\xBF")

// textLines yields the lines of a file with their numbers, which count blank lines too.
// It accepts CRLF, a byte order mark at the start, and a last line without an end.
func textLines(r io.Reader) iter.Seq2[int, textLine] {
	return func(yield func(int, textLine) bool) {
		buffered := bufio.NewReaderSize(r, 256<<10)
		var long []byte // a line that is longer than the buffer
		for n := 1; ; n++ {
			text, err := buffered.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				long = long[:0]
				for errors.Is(err, bufio.ErrBufferFull) {
					if len(long) <= LineLimit+2 {
						long = append(long, text...)
					}
					text, err = buffered.ReadSlice('\n')
				}
				if len(long) <= LineLimit+2 {
					long = append(long, text...)
				}
				text = long
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(n, textLine{err: fmt.Errorf("read line %d: %w", n, err)})
				return
			}
			text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
			if n == 1 {
				text = bytes.TrimPrefix(text, byteOrderMark)
			}
			line := textLine{bytes: text}
			if len(text) > LineLimit {
				line = textLine{long: true}
			}
			if len(bytes.TrimSpace(text)) > 0 && !yield(n, line) || err != nil {
				return
			}
		}
	}
}

// zstdMemory is the most memory that a decoder of zstd may use, in bytes.
const zstdMemory = 64 << 20

// Decompress returns the content of a file that is plain, gzip or zstd, which its first
// bytes tell. The caller closes the result, not the file in it.
func Decompress(file io.Reader) (io.ReadCloser, error) {
	counted := &countingReader{r: file}
	buffered := bufio.NewReaderSize(counted, 256<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("read the gzip file: %w", err)
		}
		return &inflated{ReadCloser: z, file: counted}, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxMemory(zstdMemory), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("read the zstd file: %w", err)
		}
		return &inflated{ReadCloser: z.IOReadCloser(), file: counted}, nil
	}
	return io.NopCloser(buffered), nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// A file may grow to inflateFree bytes in any case, beyond that to inflateRatio times its
// own size.
const (
	inflateFree  = 1 << 30
	inflateRatio = 200
)

var errInflates = fmt.Errorf("the compressed file grows to more than %d times its size", inflateRatio)

// inflated bounds the growth of a compressed file.
type inflated struct {
	io.ReadCloser
	file *countingReader
	n    int64
}

func (i *inflated) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	i.n += int64(n)
	if i.n > inflateFree && i.n > inflateRatio*i.file.n {
		return n, errInflates
	}
	return n, err
}
