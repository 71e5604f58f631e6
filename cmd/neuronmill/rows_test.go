package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// at runs the program on the embedded stack of a folder.
func at(t *testing.T, dir, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs safeBuffer
	code = run(t.Context(), append(args, "--data-dir", dir), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestABadLineIsToldWithItsNumberAndTheOthersGoOn(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	stdin := "one\nbad \xff\n" + strings.Repeat("long ", 300_000) + "\nwith a \x00\nfive\n"
	for _, verb := range []string{"run", "enqueue"} {
		code, stdout, stderr := at(t, t.TempDir(), stdin, verb, "translation", "-", "--target-lang", "es")
		require.Equal(t, 1, code, stderr)
		require.Contains(t, stderr, "line 2: is not valid UTF-8")
		require.Contains(t, stderr, "line 3: is longer than 1048576 bytes")
		require.Contains(t, stderr, "line 4: text: has a NUL character")
		require.Len(t, strings.Fields(strings.ReplaceAll(stdout, "[es] ", "")), 2, stdout)
	}
}

func TestWhatWasReadBeforeABrokenInputIsEnqueued(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out, errs safeBuffer
	broken := &brokenReader{strings.NewReader("one\ntwo\nthr")}
	code := run(t.Context(), []string{"enqueue", "text", "-", "--data-dir", t.TempDir()}, broken, &out, &errs)
	require.Equal(t, 1, code)
	require.Len(t, strings.Fields(out.String()), 2, "two whole lines")
	require.Contains(t, errs.String(), "line 3: read stdin: the disk is gone")
	require.Contains(t, errs.String(), "2 accepted")
}

// brokenReader fails at the end of its text.
type brokenReader struct{ *strings.Reader }

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.Len() == 0 {
		return 0, fmt.Errorf("the disk is gone")
	}
	return b.Reader.Read(p)
}

func TestTheKeyOfARowIsPrintedAndComesBackInTheResult(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	payloads := `{"key": "row-1", "text": "one", "target_lang": "es"}` + "\n\n" +
		`{"key": 17, "text": "two", "target_lang": "es"}` + "\n" +
		`{"key": "row-4", "text": "", "target_lang": "es"}` + "\n" +
		`{"key": ["x"], "text": "five", "target_lang": "es"}` + "\n"
	code, stdout, stderr := at(t, t.TempDir(), payloads, "run", "translation", "--payload", "-", "--json", "--metadata", "order=7")
	require.Equal(t, 1, code, stderr)
	keys := map[string]string{}
	for line := range strings.Lines(stdout) {
		var r tasks.Result
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		require.Equal(t, "7", r.Metadata["order"])
		out, err := tasks.OutputOf[tasks.TranslationOutput](&r)
		require.NoError(t, err)
		keys[r.Metadata["key"]] = out.TranslatedText
	}
	require.Len(t, keys, 2)
	require.Contains(t, keys["row-1"], "one")
	require.Contains(t, keys["17"], "two")
	require.Contains(t, stderr, "line 4 (row-4): text: is empty")
	require.Contains(t, stderr, "line 5: key: wants a string or a number")

	keyed := "row-1\tone\nno key\n\nrow-4\ttab\tin it\n"
	_, stdout, stderr = at(t, t.TempDir(), keyed, "run", "translation", "-", "--keyed", "--target-lang", "es")
	require.Contains(t, stderr, "line 2: key: is missing: with --keyed a line is a key, a tab and the input")
	require.Equal(t, "row-1\t[es] one\nrow-4\t[es] tab in it\n", stdout)
	require.Equal(t, `a\tb\\t\nc`, lineBreaks.Replace("a\tb\\t\nc"))

	_, stdout, _ = at(t, t.TempDir(), keyed, "enqueue", "translation", "-", "--keyed", "--target-lang", "es")
	require.Regexp(t, `^t_[0-9a-f]{32}\trow-1\nt_[0-9a-f]{32}\trow-4\n$`, stdout)

	code, _, stderr = at(t, t.TempDir(), "", "enqueue", "text", "--keyed", "one")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "--keyed is for lines of stdin")
}

