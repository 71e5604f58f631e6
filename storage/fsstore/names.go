package fsstore

import (
	"fmt"
	"net/url"
	"strings"
)

const typeSuffix = "%.type" // no escaped name ends this way: hex digits must follow "%"

// escape encodes a segment as a file name. It keeps letters, digits and a few marks; it
// writes the rest, and a leading dot, as %XX.
func escape(segment string) string {
	var b strings.Builder
	for i := range len(segment) {
		c := segment[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.@+=,", c) >= 0
		if plain && (c != '.' || i > 0) {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func unescape(name string) (string, error) { return url.PathUnescape(name) }
