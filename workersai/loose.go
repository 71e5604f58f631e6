package workersai

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decode parses JSON. If that fails, it accepts the NaN and Infinity of Python's encoder
// and reads them as null.
func decode(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil || json.Valid(body) {
		return err
	}
	if plain := withoutNaN(body); plain != nil && json.Unmarshal(plain, into) == nil {
		return nil
	}
	return err
}

// withoutNaN replaces NaN and Infinity outside strings by null; nil when there are none.
func withoutNaN(body []byte) []byte {
	out, inString := make([]byte, 0, len(body)), false
	for at := 0; at < len(body); at++ {
		switch b := body[at]; {
		case inString && b == '\\' && at+1 < len(body):
			out = append(out, b)
			at++
		case b == '"':
			inString = !inString
		case !inString:
			if n := bareNaN(body[at:]); n > 0 {
				out = append(out, "null"...)
				at += n - 1
				continue
			}
		}
		out = append(out, body[at])
	}
	if bytes.Equal(out, body) {
		return nil
	}
	return out
}

// bareNaN returns the length of the NaN or Infinity at the start of b.
func bareNaN(b []byte) int {
	for _, word := range []string{"NaN", "-NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(b, []byte(word)) {
			return len(word)
		}
	}
	return 0
}

// list returns the elements of an array. An object counts as an array of itself, any
// other value as an empty one.
func list(raw json.RawMessage) []json.RawMessage {
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil && len(raw) > 0 && raw[0] == '{' {
		return []json.RawMessage{raw}
	}
	return elements
}

// stringIn returns a field that should be text; "" for any other type.
func stringIn(raw json.RawMessage) string {
	var text joined
	if !text.addString(raw) {
		return ""
	}
	return text.String()
}

// numberIn returns a field that should be a number, given as a number or as text. The
// result is never NaN or infinite.
func numberIn(raw json.RawMessage) (float64, bool) {
	text := string(raw)
	if len(raw) > 0 && raw[0] == '"' {
		text = strings.TrimSpace(stringIn(raw))
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, false
	}
	return n, true
}

// blank reports whether a field has no text: absent, null or empty.
func blank(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null" || string(raw) == `""` || string(raw) == "[]"
}

// joined collects text that arrives in parts. A part may end inside a character, between
// the halves of a surrogate pair or between bytes. The next part completes the character.
type joined struct{ bytes []byte }

// String returns the text. Incomplete characters become U+FFFD.
func (j *joined) String() string { return strings.ToValidUTF8(string(j.bytes), "\uFFFD") }

// complete returns how many bytes form whole characters. The last character may lack bytes,
// or the second of two units, that come with the next piece.
func (j *joined) complete() int {
	n := len(j.bytes)
	for last := max(0, n-utf8.UTFMax+1); last < n; last++ {
		if utf8.RuneStart(j.bytes[last]) && !utf8.Valid(j.bytes[last:]) {
			return last
		}
	}
	return n
}

func (j *joined) empty() bool { return len(j.bytes) == 0 }

// addValue adds a string as it is, and any other value except null as its JSON.
func (j *joined) addValue(raw json.RawMessage) {
	if !blank(raw) && !j.addString(raw) {
		j.bytes = append(j.bytes, raw...)
	}
}

// addString adds a JSON string; false if raw is not a string. Unlike json.Unmarshal it
// keeps incomplete characters.
func (j *joined) addString(raw json.RawMessage) bool {
	if len(raw) < 2 || raw[0] != '"' {
		return false
	}
	for rest := raw[1 : len(raw)-1]; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\\')
		if n < 0 {
			n = len(rest)
		}
		j.bytes, rest = append(j.bytes, rest[:n]...), rest[n:]
		if len(rest) < 2 {
			break
		}
		escaped := rest[1]
		rest = rest[2:]
		if escaped != 'u' {
			j.bytes = append(j.bytes, unescaped(escaped))
			continue
		}
		if len(rest) < 4 {
			break
		}
		unit, err := strconv.ParseUint(string(rest[:4]), 16, 16)
		if err == nil {
			j.addUnit(rune(unit))
		}
		rest = rest[4:]
	}
	return true
}

func unescaped(b byte) byte {
	switch b {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return b
}

// addUnit adds a UTF-16 code unit. It keeps a surrogate as three bytes, which are not
// valid UTF-8, until the other half arrives.
func (j *joined) addUnit(unit rune) {
	if !utf16.IsSurrogate(unit) {
		j.bytes = utf8.AppendRune(j.bytes, unit)
		return
	}
	if n := len(j.bytes) - 3; n >= 0 && j.bytes[n] == 0xED {
		high := 0xD000 | rune(j.bytes[n+1]&0x3F)<<6 | rune(j.bytes[n+2]&0x3F)
		if pair := utf16.DecodeRune(high, unit); pair != utf8.RuneError {
			j.bytes = utf8.AppendRune(j.bytes[:n], pair)
			return
		}
	}
	j.bytes = append(j.bytes, 0xE0|byte(unit>>12), 0x80|byte(unit>>6)&0x3F, 0x80|byte(unit)&0x3F)
}
