package workersai

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// TranscribeInput is a recording and how to hear it. Models other than
// whisper-large-v3-turbo take the recording alone.
type TranscribeInput struct {
	Audio         io.Reader
	Size          int64  // bytes of Audio; -1 when not known
	ContentType   string // of Audio
	Language      string // detected when empty
	Task          string // transcribe or translate
	InitialPrompt string
	VADFilter     bool
}

// Transcript is what was heard. Times are seconds.
type Transcript struct {
	Text     string
	Language string
	Duration float64
	Segments []Segment
	Words    []Word
	VTT      string // WebVTT as the model wrote it; empty when it writes none
}

// Segment is a stretch of speech.
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

// Transcribe sends the recording as the model wants it: as the body, or as base64 in
// JSON, encoded while it is sent. An answer without a text is an error: silence has an
// empty one.
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
	var answer heard
	meta, err := c.askRequest(ctx, r, &answer)
	if err != nil {
		return nil, meta, err
	}
	if answer.Text == nil && len(answer.Results.Channels) == 0 {
		return nil, meta, unusable(meta, "the answer holds no transcript")
	}
	t := answer.transcript()
	meta.estimate(row.AudioNeurons(t.Duration))
	return t, meta, nil
}

// base64Body is {..., "audio": "<base64>"}, written while it is read: a recording is in
// memory piece by piece only.
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
		return nil, 0, fmt.Errorf("encode the request: %w", err)
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

// heard holds the answers of all speech models; each fills its own part.
type heard struct {
	Text     *string `json:"text"` // "" where nothing is said
	Words    []Word  `json:"words"`
	VTT      string  `json:"vtt"`
	Segments []struct {
		Segment
		Words []Word `json:"words"`
	} `json:"segments"`
	Info struct {
		Language string  `json:"language"`
		Duration float64 `json:"duration"`
	} `json:"transcription_info"`
	Results struct {
		Channels []struct {
			DetectedLanguage string `json:"detected_language"`
			Alternatives     []struct {
				Transcript string `json:"transcript"`
				Words      []Word `json:"words"`
			} `json:"alternatives"`
		} `json:"channels"`
	} `json:"results"`
}

func (h heard) transcript() *Transcript {
	t := &Transcript{Language: h.Info.Language, Duration: h.Info.Duration, Words: h.Words, VTT: h.VTT}
	if h.Text != nil {
		t.Text = *h.Text
	}
	for _, s := range h.Segments {
		t.Segments = append(t.Segments, s.Segment)
		t.Words = append(t.Words, s.Words...)
	}
	for _, channel := range h.Results.Channels {
		if len(channel.Alternatives) == 0 {
			continue
		}
		best := channel.Alternatives[0]
		if t.Text != "" {
			t.Text += "\n"
		}
		t.Text += best.Transcript
		t.Words = append(t.Words, best.Words...)
		t.Language = channel.DetectedLanguage
	}
	if n := len(t.Words); t.Duration == 0 && n > 0 {
		t.Duration = t.Words[n-1].End
	}
	return t
}
