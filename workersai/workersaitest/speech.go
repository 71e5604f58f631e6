package workersaitest

import (
	"encoding/base64"
	"encoding/binary"

	"fmt"
	"math"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/media"
)

func transcribe(row catalogue.Model, contentType string, body []byte) answer {
	isJSON := strings.HasPrefix(contentType, "application/json")
	var audio []byte
	switch {
	case row.Answer == catalogue.WhisperV3:
		var in struct {
			Audio    string `json:"audio"`
			Language string `json:"language"`
			Task     string `json:"task"`
			VAD      bool   `json:"vad_filter"`
		}
		if why := fieldsIn(body, &in); why != "" {
			return failed(5006, why)
		}
		var err error
		if audio, err = base64.StdEncoding.DecodeString(in.Audio); err != nil || in.Audio == "" {
			return failed(5004, "audio")
		}
	case isJSON && row.Answer == catalogue.Deepgram:
		return failed(5006, "Error: the body must be audio")
	case isJSON:
		var in struct {
			Audio []int `json:"audio"`
		}
		if why := fieldsIn(body, &in); why != "" {
			return failed(5006, why)
		}
		for _, b := range in.Audio {
			audio = append(audio, byte(b))
		}
	default:
		audio = body
	}
	if _, ok := media.Audio(audio); !ok {
		return failed(8001)
	}
	seconds := duration(audio)
	if seconds <= 0 {
		return failed(8001)
	}
	return speak(row, seconds)
}

// duration is exact for WAV and otherwise an estimate at 64 kbit/s; 0 for an invalid
// header.
func duration(audio []byte) float64 {
	if !strings.HasPrefix(string(audio), "RIFF") {
		return float64(len(audio)) / 8000
	}
	var rate uint32
	for at := 12; at+8 <= len(audio); {
		id, size := string(audio[at:at+4]), int(binary.LittleEndian.Uint32(audio[at+4:]))
		if id == "fmt " && at+20 <= len(audio) {
			rate = binary.LittleEndian.Uint32(audio[at+16:]) // bytes per second
		}
		if id == "data" && rate > 0 {
			return float64(min(size, len(audio)-at-8)) / float64(rate)
		}
		if at += 8 + size + size%2; size < 0 {
			break
		}
	}
	return 0
}

type spoken struct {
	Word  string  `json:"word"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

const script = "The mill by the river turns all day and the wheel sings while the water runs. "

// speak returns as many words as fit into the time.
func speak(row catalogue.Model, seconds float64) answer {
	all := strings.Fields(script)
	n := max(1, int(seconds*2.5))
	words := make([]spoken, n)
	step := seconds / float64(n)
	plain := make([]string, n)
	for i := range words {
		plain[i] = all[i%len(all)]
		words[i] = spoken{plain[i], round(float64(i) * step), round(float64(i+1) * step)}
	}
	text := strings.Join(plain, " ")
	neurons := row.AudioNeurons(seconds)
	switch row.Answer {
	case catalogue.Deepgram:
		return result(map[string]any{"results": map[string]any{"channels": []any{map[string]any{
			"alternatives": []any{map[string]any{"transcript": text, "confidence": 0.98, "words": words}},
		}}}}, neurons)
	case catalogue.Whisper:
		return result(map[string]any{"text": text, "word_count": n, "words": words, "vtt": vtt(words)}, neurons)
	}
	var segments []any
	for len(words) > 0 {
		k := min(8, len(words))
		segments = append(segments, map[string]any{
			"start": words[0].Start, "end": words[k-1].End, "text": sentence(words[:k]), "words": words[:k],
			"temperature": 0, "avg_logprob": -0.2, "no_speech_prob": 0.01,
		})
		words = words[k:]
	}
	out := map[string]any{
		"text": text, "word_count": n, "segments": segments,
		"transcription_info": map[string]any{"language": "en", "language_probability": 0.99, "duration": round(seconds), "duration_after_vad": round(seconds)},
	}
	return result(out, neurons)
}

func sentence(words []spoken) string {
	plain := make([]string, len(words))
	for i, w := range words {
		plain[i] = w.Word
	}
	return strings.Join(plain, " ")
}

func vtt(words []spoken) string {
	var b strings.Builder
	b.WriteString("WEBVTT\n")
	for len(words) > 0 {
		k := min(8, len(words))
		fmt.Fprintf(&b, "\n%s --> %s\n%s\n", clock(words[0].Start), clock(words[k-1].End), sentence(words[:k]))
		words = words[k:]
	}
	return b.String()
}

func clock(seconds float64) string {
	ms := int(math.Round(seconds * 1000))
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3600000, ms/60000%60, ms/1000%60, ms%1000)
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// SampleWAV returns a real recording of 2.4 seconds: 16 kHz, 16 bit, mono, a short tune.
func SampleWAV() []byte {
	const rate, seconds = 16000, 2.4
	samples := int(rate * seconds)
	out := make([]byte, 0, 44+2*samples)
	out = append(out, "RIFF"...)
	out = binary.LittleEndian.AppendUint32(out, uint32(36+2*samples))
	out = append(out, "WAVEfmt "...)
	out = binary.LittleEndian.AppendUint32(out, 16)
	for _, v := range []uint16{1, 1} { // PCM, one channel
		out = binary.LittleEndian.AppendUint16(out, v)
	}
	out = binary.LittleEndian.AppendUint32(out, rate)
	out = binary.LittleEndian.AppendUint32(out, 2*rate)
	for _, v := range []uint16{2, 16} { // bytes per frame, bits per sample
		out = binary.LittleEndian.AppendUint16(out, v)
	}
	out = append(out, "data"...)
	out = binary.LittleEndian.AppendUint32(out, uint32(2*samples))
	tune := []float64{261.6, 329.6, 392, 523.3, 392, 329.6}
	for i := range samples {
		note := i * len(tune) / samples
		inNote := float64(i%(samples/len(tune))) / rate
		v := math.Sin(2*math.Pi*tune[note]*float64(i)/rate) * math.Exp(-3*inNote) * 0.4
		out = binary.LittleEndian.AppendUint16(out, uint16(int16(v*32767)))
	}
	return out
}
