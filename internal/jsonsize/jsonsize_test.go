package jsonsize_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/jsonsize"
	"github.com/stretchr/testify/require"
)

func TestValuesAndNamesAreCounted(t *testing.T) {
	for document, n := range map[string]int{
		``:                                   0,
		`7`:                                  0,
		`[1,2,3]`:                            3,
		`{"a":1,"b":[{},[]]}`:                8,
		`"a,b:[{"`:                           0,
		`["a\",[{", "b\\", ","]`:             3,
		`"` + strings.Repeat(`\`, 3):         0, // cut off within an escape
		strings.Repeat("[", 5):               5,
		`{"text":"` + "\u201c,\u201d" + `"}`: 2,
	} {
		require.False(t, jsonsize.Exceeds([]byte(document), n), document)
		if n > 0 {
			require.True(t, jsonsize.Exceeds([]byte(document), n-1), document)
		}
	}
}
