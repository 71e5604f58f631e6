package handlers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// transcription checks a recording, sends it and returns the transcript as artefacts.
func (a audio) transcription(ctx context.Context, c *engine.Call, p tasks.Transcription) (*engine.Output, error) {
	source, err := a.prepare(ctx, c, p.Audio)
	if err != nil {
		return nil, err
	}
	var heard *workersai.Transcript
	most, _ := tasks.MostAudioNeurons(c.Model, source.size)
	err = c.Send(ctx, most, func(ctx context.Context) (meta workersai.Meta, err error) {
		body, err := c.Open(ctx, source.key)
		if err != nil {
			return meta, missingAudio("open", err)
		}
		defer body.Close()
		from := &input{Reader: body}
		in := workersai.TranscribeInput{
			Audio: from, Size: source.size, ContentType: source.contentType,
			Language: p.Language, Task: p.Task, InitialPrompt: p.InitialPrompt,
		}
		if p.VADFilter != nil {
			in.VADFilter = *p.VADFilter
		}
		heard, meta, err = c.AI.Transcribe(ctx, c.Model, in)
		if failed := from.failure(); err != nil && failed != nil {
			err = fmt.Errorf("read the audio: %w", failed) // only part of the recording was sent, which the API does not transcribe
		}
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	out := tasks.TranscriptionOutput{Text: heard.Text, Language: heard.Language, Duration: heard.Duration}
	for _, s := range heard.Segments {
		out.Segments = append(out.Segments, tasks.Segment(s))
	}
	for _, w := range heard.Words {
		out.Words = append(out.Words, tasks.Word(w))
	}
	return &engine.Output{Result: out, Files: []engine.File{
		{Name: "transcript.txt", ContentType: "text/plain; charset=utf-8", Body: strings.NewReader(out.Text + "\n")},
		{Name: "transcript.vtt", ContentType: "text/vtt", Body: strings.NewReader(subtitles(heard))},
	}}, nil
}

// recording is checked audio in the bucket.
type recording struct {
	key         string
	size        int64
	contentType string
}

// prepare brings the recording into the bucket and checks it, before the task waits
// for a permit and pays for a call. The check is the same for uploads and for URLs.
func (a audio) prepare(ctx context.Context, c *engine.Call, from tasks.Audio) (recording, error) {
	key := from.Key
	if from.URL != "" {
		var err error
		if key, err = a.download(ctx, c, from.URL); err != nil {
			return recording{}, err
		}
	} else if !strings.HasPrefix(key, c.Tenant+"/") {
		return recording{}, errNoAudio
	}
	size, err := c.Size(ctx, key)
	if err != nil {
		return recording{}, missingAudio("look for", err)
	}
	body, err := c.Open(ctx, key)
	if err != nil {
		return recording{}, missingAudio("open", err)
	}
	defer body.Close()
	contentType, err := media.CheckAudio(body, size)
	if refused, ok := errors.AsType[*media.RefusedError](err); ok {
		code := tasks.CodeUnsupportedMedia
		if refused.TooLarge {
			code = tasks.CodeInputTooLarge
		}
		return recording{}, &tasks.TaskError{Code: code, Message: refused.Error()}
	}
	if err != nil {
		return recording{}, err
	}
	return recording{key, size, contentType}, nil
}

var errNoAudio = &tasks.TaskError{Code: tasks.CodeInputNotFound, Message: "no audio at that key"}

// missingAudio maps an error of reading a recording to the task's error.
func missingAudio(verb string, err error) error {
	if errors.Is(err, engine.ErrNoObject) {
		return errNoAudio
	}
	return fmt.Errorf("%s the audio: %w", verb, err)
}

// subtitles returns the transcript as WebVTT: the model's own if it sent one.
func subtitles(t *workersai.Transcript) string {
	if strings.HasPrefix(t.VTT, "WEBVTT") {
		return t.VTT
	}
	segments := t.Segments
	if len(segments) == 0 && t.Text != "" {
		end := t.Duration
		if n := len(t.Words); end == 0 && n > 0 {
			end = t.Words[n-1].End
		}
		segments = []workersai.Segment{{End: end, Text: t.Text}}
	}
	var b strings.Builder
	b.WriteString("WEBVTT\n")
	for _, s := range segments {
		fmt.Fprintf(&b, "\n%s --> %s\n%s\n", vttTime(s.Start), vttTime(s.End), strings.TrimSpace(s.Text))
	}
	return b.String()
}

func vttTime(seconds float64) string {
	ms := int64(seconds*1000 + 0.5)
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3600000, ms/60000%60, ms/1000%60, ms%1000)
}
