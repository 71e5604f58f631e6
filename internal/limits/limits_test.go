package limits_test

import (
	"testing"

	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/stretchr/testify/require"
)

func TestLimitsAreReadByKindAndModel(t *testing.T) {
	var l limits.Limits
	require.NoError(t, l.UnmarshalText([]byte("embedding=100, @cf/baai/bge-m3=7")))
	require.Equal(t, 7, l.Pace("@cf/baai/bge-m3", "embedding").PerMinute)
	require.Equal(t, 100, l.Pace("@cf/baai/bge-base-en-v1.5", "embedding").PerMinute)
	require.Equal(t, 300, l.Pace("@cf/zai-org/glm-4.7-flash", "text").PerMinute)
	require.Equal(t, 20, l.Pace("@cf/new/model", "text").PerMinute)
	for _, wrong := range []string{"embedding", "embedding=x", "embedding=-1", "embedding=1000001", "poem=3"} {
		require.Error(t, l.UnmarshalText([]byte(wrong)), wrong)
	}
}

func TestWrongLimitsAreAllReported(t *testing.T) {
	require.NoError(t, limits.Limits{"text": 0, "embedding:total": 3000, "@cf/new/model": 7}.Validate())
	require.EqualError(t, limits.Limits{"poem": 3, "text": -1}.Validate(),
		"limits: \"poem\" is neither a kind, KIND:total nor a model\nlimits: text=-1 is out of range, 0 to 1000000")
}

func FuzzLimits(f *testing.F) {
	for _, text := range []string{"embedding=3000,@cf/baai/bge-m3=600", "embedding:total=3000", "a=b", "=", "text=-1", ",,", "text=1000001"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var l limits.Limits
		if l.UnmarshalText([]byte(text)) == nil && l.Validate() != nil {
			t.Fatalf("%q gives %v", text, l)
		}
	})
}
