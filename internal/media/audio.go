// Package media detects the type of a file from its first bytes. It ignores names and
// declared types.
package media

import "bytes"

// SniffLen is the number of first bytes that Audio needs; a shorter file is passed whole.
const SniffLen = 512

// Audio returns the content type of a recording from its first bytes, or false for a
// format that the speech models do not take.
func Audio(start []byte) (contentType string, ok bool) {
	at := func(offset int, magic string) bool {
		return len(start) >= offset+len(magic) && string(start[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0, "RIFF") && at(8, "WAVE"):
		return "audio/wav", true
	case at(0, "fLaC"):
		return "audio/flac", true
	case at(0, "OggS"):
		return "audio/ogg", true
	case at(0, "ID3"), mpegFrame(start):
		return "audio/mpeg", true
	case at(4, "ftyp"):
		return "audio/mp4", true
	case bytes.HasPrefix(start, []byte{0x1A, 0x45, 0xDF, 0xA3}):
		return "audio/webm", true
	case at(0, "FORM") && (at(8, "AIFF") || at(8, "AIFC")):
		return "audio/aiff", true
	case adtsFrame(start):
		return "audio/aac", true
	case at(0, "#!AMR"):
		return "audio/amr", true
	}
	return "", false
}

// mpegFrame reports whether b begins with the header of an MPEG audio frame of layer II or
// III: eleven set bits, then a version, layer, bit rate and sample rate that are not
// reserved. Layer I is excluded: it is not in use, and UTF-16 text begins like it.
func mpegFrame(b []byte) bool {
	return len(b) >= 4 && b[0] == 0xFF && b[1]&0xE0 == 0xE0 &&
		b[1]&0x18 != 0x08 && b[1]&0x06 != 0 && b[1]&0x06 != 0x06 && b[2]&0xF0 != 0xF0 && b[2]&0x0C != 0x0C
}

func adtsFrame(b []byte) bool {
	return len(b) >= 4 && b[0] == 0xFF && b[1]&0xF6 == 0xF0 && b[2]&0x3C != 0x3C
}
