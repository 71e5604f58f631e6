package mergepatch_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/mergepatch"
	"github.com/stretchr/testify/require"
)

// The examples of RFC 7396, appendix A, whose patch is an object.
func TestTheExamplesOfTheRFC(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `{"a":"b"}`, `{"a":"b"}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		got, err := mergepatch.Apply([]byte(c[0]), []byte(c[1]))
		require.NoError(t, err, c)
		require.JSONEq(t, c[2], string(got), c)
	}
}

func TestNumbersKeepAllTheirDigits(t *testing.T) {
	got, err := mergepatch.Apply([]byte(`{"seed":12345678901234567890}`), []byte(`{"n":1e400}`))
	require.NoError(t, err)
	require.Equal(t, `{"n":1e400,"seed":12345678901234567890}`, string(got))
}

func TestABadPatchIsRefused(t *testing.T) {
	for _, patch := range []string{"", "null", "[]", `"text"`, "1", "{", strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65)} {
		_, err := mergepatch.Apply([]byte(`{}`), []byte(patch))
		require.Error(t, err, patch)
	}
}
