package errtext_test

import (
	"testing"

	"github.com/neuronmill/neuronmill/internal/errtext"
	"github.com/stretchr/testify/require"
)

func TestMessagesThatDifferInTheirParticularsSayTheSame(t *testing.T) {
	first := "workers ai 400/5006: AiError: Bad input (7ea10702-d8e2-4bf6-b446-52db05ba2e2a) (request 369a0686-bd02-4d7d-bb99-704560d5b5a9)"
	for same, as := range map[string]string{
		"workers ai 400/5006: AiError: Bad input (8c544dfa-6b68-4915-9e08-ffb5bd357253) (request 64e5193b-09e4-4b15-88d9-bccb92a5ad67)": first,
		`line 4: "alpha" is too long by 17`:        `line 12: "bravo" is too long by 3`,
		"three calls, request 64e5193b-09e4-4b15-": "three calls, request ", // cut off
	} {
		require.Equal(t, errtext.Normal(as), errtext.Normal(same))
	}
	for _, other := range []string{"workers ai 400/5006: AiError: Bad model (x)", "deadbeef is a word of a message", ""} {
		require.NotEqual(t, errtext.Normal(first), errtext.Normal(other))
	}
	require.Equal(t, "no facade was added", errtext.Normal("no facade was added"))
}