func TestBlankAndFailedLinesShiftNothing(t *testing.T) {
	realtest.Long(t)
	t.Setenv("PATH", t.TempDir())
	_, stdout, stderr := at(t, t.TempDir(), "one\n\n  \nfour\n", "run", "translation", "-", "--target-lang", "es")
	require.Equal(t, "[es] one\n\n\n[es] four\n", stdout, stderr)
	_, stdout, stderr = at(t, t.TempDir(), "a mill\nnsfw\na river\n", "run", "image", "-")
	lines := strings.Split(stdout, "\n")
	require.Len(t, lines, 4, stderr)
	require.Empty(t, lines[1])
	require.Contains(t, lines[2], "image.jpg")

	// The same rows have the same idempotency keys; blank lines make no difference.
	_, first, _ := at(t, t.TempDir(), "one\ntwo\n", "enqueue", "text", "-", "--idempotency-key", "monday")
	_, second, _ := at(t, t.TempDir(), "\none\n\ntwo\n", "enqueue", "text", "-", "--idempotency-key", "monday")
	require.Equal(t, first, second)
	ids := strings.Fields(first)
	require.Len(t, ids, 2)
	require.NotEqual(t, ids[0], ids[1])
	// With explicit keys, the order makes no difference either.
	_, first, _ = at(t, t.TempDir(), "a\tone\nb\ttwo\n", "enqueue", "text", "-", "--keyed", "--idempotency-key", "monday")
	_, second, _ = at(t, t.TempDir(), "b\ttwo\n", "enqueue", "text", "-", "--keyed", "--idempotency-key", "monday")
	require.Contains(t, first, second)
}

func TestLinesAreNumberedAsAnEditorDoes(t *testing.T) {
	var got []string
	for in := range lines(strings.NewReader("\xEF\xBB\xBFa\r\n\n b\n\t\nc")) {
		got = append(got, fmt.Sprint(in.n, in.row, in.blank, in.text))
	}
	require.Equal(t, []string{"1 1 falsea", "2 1 true", "3 2 false b", "4 2 true\t", "5 3 falsec"}, got)
}

func TestIntegersKeepAllDigitsThroughFlags(t *testing.T) {
	seed := int64(9007199254740993)
	var c kindCmd[imageInput, enqueueOne]
	c.derive()
	parser, err := kong.New(&c)
	require.NoError(t, err)
	_, err = parser.Parse([]string{"--seed", "9007199254740993", "a mill"})
	require.NoError(t, err)
	p, err := c.payload("a mill")
	require.NoError(t, err)
	require.Equal(t, seed, *p.(tasks.Image).Seed)
	_, line, err := payloadKey(`{"key": "a", "seed": 9007199254740993, "prompt": "x"}`)
	require.NoError(t, err)
	require.Contains(t, line, "9007199254740993")
}

func TestBrokenBytesAndNULsAreRefusedAsArgumentsToo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for want, args := range map[string][]string{
		`the argument "bad \xff" is not valid UTF-8`:     {"text", "bad \xff"},
		`the argument "bad \x00" has a NUL character`:    {"text", "bad \x00"},
		"--negative-prompt is not valid UTF-8":           {"image", "a mill", "--negative-prompt", "bad \xff"},
		"--system is not valid UTF-8":                    {"text", "x", "--system", "bad \xff"},
		"--messages is not valid UTF-8":                  {"text", "--messages", "[{\"role\": \"user\", \"content\": \"bad \xff\"}]"},
		"--payload is not valid UTF-8":                   {"text", "--payload", "{\"prompt\": \"bad \xff\"}"},
		`the argument "bad \xff.wav" is not valid UTF-8`: {"transcription", "bad \xff.wav"},
	} {
		for _, verb := range []string{"run", "enqueue"} {
			code, stdout, stderr := at(t, t.TempDir(), "", append([]string{verb}, args...)...)
			require.Equal(t, 2, code, "%s: %s", want, stdout)
			require.Contains(t, stderr, want)
		}
	}
}

func TestAPipeIsRefusedAsRecording(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	pipe := filepath.Join(t.TempDir(), "pipe.wav")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, _, stderr := at(t, t.TempDir(), "", "enqueue", "transcription", pipe)
		if code != 2 || !strings.Contains(stderr, "is a pipe") {
			t.Errorf("exit %d: %s", code, stderr)
		}
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the command waits for the pipe")
	}
	code, _, stderr := at(t, t.TempDir(), "", "run", "transcription", t.TempDir())
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "is a folder")
}
