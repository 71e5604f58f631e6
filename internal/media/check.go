package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// AudioLimit is the most bytes of a recording, from any source.
const AudioLimit = 100 << 20

// RefusedError explains why a recording is not sent to a speech model.
type RefusedError struct {
	TooLarge bool
	Reason   string // continues "the audio "
}

func (e *RefusedError) Error() string { return "the audio " + e.Reason }

func refused(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// CheckAudio checks that a recording is within AudioLimit, has a format that the speech
// models take, and contains sound according to its headers. It returns the content type
// and reads no more than needed. A size of -1 means unknown. An unfit recording is a
// *RefusedError; any other error is that of the reader.
func CheckAudio(r io.Reader, size int64) (contentType string, err error) {
	if size > AudioLimit {
		return "", &RefusedError{TooLarge: true, Reason: fmt.Sprintf("has %d bytes, more than %d", size, int64(AudioLimit))}
	}
	from := &source{Reader: io.LimitReader(r, AudioLimit)}
	defer func() {
		if from.failed != nil {
			contentType, err = "", fmt.Errorf("read the audio: %w", from.failed)
		}
	}()
	p := &probe{Reader: bufio.NewReaderSize(from, frameSearch)}
	start, _ := p.Peek(SniffLen) // a short file gives fewer bytes
	if len(start) == 0 {
		return "", refused("is empty")
	}
	contentType, ok := Audio(start)
	if !ok {
		return "", refused("is of no known audio format: wav, mp3, flac, ogg, m4a and webm are understood")
	}
	check := map[string]func(*probe) error{
		"audio/wav": checkWAV, "audio/flac": checkFLAC, "audio/ogg": checkOgg, "audio/mpeg": checkMPEG,
		"audio/mp4": checkMP4, "audio/webm": checkWebM, "audio/aiff": checkAIFF, "audio/amr": checkAMR,
	}[contentType]
	if check == nil {
		return contentType, nil
	}
	switch err := check(p); {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return "", refused("ends before its headers do")
	case err != nil:
		return "", err
	}
	return contentType, nil
}

// source records the error of a reader, to tell it from the end of the file.
type source struct {
	io.Reader
	failed error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is a failure of the reader
		s.failed = err
	}
	return n, err
}

// probe reads the headers of a file.
type probe struct{ *bufio.Reader }

// take reads n bytes into a new slice.
func (p *probe) take(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(p, b)
	return b, err
}

// skip discards n bytes.
func (p *probe) skip(n uint64) error {
	if n > AudioLimit {
		return io.ErrUnexpectedEOF
	}
	_, err := p.Discard(int(n))
	return err
}

// more reports whether any bytes are left.
func (p *probe) more() bool {
	_, err := p.Peek(1)
	return err == nil
}

const mostParts = 4096 // most chunks, pages or boxes of a file that are read

// checkWAV requires a format with channels and a rate, and samples.
func checkWAV(p *probe) error {
	if err := p.skip(12); err != nil {
		return err
	}
	format := false
	for range mostParts {
		head, err := p.take(8)
		if err != nil {
			return err
		}
		size := uint64(binary.LittleEndian.Uint32(head[4:]))
		switch id := string(head[:4]); {
		case id == "data" && !format:
			return refused("has samples before it says of what format")
		case id == "data":
			if !p.more() {
				return refused("holds no sound")
			}
			return nil // the size may be 0 or -1 in a streamed file
		case id == "fmt " && size >= 16 && size < 1<<16:
			f, err := p.take(int(size + size%2))
			if err != nil {
				return err
			}
			channels, rate := binary.LittleEndian.Uint16(f[2:]), binary.LittleEndian.Uint32(f[4:])
			if channels == 0 || rate == 0 || binary.LittleEndian.Uint32(f[8:]) == 0 {
				return refused("is a WAV with %d channels and %d samples a second", channels, rate)
			}
			format = true
		default:
			if err := p.skip(size + size%2); err != nil {
				return err
			}
		}
	}
	return refused("holds no sound")
}

func checkFLAC(p *probe) error {
	head, err := p.take(4 + 4 + 34)
	if err != nil {
		return err
	}
	rate := uint32(head[18])<<12 | uint32(head[19])<<4 | uint32(head[20])>>4
	if head[4]&0x7F != 0 || rate == 0 {
		return refused("is a FLAC file without a sample rate")
	}
	return nil
}

// checkAIFF requires channels, frames and a rate.
func checkAIFF(p *probe) error {
	if err := p.skip(12); err != nil {
		return err
	}
	for range mostParts {
		head, err := p.take(8)
		if err != nil {
			return err
		}
		size := uint64(binary.BigEndian.Uint32(head[4:]))
		if string(head[:4]) != "COMM" {
			if err := p.skip(size + size%2); err != nil {
				return err
			}
			continue
		}
		c, err := p.take(18)
		if err != nil {
			return err
		}
		mantissa := binary.BigEndian.Uint64(c[10:18])
		if binary.BigEndian.Uint16(c) == 0 || binary.BigEndian.Uint32(c[2:]) == 0 || mantissa == 0 {
			return refused("is an AIFF file without sound")
		}
		return nil
	}
	return refused("is an AIFF file without sound")
}

