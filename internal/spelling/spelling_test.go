package spelling_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/spelling"
	"github.com/stretchr/testify/require"
)

func TestAMisspeltNameFindsTheOneThatWasMeant(t *testing.T) {
	known := []string{"temperature", "tools", "top_k", "top_p"}
	for name, want := range map[string]string{
		"temprature": "temperature", "Top_P": "top_p", "top_": "top_k", "tool": "tools",
		"voice": "", "": "", strings.Repeat("temperature", 100): "",
	} {
		require.Equal(t, want, spelling.Nearest(name, known, spelling.Close), name)
	}
}
