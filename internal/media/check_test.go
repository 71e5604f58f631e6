package media_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/stretchr/testify/require"
)

func le32(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
func be32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// wav returns a recording with the given channels, samples per second, and sound bytes.
func wav(channels uint16, rate uint32, sound string) string {
	format := le32(uint32(channels)<<16|1) + le32(rate) + le32(rate*2) + le32(16<<16|2)
	return "RIFF" + le32(0) + "WAVE" + "LIST" + le32(3) + "abc\x00" + "fmt " + le32(16) + format + "data" + le32(uint32(len(sound))) + sound
}

// box returns a box of MP4.
func box(kind string, inside ...string) string {
	body := strings.Join(inside, "")
	return be32(uint32(len(body)+8)) + kind + body
}

func track(kind string) string {
	return box("trak", box("tkhd", "0000"), box("mdia", box("mdhd", "0000"), box("hdlr", "\x00\x00\x00\x00\x00\x00\x00\x00", kind, "name")))
}

// ebml returns an element of Matroska with the given encoded id.
func ebml(id string, inside ...string) string {
	body := strings.Join(inside, "")
	return id + string(binary.BigEndian.AppendUint64(nil, uint64(len(body))|1<<56)) + body
}

func matroska(docType string, tracks ...string) string {
	var entries []string
	for _, kind := range tracks {
		entries = append(entries, ebml("\xAE", ebml("\xD7", "\x01"), ebml("\x83", kind)))
	}
	return ebml("\x1A\x45\xDF\xA3", ebml("\x42\x86", "\x01"), ebml("\x42\x82", docType)) +
		"\x18\x53\x80\x67\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF" + // a segment of unknown size
		ebml("\xEC", strings.Repeat("\x00", 300)) + ebml("\x16\x54\xAE\x6B", entries...) +
		ebml("\x1F\x43\xB6\x75", "cluster")
}

func id3(padding int) string {
	size := []byte{byte(padding >> 21 & 0x7F), byte(padding >> 14 & 0x7F), byte(padding >> 7 & 0x7F), byte(padding & 0x7F)}
	return "ID3\x04\x00\x00" + string(size) + strings.Repeat("\x00", padding)
}

// page returns a first page of Ogg.
func page(flags byte, packet string) string {
	return "OggS\x00" + string(flags) + strings.Repeat("\x00", 20) + "\x01" + string(byte(len(packet))) + packet
}

// frame is an MPEG 1 layer III frame of 128 kbit/s at 44.1 kHz.
var frame = "\xFF\xFB\x90\x64" + strings.Repeat("\x55", 413)

func flac(rate uint32) string {
	head := strings.Repeat("\x00", 10) + string([]byte{byte(rate >> 12), byte(rate >> 4), byte(rate << 4)}) + strings.Repeat("\x00", 21)
	return "fLaC\x00\x00\x00\x22" + head + "frames"
}

func aiff(channels uint16, frames uint32, rate string) string {
	common := string([]byte{byte(channels >> 8), byte(channels)}) + be32(frames) + "\x00\x10" + rate
	return "FORM" + be32(0) + "AIFF" + "COMM" + be32(18) + common + "SSND" + be32(4) + "0000"
}

func TestARecordingIsCheckedByItsHeaders(t *testing.T) {
	mp4 := box("ftyp", "M4A ", "\x00\x00\x00\x00", "isom")
	cases := map[string]struct{ file, want, refused string }{
		"wav":                            {wav(1, 16000, "samples"), "audio/wav", ""},
		"wav of 0 Hz":                    {wav(1, 0, "samples"), "", "0 samples a second"},
		"wav without channels":           {wav(0, 16000, "samples"), "", "0 channels"},
		"wav without samples":            {wav(1, 16000, ""), "", "no sound"},
		"wav that is cut in its head":    {wav(1, 16000, "")[:30], "", "ends before"},
		"wav with samples before format": {"RIFF\x00\x00\x00\x00WAVEdata\x04\x00\x00\x00abcd", "", "before it says"},
		"flac":                           {flac(44100), "audio/flac", ""},
		"flac of 0 Hz":                   {flac(0), "", "sample rate"},
		"flac that is cut":               {"fLaC\x00", "", "ends before"},
		"mp3":                            {frame + frame, "audio/mpeg", ""},
		"mp3 behind a tag":               {id3(5000) + frame + frame, "audio/mpeg", ""},
		"mp3 behind two tags and more":   {id3(10) + id3(300000) + "rubbish" + frame + frame, "audio/mpeg", ""},
		"a tag and nothing":              {id3(5000), "", "tag without sound"},
		"a tag that is cut":              {id3(5000)[:4000], "", "tag without sound"},
		"a tag and a text":               {id3(50) + strings.Repeat("no sound \xFF\xFB ", 5000), "", "tag without sound"},
		"two megabytes of tag":           {id3(2<<20) + "x", "", "tag without sound"},
		"aac":                            {"\xFF\xF1\x50\x80" + "frames", "audio/aac", ""},
		"opus":                           {page(2, "OpusHead...") + page(0, "OpusTags"), "audio/ogg", ""},
		"video and vorbis":               {page(2, "\x80theora") + page(2, "\x01vorbis"), "audio/ogg", ""},
		"video alone":                    {page(2, "\x80theora") + page(0, "\x01vorbis"), "", "Ogg file without sound"},
		"m4a":                            {mp4 + box("moov", box("mvhd", "0000"), track("soun")) + box("mdat", "x"), "audio/mp4", ""},
		"m4a with its index at the end":  {mp4 + box("free") + box("mdat", strings.Repeat("x", 200000)) + box("moov", track("vide"), track("soun")), "audio/mp4", ""},
		"mp4 without sound":              {mp4 + box("moov", track("vide")) + box("mdat", "x"), "", "without a track of sound"},
		"mp4 without an index":           {mp4 + box("mdat", "x"), "", "without an index"},
		"mp4 that is cut":                {(mp4 + box("mdat", strings.Repeat("x", 2000)))[:500], "", "without an index"},
		"heic":                           {box("ftyp", "heic", "\x00\x00\x00\x00", "mif1heic") + box("meta", "x"), "", "a picture (heic)"},
		"avif":                           {box("ftyp", "avif", "\x00\x00\x00\x00", "mif1") + box("meta", "x"), "", "a picture (avif)"},
		"webm":                           {matroska("webm", "\x01", "\x02"), "audio/webm", ""},
		"webm without sound":             {matroska("webm", "\x01"), "", "WebM file without a track of sound"},
		"webm without tracks":            {matroska("webm"), "", "WebM file without a track of sound"},
		"mkv":                            {matroska("matroska", "\x01", "\x02"), "", "Matroska file, not WebM"},
		"aiff":                           {aiff(1, 100, "\x40\x0E\xAC\x44\x00\x00\x00\x00\x00\x00"), "audio/aiff", ""},
		"aiff of 0 Hz":                   {aiff(1, 100, strings.Repeat("\x00", 10)), "", "AIFF file without sound"},
		"amr":                            {"#!AMR\nframes", "audio/amr", ""},
		"amr without frames":             {"#!AMR\n", "", "AMR file without sound"},
		"nothing":                        {"", "", "is empty"},
		"words":                          {"these are words", "", "no known audio format"},
	}
	for name, c := range cases {
		got, err := media.CheckAudio(strings.NewReader(c.file), int64(len(c.file)))
		if c.refused == "" {
			require.NoError(t, err, name)
			require.Equal(t, c.want, got, name)
			continue
		}
		var refused *media.RefusedError
		require.ErrorAs(t, err, &refused, name)
		require.ErrorContains(t, err, c.refused, name)
		require.False(t, refused.TooLarge, name)
		require.Empty(t, got, name)
	}
}

func TestARecordingOverTheLimitIsNotRead(t *testing.T) {
	_, err := media.CheckAudio(fails{}, media.AudioLimit+1)
	var refused *media.RefusedError
	require.ErrorAs(t, err, &refused)
	require.True(t, refused.TooLarge)
	got, err := media.CheckAudio(strings.NewReader(frame), media.AudioLimit)
	require.NoError(t, err)
	require.Equal(t, "audio/mpeg", got)
}

func TestBoxesWithinBoxesAreNotFollowedFarDown(t *testing.T) {
	nest := bytes.Repeat([]byte(be32(1<<20)+"trak"), 1<<17) // each claims to contain the rest
	for i := range 1 << 17 {
		binary.BigEndian.PutUint32(nest[8*i:], uint32(len(nest)-8*i))
	}
	_, err := media.CheckAudio(strings.NewReader(box("ftyp", "isom")+box("moov", string(nest))), -1)
	require.ErrorContains(t, err, "without a track of sound")
}

// fails is a reader that breaks off as a connection does.
type fails struct{}

func (fails) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAReaderThatBreaksOffIsNoVerdictOnTheRecording(t *testing.T) {
	for _, start := range []string{"", wav(1, 16000, "")[:40], id3(5000)[:300], "OggS"} {
		_, err := media.CheckAudio(io.MultiReader(strings.NewReader(start), fails{}), -1)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%q", start)
		require.NotErrorAs(t, err, new(*media.RefusedError), "%q", start)
	}
}

func FuzzCheckAudio(f *testing.F) {
	for _, seed := range []string{
		wav(1, 8000, "x"), flac(8000), id3(10) + frame + frame, page(2, "OpusHead"), matroska("webm", "\x02"),
		box("ftyp", "M4A ") + box("moov", track("soun")), aiff(1, 1, "\x40\x0E\xAC\x44\x00\x00\x00\x00\x00\x00"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := media.CheckAudio(bytes.NewReader(file), -1)
		if (got == "") == (err == nil) || err != nil && !errors.As(err, new(*media.RefusedError)) {
			t.Fatalf("%q: %q, %v", file, got, err)
		}
	})
}