func checkAMR(p *probe) error {
	line, err := p.ReadSlice('\n')
	if err != nil {
		return io.ErrUnexpectedEOF
	}
	if s := string(line); s != "#!AMR\n" && s != "#!AMR-WB\n" || !p.more() {
		return refused("is an AMR file without sound")
	}
	return nil
}

// checkOgg requires a stream of an audio codec among the first pages of the file.
func checkOgg(p *probe) error {
	for range 64 {
		head, err := p.take(27)
		if err != nil {
			return err
		}
		if string(head[:4]) != "OggS" || head[5]&0x02 == 0 { // not the first page of a stream
			break
		}
		lengths, err := p.take(int(head[26]))
		if err != nil {
			return err
		}
		size := 0
		for _, n := range lengths {
			size += int(n)
		}
		packet, err := p.take(size)
		if err != nil {
			return err
		}
		for _, codec := range []string{"OpusHead", "\x01vorbis", "Speex   ", "\x7FFLAC"} {
			if bytes.HasPrefix(packet, []byte(codec)) {
				return nil
			}
		}
	}
	return refused("is an Ogg file without sound")
}

// frameSearch is the distance behind a tag within which the first frame must begin.
const frameSearch = 64 << 10

// checkMPEG requires a frame behind the tags.
func checkMPEG(p *probe) error {
	tagged := false
	for range 8 {
		head, err := p.Peek(10)
		if string(head[:min(3, len(head))]) != "ID3" {
			break
		}
		if err != nil {
			return err
		}
		tagged = true
		size := uint64(head[6]&0x7F)<<21 | uint64(head[7]&0x7F)<<14 | uint64(head[8]&0x7F)<<7 | uint64(head[9]&0x7F) + 10
		if head[5]&0x10 != 0 {
			size += 10 // a footer
		}
		if err := p.skip(size); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return refused("is a tag without sound")
			}
			return err
		}
	}
	if !tagged {
		return nil // the file begins with a frame
	}
	rest, err := p.Peek(frameSearch)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	rest = bytes.TrimLeft(rest, "\x00")
	if bytes.HasPrefix(rest, []byte("fLaC")) || mpegFrame(rest) || adtsFrame(rest) {
		return nil
	}
	for i := range rest {
		if n := mpegFrameLen(rest[i:]); n > 0 && i+n+4 <= len(rest) && mpegFrame(rest[i+n:]) {
			return nil
		}
	}
	return refused("is a tag without sound")
}

// mpegFrameLen returns the length of the frame at the start of b; 0 when there is none or
// the length is unknown.
func mpegFrameLen(b []byte) int {
	if !mpegFrame(b) {
		return 0
	}
	kbits := [3][16]int{
		{0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384}, // MPEG 1, layer II
		{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},  // MPEG 1, layer III
		{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},      // MPEG 2 and 2.5
	}
	first, layer3 := b[1]&0x18 == 0x18, b[1]&0x06 == 0x02
	row, samples := 2, 1152
	switch {
	case first && layer3:
		row = 1
	case first:
		row = 0
	case layer3:
		samples = 576
	}
	rate := []int{44100, 48000, 32000}[b[2]>>2&0x03]
	switch b[1] & 0x18 {
	case 0x10:
		rate /= 2
	case 0x00:
		rate /= 4
	}
	bits := kbits[row][b[2]>>4]
	if bits == 0 {
		return 0
	}
	return samples/8*bits*1000/rate + int(b[2]>>1&1)
}

// pictures are the brands of image files in the MP4 container format.
var pictures = []string{"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "avif", "avis", "crx ", "jxl ", "jp2 "}

// checkMP4 requires a sound track.
func checkMP4(p *probe) error {
	const largestIndex = 32 << 20
	for i := range mostParts {
		size, kind, err := mp4Box(p)
		switch {
		case errors.Is(err, io.EOF) && i > 0:
			return refused("is an MP4 file without an index of its tracks")
		case err != nil:
			return err
		case kind == "ftyp" && size >= 4 && size < 1<<12:
			brands, err := p.take(int(size))
			if err != nil {
				return err
			}
			if slices.Contains(pictures, string(brands[:4])) {
				return refused("is a picture (%s)", bytes.TrimSpace(brands[:4]))
			}
		case kind == "moov" && size <= largestIndex:
			index, err := p.take(int(size))
			if err != nil {
				return err
			}
			if !hasSound(index, 3) {
				return refused("is an MP4 file without a track of sound")
			}
			return nil
		default:
			if err := p.skip(size); err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return refused("is an MP4 file without an index of its tracks")
				}
				return err
			}
		}
	}
	return refused("is an MP4 file without an index of its tracks")
}

