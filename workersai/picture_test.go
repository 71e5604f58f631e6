package workersai

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The emulator draws plain pictures; these contain the features of other encoders.
func TestOnlyAPictureThatGoesOnToItsEndIsWhole(t *testing.T) {
	for name, p := range map[string]struct{ contentType, data string }{
		"a small picture within": {"image/jpeg", "\xFF\xD8\xFF\xE1\x00\x08in\xFF\xD9in" + "\xFF\xDA\x00\x02" + "pixels" + "\xFF\xD9"},
		"restarts and escapes":   {"image/jpeg", "\xFF\xD8\xFF\xDA\x00\x02" + "a\xFF\xD0b\xFF\x00c" + "\xFF\xD9"},
		"two scans and fillers":  {"image/jpeg", "\xFF\xD8\xFF\xDA\x00\x02" + "a\xFF\xFF\xC4\x00\x04\xFF\xD9\xFF\xDA\x00\x02" + "b\xFF\xFF\xD9"},
		"chunks of any name":     {"image/png", "\x89PNG\r\n\x1a\n" + "\x00\x00\x00\x04tEXtIEND_sum" + "\x00\x00\x00\x00IEND_sum"},
		"webp":                   {"image/webp", "RIFF\x0C\x00\x00\x00WEBPVP8 data"},
	} {
		data := []byte(p.data)
		require.True(t, wholeImage(p.contentType, data), name)
		require.True(t, wholeImage(p.contentType, append(data, "\r\n"...)), "%s: what follows the end is no harm", name)
		for n := range data {
			require.False(t, wholeImage(p.contentType, data[:n]), "%s, cut at %d", name, n)
		}
	}
}
