package main

import (
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
	"github.com/stretchr/testify/require"
)

func sample() *table {
	t := newTable(column{name: "ID", shorten: shortIDs}, column{name: "KIND", least: 5}, column{name: "ATTEMPTS", brief: "TRIES"},
		column{name: "MODEL", shorten: shortModels, least: 12}, column{name: "NOTE", least: 5})
	t.add("t_01a2178b061674d0b4e3afcc00d3e459", "transcription", 0, "@cf/openai/whisper-large-v3-turbo", "müßige Wörter 日本語 that are long")
	t.add("t_01a2178b061674d0b4e3afcc00d3e45a", "text", 12, "@cf/zai-org/glm-4.7-flash", "")
	return t
}

func TestATableFitsTheTerminal(t *testing.T) {
	for _, width := range []int{100, 90, 80} {
		table := sample()
		table.fit(width)
		var b strings.Builder
		require.NoError(t, table.print(&b))
		for line := range strings.Lines(b.String()) {
			require.LessOrEqual(t, runewidth.StringWidth(strings.TrimSuffix(line, "\n")), width, b.String())
		}
		require.Contains(t, b.String(), "whisper-lar", "the telling part stays")
		require.Contains(t, b.String(), "t_01a2178b061674d0b4e3afcc00d3e459", "ids that differ at their end stay whole")
	}
}

// Columns that are never cut by themselves give way too before a row needs two lines.
func TestATableWhoseColumnsAreAllWideFitsTheTerminal(t *testing.T) {
	table := newTable(column{name: "ID"}, column{name: "EMPTY"}, column{name: "STATE"}, column{name: "CODE", least: 8})
	table.add(strings.Repeat("i", 40), "", strings.Repeat("s", 40), strings.Repeat("c", 40))
	table.fit(80)
	var b strings.Builder
	require.NoError(t, table.print(&b))
	require.NotContains(t, b.String(), "EMPTY")
	for line := range strings.Lines(b.String()) {
		require.LessOrEqual(t, runewidth.StringWidth(strings.TrimSuffix(line, "\n")), 80, b.String())
	}
}

func TestATableIsWholeWhereThereIsNoTerminal(t *testing.T) {
	var b strings.Builder
	require.NoError(t, sample().print(&b))
	require.Contains(t, b.String(), "ATTEMPTS")
	require.Contains(t, b.String(), "@cf/openai/whisper-large-v3-turbo")
	require.Contains(t, b.String(), "日本語 that are long")
}

func TestAShortModelIsCompletedUnlessTwoHaveItsName(t *testing.T) {
	require.Equal(t, "@cf/baai/bge-m3", wholeModel("bge-m3"))
	require.Equal(t, "@cf/baai/bge-m3", wholeModel("@cf/baai/bge-m3"))
	require.Equal(t, "no-such", wholeModel("no-such"))
}

func TestTheProgressIsAtAHundredPercentOnlyWhenAllIsDone(t *testing.T) {
	p := &progress{what: "done", total: 1000}
	p.note.Store("")
	p.extra.Store("")
	p.count.Store(999)
	require.Equal(t, "999 of 1000 done  99% ", p.countText())
	p.count.Store(1000)
	require.Equal(t, "1000 of 1000 done 100% ", p.countText())
	require.NotContains(t, p.rateText(), "waiting")
	p.waitsFor("no worker runs")
	require.Equal(t, " waiting: no worker runs", p.rateText())
}

func TestALineIsBrokenBetweenWords(t *testing.T) {
	require.Equal(t, "one two\n  three", wrap("one two three", 8, "  "))
}