// mp4Box reads the header of a box and returns the size of its content.
func mp4Box(p *probe) (size uint64, kind string, err error) {
	head, err := p.take(8)
	if err != nil {
		return 0, "", err
	}
	size, kind = uint64(binary.BigEndian.Uint32(head)), string(head[4:])
	switch {
	case size == 0: // up to the end of the file
		return AudioLimit, kind, nil
	case size == 1:
		long, err := p.take(8)
		if err != nil {
			return 0, "", err
		}
		if size = binary.BigEndian.Uint64(long); size < 16 {
			return 0, "", refused("is a damaged MP4 file")
		}
		return size - 16, kind, nil
	case size < 8:
		return 0, "", refused("is a damaged MP4 file")
	}
	return size - 8, kind, nil
}

// hasSound reports whether boxes contain a trak/mdia/hdlr of type soun, at most depth
// levels down.
func hasSound(boxes []byte, depth int) bool {
	for depth > 0 && len(boxes) >= 8 {
		size := uint64(binary.BigEndian.Uint32(boxes))
		head := uint64(8)
		if size == 1 && len(boxes) >= 16 {
			size, head = binary.BigEndian.Uint64(boxes[8:]), 16
		}
		if size == 0 {
			size = uint64(len(boxes))
		}
		if size < head || size > uint64(len(boxes)) {
			return false
		}
		inside := boxes[head:size]
		switch string(boxes[4:8]) {
		case "trak", "mdia":
			if hasSound(inside, depth-1) {
				return true
			}
		case "hdlr":
			if len(inside) >= 12 && string(inside[8:12]) == "soun" {
				return true
			}
		}
		boxes = boxes[size:]
	}
	return false
}

// The Matroska elements that checkWebM reads.
const (
	ebmlHeader, ebmlDocType  = 0x1A45DFA3, 0x4282
	mkvSegment, mkvCluster   = 0x18538067, 0x1F43B675
	mkvTracks, mkvTrackEntry = 0x1654AE6B, 0xAE
	mkvTrackType             = 0x83
)

// checkWebM requires a WebM file with a sound track; other Matroska files are refused.
func checkWebM(p *probe) error {
	const largest = 1 << 20
	for range mostParts {
		id, size, err := element(p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch {
		case id == mkvSegment:
			continue // its children follow
		case id == mkvCluster:
			return refused("is a WebM file without a track of sound")
		case (id == ebmlHeader || id == mkvTracks) && size > largest:
			return refused("is a damaged WebM file")
		case id == ebmlHeader || id == mkvTracks:
			inside, err := p.take(int(size))
			if err != nil {
				return err
			}
			if id == mkvTracks {
				if hasChild(inside, mkvTrackEntry, func(track []byte) bool {
					return hasChild(track, mkvTrackType, func(kind []byte) bool { return bytes.Equal(bytes.TrimLeft(kind, "\x00"), []byte{2}) })
				}) {
					return nil
				}
				return refused("is a WebM file without a track of sound")
			}
			if !hasChild(inside, ebmlDocType, func(t []byte) bool { return string(bytes.TrimRight(t, "\x00")) == "webm" }) {
				return refused("is a Matroska file, not WebM")
			}
		default:
			if err := p.skip(size); err != nil {
				return err
			}
		}
	}
	return refused("is a WebM file without a track of sound")
}

// element reads the header of an element.
func element(r io.ByteReader) (id, size uint64, err error) {
	if id, _, err = vint(r, true); err != nil {
		return 0, 0, err
	}
	size, unknown, err := vint(r, false)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if unknown && id != mkvSegment && id != mkvCluster {
		return 0, 0, refused("is a damaged WebM file")
	}
	return id, size, err
}

// vint reads an EBML integer of variable length. An id keeps its length marker. unknown
// reports the reserved size of all ones.
func vint(r io.ByteReader, id bool) (n uint64, unknown bool, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, false, err
	}
	length, marker := 1, byte(0x80)
	for ; marker != 0 && first&marker == 0; marker >>= 1 {
		length++
	}
	if marker == 0 {
		return 0, false, refused("is a damaged WebM file")
	}
	n = uint64(first)
	if !id {
		n &^= uint64(marker)
	}
	all := !id && n == uint64(marker-1)
	for range length - 1 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, false, io.ErrUnexpectedEOF
		}
		n, all = n<<8|uint64(b), all && b == 0xFF
	}
	return n, all, nil
}

// hasChild reports whether the content of an element has a child with the id want that
// satisfies fits.
func hasChild(inside []byte, want uint64, fits func([]byte) bool) bool {
	r := bytes.NewReader(inside)
	for r.Len() > 0 {
		id, size, err := element(r)
		if err != nil || size > uint64(r.Len()) {
			return false
		}
		at := len(inside) - r.Len()
		if id == want && fits(inside[at:at+int(size)]) {
			return true
		}
		_, _ = r.Seek(int64(size), io.SeekCurrent)
	}
	return false
}
