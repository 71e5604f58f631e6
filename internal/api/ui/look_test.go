package ui

import (
	"math"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// luminance is the relative luminance of a colour such as #1a2b3c (WCAG 2.2).
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(hex[1:], 16, 32)
	require.NoError(t, err)
	part := func(shift uint) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}

func TestThePaletteHasContrast(t *testing.T) {
	css, err := files.ReadFile("static/app.css")
	require.NoError(t, err)
	tokens := map[string][]string{}
	for _, m := range regexp.MustCompile(`--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)`).FindAllStringSubmatch(string(css), -1) {
		tokens[m[1]] = m[2:]
	}
	check := func(front, back string, least float64) {
		for mode, name := range []string{"light", "dark"} {
			require.Contains(t, tokens, front)
			a, b := luminance(t, tokens[front][mode]), luminance(t, tokens[back][mode])
			ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05)
			require.GreaterOrEqual(t, ratio, least, "%s on %s, %s", front, back, name)
		}
	}
	for _, back := range []string{"bg", "panel", "sunk"} {
		for _, front := range []string{"text", "soft", "accent", "ok", "wait", "bad"} {
			check(front, back, 4.5)
		}
		for _, front := range []string{"fill-accent", "fill-ok", "fill-wait", "fill-bad"} {
			check(front, back, 3)
		}
	}
	check("on", "accent", 4.5)
}

func TestTheStaticFilesAreSmall(t *testing.T) {
	total := 0
	for _, body := range static() {
		total += len(body)
	}
	t.Log(total)
	require.Less(t, total, 64<<10)
}

func TestTheSimpleFormsOfCronHaveWords(t *testing.T) {
	for cron, words := range map[string]string{
		"0 2 * * *": "every day at 02:00", "30 9 * * 1-5": "Monday to Friday at 09:30", "5 0 * * 7": "every Sunday at 00:05", "0 6 1 * *": "on day 1 of each month at 06:00",
		"*/15 * * * *": "every 15 minutes", "* * * * *": "every minute", "7 * * * *": "every hour at 07 past", "@daily": "every day at 00:00",
		"0 2 13 * 5": "", "0 2 * 6 *": "", "1,2 3 * * *": "", "*/15 2 * * *": "", "x": "", "*/0 * * * *": "", "0 * * * 1": "",
	} {
		require.Equal(t, words, cronWords(cron), cron)
	}
}
