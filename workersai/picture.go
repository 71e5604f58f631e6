package workersai

import (
	"encoding/binary"
	"net/http"
	"strings"
)

// sniffImage detects the format by the first bytes; declared types are unreliable.
func sniffImage(data []byte) string {
	switch t := http.DetectContentType(data); t {
	case "image/png", "image/jpeg", "image/webp":
		return t
	}
	if strings.HasPrefix(string(data), "\xFF\xD8\xFF") {
		return "image/jpeg"
	}
	return ""
}

// wholeImage reports whether a picture is complete. Its first bytes state its size, so a
// picture that was truncated in transit otherwise looks valid.
func wholeImage(contentType string, data []byte) bool {
	switch contentType {
	case "image/png":
		return wholePNG(data)
	case "image/jpeg":
		return wholeJPEG(data)
	}
	return len(data) >= 8 && uint64(len(data)-8) >= uint64(binary.LittleEndian.Uint32(data[4:]))
}

// wholePNG walks the chunks: length, name, that many bytes, a checksum.
func wholePNG(data []byte) bool {
	const signature, around = 8, 12
	for at := signature; at+around <= len(data); {
		size := int(binary.BigEndian.Uint32(data[at:]))
		next := at + around + size
		if size < 0 || next > len(data) {
			return false
		}
		if string(data[at+4:at+8]) == "IEND" {
			return true
		}
		at = next
	}
	return false
}

// wholeJPEG walks the segments. Within scan data, a marker is an FF that is followed by
// anything but 0 or a restart marker.
func wholeJPEG(data []byte) bool {
	const end, temporary = 0xD9, 0x01
	for at := 2; at+2 <= len(data); {
		marker := data[at+1]
		switch {
		case data[at] != 0xFF || marker == 0 || marker >= 0xD0 && marker <= 0xD7 || marker == temporary:
			at++
		case marker == 0xFF:
			at++ // a fill byte
		case marker == end:
			return true
		case at+4 > len(data):
			return false
		default:
			at += 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		}
	}
	return false
}
