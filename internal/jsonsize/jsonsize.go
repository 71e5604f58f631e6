// Package jsonsize estimates the memory of a JSON document before it is decoded. A
// value of two bytes, such as {} in a list, takes hundreds of bytes once it is decoded, so
// a bound on the bytes of a body alone is no bound on memory.
package jsonsize

// Exceeds reports whether a document has more than so many values and names. It reads
// each byte once, keeps nothing, and need not understand the document: of text that is not
// JSON it may report either.
func Exceeds(document []byte, most int) bool {
	n, quoted := 0, false
	for i := 0; i < len(document); i++ {
		switch c := document[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',' || c == ':' || c == '[' || c == '{':
			if n++; n > most {
				return true
			}
		}
	}
	return false
}
