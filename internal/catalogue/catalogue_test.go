package catalogue_test

import (
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/stretchr/testify/require"
)

func TestEveryDefaultLivesAndEverySuccessorIsKnown(t *testing.T) {
	now := time.Now()
	for _, kind := range []string{"transcription", "image", "translation", "embedding", "text"} {
		m := catalogue.Default(kind)
		require.Equal(t, kind, m.Kind)
		require.False(t, m.Withdrawn(now))
		require.Positive(t, m.PerMinute)
	}
	seen := map[string]bool{}
	for _, m := range catalogue.All() {
		require.False(t, seen[m.ID], "%s stands twice", m.ID)
		seen[m.ID] = true
		if m.Successor != "" {
			next, ok := catalogue.Find(m.Successor)
			require.True(t, ok, m.Successor)
			require.Empty(t, next.WithdrawnOn)
			require.Equal(t, m.Kind, next.Kind)
		}
		if m.Kind != "" && m.WithdrawnOn == "" {
			require.Positive(t, m.PerMinute, m.ID)
			require.NotEmpty(t, m.Transport, m.ID)
			require.NotEmpty(t, m.Answer, m.ID)
		}
	}
	require.Len(t, seen, 109)
}

func TestAModelIsWithdrawnFromItsDayOn(t *testing.T) {
	m := catalogue.Model{WithdrawnOn: "2026-05-30"}
	require.False(t, m.Withdrawn(time.Date(2026, 5, 29, 23, 0, 0, 0, time.UTC)))
	require.True(t, m.Withdrawn(time.Date(2026, 5, 30, 0, 0, 0, 0, time.UTC)))
	require.True(t, catalogue.Model{WithdrawnOn: "2025-11"}.Withdrawn(time.Date(2025, 11, 1, 0, 0, 0, 0, time.UTC)))
}

func TestPricesReproduceWhatWasMeasured(t *testing.T) {
	cases := []struct {
		model                string
		width, height, steps int
		want                 float64
	}{
		{"@cf/black-forest-labs/flux-1-schnell", 0, 0, 4, 172.8},
		{"@cf/leonardo/lucid-origin", 0, 0, 15, 3904.69},
		{"@cf/leonardo/phoenix-1.0", 0, 0, 0, 3120},
		{"@cf/black-forest-labs/flux-2-klein-9b", 1024, 1024, 0, 1363.64},
	}
	for _, c := range cases {
		m, _ := catalogue.Find(c.model)
		require.InDelta(t, c.want, m.ImageNeurons(c.width, c.height, c.steps), 0.01, c.model)
	}
	whisper := catalogue.Default("transcription")
	require.InDelta(t, 46.63, whisper.AudioNeurons(60), 1e-9)
	require.InDelta(t, 5500+36400, catalogue.Default("text").TextNeurons(1e6, 1e6), 1e-6)
}
