package batch_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func client(t testing.TB) *tasks.Client {
	return tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: storage.NewMemory()})
}

func source(text string, f batch.Format) batch.Source {
	return batch.Source{Name: "lines", Format: f, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

func scan(t testing.TB, text string, f batch.Format) *batch.Report {
	t.Helper()
	report, err := batch.Scan(t.Context(), client(t), source(text, f))
	require.NoError(t, err)
	return report
}

func TestEachBadLineHasItsNumberAndCode(t *testing.T) {
	const good = `{"id": "good", "kind": "embedding", "input": {"texts": ["a"]}}`
	for name, c := range map[string]struct{ line, code, message string }{
		"trailing comma":        {`{"id":"a","kind":"text",}`, "invalid_json", "is not valid JSON"},
		"single quotes":         {`{'id':'a'}`, "invalid_json", "at byte 1"},
		"comment":               {`{"id":"a"} // note`, "invalid_json", "at byte"},
		"not a number":          {`{"id":"a","kind":"text","input":{"prompt":"x","temperature":NaN}}`, "invalid_json", "at byte"},
		"two values":            {`{"id":"a"} {"id":"b"}`, "invalid_json", "at byte"},
		"cut in the middle":     {`{"id":"a","kind":"te`, "invalid_json", "is not valid JSON"},
		"mark in the middle":    {"\xEF\xBB\xBF" + good, "invalid_json", "at byte 0"},
		"name in capitals":      {`{"ID":"a","kind":"text","input":{"prompt":"x"}}`, "unknown_field", `"ID": no such field`},
		"unknown field":         {`{"id":"a","kind":"text","custom":1,"input":{"prompt":"x"}}`, "unknown_field", `"custom": no such field`},
		"field twice":           {`{"id":"a","id":"b","kind":"text","input":{"prompt":"x"}}`, "invalid_json", "duplicate"},
		"unknown payload field": {`{"id":"a","kind":"text","input":{"promt":"x"}}`, "payload_invalid", "promt: no such field; did you mean prompt?"},
		"broken byte":           {"{\"id\":\"a\",\"kind\":\"text\",\"input\":{\"prompt\":\"\xff\"}}", "invalid_utf8", "invalid UTF-8"},
		"lone surrogate":        {`{"id":"a","kind":"text","input":{"prompt":"\ud800"}}`, "invalid_utf8", "at byte"},
		"number out of range":   {`{"id":"a","kind":"image","input":{"prompt":"x","steps":9223372036854775808}}`, "payload_invalid", "steps"},
		"fraction for a whole":  {`{"id":"a","kind":"image","input":{"prompt":"x","width":513.5}}`, "payload_invalid", "width"},
		"string for a number":   {`{"id":"a","kind":"text","input":{"prompt":"x","max_tokens":"12"}}`, "payload_invalid", "max_tokens: wants a whole number"},
		"number for a string":   {`{"id":"a","kind":"text","input":{"prompt":12}}`, "payload_invalid", "prompt: wants a string"},
		"number for the kind":   {`{"id":"a","kind":7,"input":{}}`, "field_type", "kind: wants a string"},
		"list for the id":       {`{"id":["a"],"kind":"text","input":{}}`, "field_type", "id: wants a string or a number"},
		"list":                  {`["a"]`, "field_type", "wants an object"},
		"bare string":           {`"a"`, "field_type", "wants an object"},
		"null":                  {`null`, "missing_field", "id: is missing"},
		"no id":                 {`{"kind":"text","input":{"prompt":"x"}}`, "missing_field", "id: is missing"},
		"empty id":              {`{"id":"","kind":"text","input":{"prompt":"x"}}`, "missing_field", "id: is missing"},
		"no kind":               {`{"id":"a","input":{"prompt":"x"}}`, "missing_field", "kind: is missing"},
		"no input":              {`{"id":"a","kind":"text"}`, "missing_field", "input: is missing"},
		"null input":            {`{"id":"a","kind":"text","input":null}`, "missing_field", "input: is missing"},
		"control in the id":     {`{"id":"a\u0000b","kind":"text","input":{"prompt":"x"}}`, "invalid_id", "id: has a control"},
		"newline in the id":     {`{"id":"a\nb","kind":"text","input":{"prompt":"x"}}`, "invalid_id", "id: has a control"},
		"override in the id":    {`{"id":"a` + "\u202e" + `b","kind":"text","input":{"prompt":"x"}}`, "invalid_id", "id: has a control"},
		"zero width in the id":  {`{"id":"a` + "\u200b" + `b","kind":"text","input":{"prompt":"x"}}`, "invalid_id", "id: has a control"},
		"long id":               {`{"id":"` + strings.Repeat("a", 513) + `","kind":"text","input":{"prompt":"x"}}`, "invalid_id", "513 bytes"},
		"duplicate id":          {`{"id":"good","kind":"text","input":{"prompt":"x"}}`, "duplicate_id", "the id is that of line 1"},
		"unknown kind":          {`{"id":"a","kind":"poem","input":{"prompt":"x"}}`, "payload_invalid", `kind: "poem" is none of`},
		"model of another kind": {`{"id":"a","kind":"text","model":"@cf/baai/bge-m3","input":{"prompt":"x"}}`, "payload_invalid", "is for embedding tasks, not for text"},
		"path as model":         {`{"id":"a","kind":"text","model":"@cf/../../accounts","input":{"prompt":"x"}}`, "payload_invalid", "is no model id"},
		"model with a query":    {`{"id":"a","kind":"text","model":"@cf/a/b?x=","input":{"prompt":"x"}}`, "payload_invalid", "is no model id"},
		"blank prompt":          {`{"id":"a","kind":"text","input":{"prompt":"  "}}`, "payload_invalid", "prompt"},
		"max_tokens of 0":       {`{"id":"a","kind":"text","input":{"prompt":"x","max_tokens":0}}`, "payload_invalid", "max_tokens: 0 is out of range"},
		"temperature of 5.1":    {`{"id":"a","kind":"text","input":{"prompt":"x","temperature":5.1}}`, "payload_invalid", "temperature"},
		"image of no width":     {`{"id":"a","kind":"image","model":"@cf/lykon/dreamshaper-8-lcm","input":{"prompt":"x","width":1}}`, "payload_invalid", "width"},
		"unknown language":      {`{"id":"a","kind":"translation","input":{"text":"x","target_lang":"xx"}}`, "payload_invalid", "target_lang"},
		"no texts":              {`{"id":"a","kind":"embedding","input":{"texts":[]}}`, "payload_invalid", "texts: is empty"},
		"one empty text":        {`{"id":"a","kind":"embedding","input":{"texts":["a",""]}}`, "payload_invalid", "texts[1]: is empty"},
		"NUL in a text":         {`{"id":"a","kind":"embedding","input":{"texts":["a\u0000"]}}`, "payload_invalid", "texts[0]: has a NUL"},
		"local file":            {`{"id":"a","kind":"transcription","input":{"audio":{"path":"/etc/passwd"}}}`, "payload_invalid", "audio.path"},
		"another tenant":        {`{"id":"a","kind":"transcription","input":{"audio":{"key":"other/files/x"}}}`, "payload_invalid", "audio.key: must begin with default/"},
		"too long":              {`{"id":"` + strings.Repeat("a", batch.LineLimit) + `"}`, "line_too_large", "is longer than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			last := strings.Replace(good, "good", "last", 1)
			report := scan(t, good+"\n\n"+c.line+"\n"+last, batch.Native)
			require.Equal(t, 3, report.Lines)
			require.Equal(t, 1, report.Invalid)
			require.Len(t, report.Problems, 1)
			got := report.Problems[0]
			require.Equal(t, 3, got.Line)
			require.Equal(t, c.code, got.Code, got.Message)
			require.Contains(t, got.Message, c.message)
			require.Less(t, len(got.Message), 400)
			require.Equal(t, 2, report.Demands[0].Lines, "the good lines")
		})
	}
}

func TestGoodLinesAreAcceptedHoweverTheyEnd(t *testing.T) {
	line := func(id string) string {
		return `{"id": ` + id + `, "kind": "embedding", "input": {"texts": ["a"]}}`
	}
	for name, text := range map[string]string{
		"mark":            "\xEF\xBB\xBF" + line(`"a"`) + "\n",
		"CRLF":            line(`"a"`) + "\r\n" + line(`"b"`) + "\r\n",
		"no last newline": line(`"a"`) + "\n" + line(`"b"`),
		"blank lines":     "\n \t\r\n" + line(`"a"`) + "\n\n\n" + line(`"b"`) + "\n\n",
		"number as id":    line(`17`),
		"long line":       `{"id":"a","kind":"text","input":{"prompt":"` + strings.Repeat("word ", 60_000) + `"}}`,
		"line at limit":   `{"id":"a","kind":"text","input":{"prompt":"a"}` + strings.Repeat(" ", batch.LineLimit-48) + `}`,
	} {
		report := scan(t, text, batch.Native)
		require.Empty(t, report.Problems, name)
		require.NotZero(t, report.Lines, name)
	}
}

func TestAFileWithoutLinesIsAnError(t *testing.T) {
	for _, text := range []string{"", "\n\n", " \r\n\t", "\xEF\xBB\xBF"} {
		_, err := batch.Scan(t.Context(), client(t), source(text, batch.Native))
		require.ErrorIs(t, err, batch.ErrEmpty, "%q", text)
	}
}

func TestProblemsAreCountedBeyondTheirList(t *testing.T) {
	report := scan(t, strings.Repeat("{\n", 1000), batch.Native)
	require.Equal(t, 1000, report.Invalid)
	require.Len(t, report.Problems, batch.ProblemLimit)
}

func TestCompressedFilesAreReadByTheirContent(t *testing.T) {
	text := `{"id": "a", "kind": "embedding", "input": {"texts": ["a"]}}` + "\n"
	var zipped, zst bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := io.WriteString(z, text)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	e, err := zstd.NewWriter(&zst)
	require.NoError(t, err)
	_, err = io.WriteString(e, text)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	for _, file := range []string{text, zipped.String(), zst.String()} {
		require.Equal(t, 1, scan(t, file, batch.Native).Lines)
	}
	_, err = batch.Scan(t.Context(), client(t), source(zipped.String()[:zipped.Len()/2], batch.Native))
	require.ErrorContains(t, err, "unexpected EOF")
}

func TestPlainLinesAndColumnsBecomePayloads(t *testing.T) {
	es := batch.Template{Kind: tasks.KindTranslation, Fields: map[string]jsontext.Value{"target_lang": jsontext.Value(`"es"`)}}
	report := scan(t, "one \"quoted\"\n\ntwo\r\nbad \xff\n", es.Text())
	require.Equal(t, 3, report.Lines)
	require.Len(t, report.Problems, 1)
	require.Equal(t, batch.Problem{Line: 4, ID: "4", Code: "invalid_utf8", Message: "is not valid UTF-8"}, report.Problems[0])

	e := batch.Template{Kind: tasks.KindEmbedding}
	rows := "\xEF\xBB\xBFsku,text\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n2,plain\r\n2,again\r\n,none\r\n5\r\n6,last"
	report = scan(t, rows, e.CSV("text", "sku", ','))
	require.Equal(t, 6, report.Lines)
	var found []string
	for _, p := range report.Problems {
		found = append(found, fmt.Sprint(p.Line, " ", p.Code))
	}
	require.Equal(t, []string{"5 duplicate_id", "6 missing_field", "7 invalid_csv"}, found)

	for column, want := range map[string]string{"txt": `there is no column "txt"`, "text": `there is no column "id"`} {
		_, err := batch.Scan(t.Context(), client(t), source(rows, e.CSV(column, "id", ',')))
		require.ErrorContains(t, err, want)
	}
	report = scan(t, "text\n\"open\nand on\n", e.CSV("text", "", ','))
	require.Equal(t, "invalid_csv", report.Problems[0].Code)
	_, err := batch.Scan(t.Context(), client(t), source("text\n\"open"+strings.Repeat("x", 20<<20), e.CSV("text", "", ',')))
	require.ErrorContains(t, err, "is a quote open?")
}

func TestEmbeddingLinesShareCalls(t *testing.T) {
	var b strings.Builder
	for n := range 1050 {
		fmt.Fprintf(&b, `{"id":"%d","kind":"embedding","input":{"texts":["a%d"]}}`+"\n", n, n)
	}
	for n := range 3 {
		fmt.Fprintf(&b, `{"id":"t%d","kind":"text","input":{"prompt":"a%d"}}`+"\n", n, n)
	}
	report := scan(t, b.String(), batch.Native)
	require.Len(t, report.Demands, 2)
	require.Equal(t, 11, report.Demands[0].Calls, "ten full calls in the first segment, one in the second")
	require.Equal(t, 3, report.Demands[1].Calls)
	require.Equal(t, 14, report.Calls())
}

func FuzzNativeLines(f *testing.F) {
	seeds, err := filepath.Glob("testdata/fuzz/*.jsonl")
	require.NoError(f, err)
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"id":"a","kind":"embedding","input":{"texts":["a"]}}` + "\n" + `{"id":1e999,"kind":"text","input":{"prompt":"x"}}`))
	f.Add([]byte("\xEF\xBB\xBF{\"id\":\"\\ud800\"}\r\n\r\n[]"))
	c := client(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := batch.Scan(t.Context(), c, source(string(text), batch.Native))
		if err != nil {
			require.ErrorIs(t, err, batch.ErrEmpty)
			return
		}
		valid := 0
		for _, d := range report.Demands {
			valid += d.Lines
		}
		require.Equal(t, report.Lines, valid+report.Invalid)
		require.Len(t, report.Problems, min(report.Invalid, batch.ProblemLimit))
		for _, p := range report.Problems {
			require.NotEmpty(t, p.Code)
			require.NotContains(t, p.Message, "\n")
		}
	})
}

func BenchmarkScan(b *testing.B) {
	var text strings.Builder
	for n := range 100_000 {
		fmt.Fprintf(&text, `{"id":"row-%d","kind":"embedding","model":"@cf/baai/bge-base-en-v1.5","input":{"texts":["%s %d"]}}`+"\n", n, strings.Repeat("some words ", 10), n)
	}
	c := client(b)
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		_, err := batch.Scan(b.Context(), c, source(text.String(), batch.Native))
		require.NoError(b, err)
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
