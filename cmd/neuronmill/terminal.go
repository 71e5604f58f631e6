package main

import (
	"io"
	"os"
	"strings"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// terminalWidth returns the number of columns of the terminal w; 0 if w is not a
// terminal.
func terminalWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool { return terminalWidth(w) > 0 }

// isPipe reports whether w is a pipe to another program.
func isPipe(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// fitted wraps a text between words if w is a terminal.
func fitted(w io.Writer, text string) string {
	if width := terminalWidth(w); width > 0 {
		return wrap(text, width, "")
	}
	return text
}

// wrap breaks a text between words into lines of at most width columns. All lines but the
// first begin with indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	used := 0
	for i, word := range strings.Fields(text) {
		size := runewidth.StringWidth(word)
		switch {
		case i == 0:
		case used+1+size > width:
			b.WriteString("\n" + indent)
			used = 0
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += size
	}
	return b.String()
}
