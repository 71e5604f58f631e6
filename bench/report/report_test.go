package report_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/stretchr/testify/require"
)

var section = report.Section{
	Title: "Speed", About: "How it was done.",
	Tables: []report.Table{{Head: []string{"way", "speed"}, Rows: [][]string{{"ours", "3"}}}},
	Checks: []report.Check{
		{What: "speed", Target: "at least 5", Got: "3", Loaded: true},
		{What: "calls", Target: "0", Got: "0", Pass: true},
	},
	Plot: &report.Plot{Title: "Speed", Labels: []string{"a"}, Bars: []report.Series{{Name: "ours", Y: []float64{3}}}},
}

func TestAQuickRunDoesNotJudgeWhatTheLoadOfTheMachineDecides(t *testing.T) {
	require.Equal(t, 1, section.Missed(false))
	require.Zero(t, section.Missed(true))
	require.Contains(t, section.Markdown(false), "| speed | at least 5 | 3 | **missed** |")
	require.Contains(t, section.Markdown(true), "| speed | at least 5 | 3 | not judged in a quick run |")
}

func TestThePageAndItsPlotsAreMadeFromWhatIsKept(t *testing.T) {
	docs := t.TempDir()
	kept := report.Kept{"speed": {Command: "go run -C bench . speed", On: "2026-01-01", Machine: "2 cores", Figures: []byte(`{"x":1}`)}}
	require.NoError(t, report.Write(docs, kept, []report.Shown{{Name: "speed", Run: kept["speed"], Section: section}}))
	page, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), "| ours | 3 |")
	require.Contains(t, string(page), "![Speed](benchmark-speed.svg)")
	require.Contains(t, string(page), "`go run -C bench . speed`, on 2026-01-01: 2 cores.")
	drawn, err := os.ReadFile(filepath.Join(docs, "benchmark-speed.svg"))
	require.NoError(t, err)
	require.Contains(t, string(drawn), "<svg")
	again, err := report.Load(docs)
	require.NoError(t, err)
	require.JSONEq(t, `{"x":1}`, string(again["speed"].Figures))
}
