package media_test

import (
	"testing"

	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/stretchr/testify/require"
)

func TestAudioIsToldByItsFirstBytes(t *testing.T) {
	cases := map[string]string{
		"RIFF\x00\x00\x00\x00WAVEfmt ":  "audio/wav",
		"fLaC\x00":                      "audio/flac",
		"OggS\x00":                      "audio/ogg",
		"ID3\x04\x00":                   "audio/mpeg",
		"\xFF\xFB\x90\x64":              "audio/mpeg",
		"\xFF\xF1\x50\x80":              "audio/aac",
		"\x00\x00\x00\x20ftypM4A ":      "audio/mp4",
		"\x1A\x45\xDF\xA3\x01":          "audio/webm",
		"FORM\x00\x00\x00\x00AIFFCOMM":  "audio/aiff",
		"":                              "",
		"RIFF":                          "",
		"RIFF\x00\x00\x00\x00AVI ":      "",
		"<!DOCTYPE html>":               "",
		"{\"audio\": \"no\"}":           "",
		"\x89PNG\r\n\x1a\n":             "",
		"\xFF\xD8\xFF\xE0 a JPEG":       "",
		"\xFF\xFE a UTF-16 text begins": "",
	}
	for start, want := range cases {
		got, ok := media.Audio([]byte(start))
		require.Equal(t, want, got, "%q", start)
		require.Equal(t, want != "", ok, "%q", start)
	}
}

func FuzzAudio(f *testing.F) {
	f.Add([]byte("RIFF\x00\x00\x00\x00WAVE"))
	f.Fuzz(func(t *testing.T, start []byte) {
		if got, ok := media.Audio(start); ok != (got != "") {
			t.Fatalf("%q: %q, %v", start, got, ok)
		}
	})
}
