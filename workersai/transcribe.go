package workersai

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// TranscribeInput is a recording and its transcription settings. Models other than
// whisper-large-v3-turbo accept only the recording.
type TranscribeInput struct {
	Audio         io.Reader
	Size          int64  // bytes of Audio; -1 when unknown
	ContentType   string // of Audio
	Language      string // empty means detected
	Task          string // transcribe or translate
	InitialPrompt string
	VADFilter     bool
}

// Transcript is the text of a recording. Times are in seconds.
type Transcript struct {
	Text     string
	Language string
	Duration float64
	Segments []Segment
	Words    []Word
	VTT      string // WebVTT as the model wrote it; empty if it writes none
}

// Segment is a section of speech.
type Segment struct {
	Start float64 `json:"start"`
	End   float64 `json:"end"`
	Text  string  `json:"text"`
}

// Word is one spoken word.
type Word struct {
	Word  string  `json:"word"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

// Transcribe sends the recording in the form that the model requires: as the body, or as
// base64 in JSON, encoded while it is sent. An answer without a text field is an error;
// silence gives an empty text.
func (c *Client) Transcribe(ctx context.Context, model string, in TranscribeInput) (*Transcript, Meta, error) {
	row, _ := catalogue.Find(model)
	r := request{model: model, body: in.Audio, size: in.Size, contentType: in.ContentType}
	if row.Transport == catalogue.JSON {
		var err error
		if r.body, r.size, err = base64Body(in); err != nil {
			return nil, Meta{}, err
		}
		r.contentType = "application/json"
	}
	var result heard
	answer, err := c.askRequest(ctx, r, &result)
	meta := answer.meta()
	if err != nil {
		return nil, meta, err
	}
	t, ok := result.transcript()
	if !ok {
		return nil, meta, answer.unusable("the answer holds no transcript")
	}
	meta.estimate(row.AudioNeurons(t.Duration))
	return t, meta, nil
}

// base64Body returns {..., "audio": "<base64>"}, encoded while it is read. Only a part of
// the recording is in memory at a time.
func base64Body(in TranscribeInput) (io.Reader, int64, error) {
	fields := map[string]any{}
	for name, value := range map[string]string{"language": in.Language, "task": in.Task, "initial_prompt": in.InitialPrompt} {
		if value != "" {
			fields[name] = value
		}
	}
	if in.VADFilter {
		fields["vad_filter"] = true
	}
	head, err := json.Marshal(fields)
	if err != nil {
		return nil, 0, unsendable(err)
	}
	start := string(head[:len(head)-1]) + `,"audio":"`
	if len(fields) == 0 {
		start = `{"audio":"`
	}
	const end = `"}`
	size := int64(-1)
	if in.Size >= 0 {
		size = int64(len(start)+len(end)) + (in.Size+2)/3*4
	}
	pr, pw := io.Pipe()
	go func() {
		_, err := io.WriteString(pw, start)
		encoder := base64.NewEncoder(base64.StdEncoding, pw)
		if err == nil {
			_, err = io.Copy(encoder, in.Audio)
		}
		if err == nil {
			err = encoder.Close()
		}
		if err == nil {
			_, err = io.WriteString(pw, end)
		}
		pw.CloseWithError(err)
	}()
	return pr, size, nil
}

// heard has the answer fields of all speech models. The fields are raw JSON, so that one
// of an unexpected type does not affect the others.
type heard struct {
	Text     json.RawMessage `json:"text"` // "" for silence
	Words    json.RawMessage `json:"words"`
	VTT      json.RawMessage `json:"vtt"`
	Segments json.RawMessage `json:"segments"`
	Info     json.RawMessage `json:"transcription_info"`
	Results  json.RawMessage `json:"results"`
}

// transcript assembles the fields; false if none of them has a text.
func (h heard) transcript() (*Transcript, bool) {
	t := &Transcript{Text: stringIn(h.Text), VTT: stringIn(h.VTT), Words: wordsIn(h.Words)}
	var info struct{ Language, Duration json.RawMessage }
	_ = json.Unmarshal(h.Info, &info)
	t.Language, t.Duration = stringIn(info.Language), secondsIn(info.Duration)
	found := isString(h.Text)
	for _, raw := range list(h.Segments) {
		var s struct{ Start, End, Text, Words json.RawMessage }
		if json.Unmarshal(raw, &s) != nil {
			continue
		}
		t.Words = append(t.Words, wordsIn(s.Words)...)
		if !isString(s.Text) {
			continue
		}
		segment := Segment{Start: secondsIn(s.Start), End: secondsIn(s.End), Text: stringIn(s.Text)}
		t.Segments = append(t.Segments, segment)
		if !found {
			t.Text = strings.TrimSpace(t.Text + " " + strings.TrimSpace(segment.Text))
		}
	}
	found = found || len(t.Segments) > 0
	if t.addChannels(h.Results) {
		found = true
	}
	if n := len(t.Words); t.Duration == 0 && n > 0 {
		for _, w := range t.Words {
			t.Duration = max(t.Duration, w.End)
		}
	}
	return t, found
}

// addChannels adds Deepgram's channels, one line each; false if there are none.
func (t *Transcript) addChannels(raw json.RawMessage) (found bool) {
	var results struct{ Channels json.RawMessage }
	_ = json.Unmarshal(raw, &results)
	for _, element := range list(results.Channels) {
		var channel struct {
			Alternatives     json.RawMessage `json:"alternatives"`
			DetectedLanguage json.RawMessage `json:"detected_language"`
		}
		_ = json.Unmarshal(element, &channel)
		alternatives := list(channel.Alternatives)
		if len(alternatives) == 0 {
			continue
		}
		var best struct{ Transcript, Words json.RawMessage }
		if json.Unmarshal(alternatives[0], &best) != nil || !isString(best.Transcript) {
			continue
		}
		if found = true; t.Text != "" {
			t.Text += "\n"
		}
		t.Text += stringIn(best.Transcript)
		t.Words = append(t.Words, wordsIn(best.Words)...)
		if language := stringIn(channel.DetectedLanguage); language != "" {
			t.Language = language
		}
	}
	return found
}

// wordsIn reads spoken words and omits entries without a word.
func wordsIn(raw json.RawMessage) (words []Word) {
	for _, element := range list(raw) {
		var w struct{ Word, Start, End json.RawMessage }
		if json.Unmarshal(element, &w) == nil && stringIn(w.Word) != "" {
			words = append(words, Word{Word: stringIn(w.Word), Start: secondsIn(w.Start), End: secondsIn(w.End)})
		}
	}
	return words
}

// secondsIn returns a time in seconds; 0 if the field has none.
func secondsIn(raw json.RawMessage) float64 {
	const most = 1e7 // four months
	if n, ok := numberIn(raw); ok && n >= 0 && n <= most {
		return n
	}
	return 0
}
