package handlers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

func (h *Handlers) transcription(ctx context.Context, j *job, p tasks.Transcription) (*output, error) {
	var heard *workersai.Transcript
	err := j.call(ctx, func(ctx context.Context) (workersai.Meta, error) {
		audio, err := h.audio(ctx, j, p.Audio)
		if err != nil {
			return workersai.Meta{}, err
		}
		defer audio.Close()
		in := workersai.TranscribeInput{
			Audio: audio, Size: audio.size, ContentType: audio.contentType,
			Language: p.Language, Task: p.Task, InitialPrompt: p.InitialPrompt,
		}
		if p.VADFilter != nil {
			in.VADFilter = *p.VADFilter
		}
		var meta workersai.Meta
		heard, meta, err = h.cfg.AI.Transcribe(ctx, j.task.Model, in)
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
	return &output{result: out, files: []file{
		{name: "transcript.txt", contentType: "text/plain; charset=utf-8", body: strings.NewReader(out.Text + "\n")},
		{name: "transcript.vtt", contentType: "text/vtt", body: strings.NewReader(subtitles(heard))},
	}}, nil
}

// sound is an opened recording.
type sound struct {
	io.Reader
	io.Closer
	size        int64 // bytes, -1 when not known
	contentType string
}

// audio opens the recording and looks at its first bytes, before anything is paid.
func (h *Handlers) audio(ctx context.Context, j *job, a tasks.Audio) (*sound, error) {
	body, size, err := h.openAudio(ctx, j, a)
	if err != nil {
		return nil, err
	}
	head := bufio.NewReaderSize(body, media.SniffLen)
	start, err := head.Peek(media.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		body.Close()
		return nil, fmt.Errorf("read the audio: %w", err)
	}
	contentType, ok := media.Audio(start)
	if !ok {
		body.Close()
		return nil, &tasks.Failure{Code: "unsupported_media", Message: "the audio is empty or of no known audio format"}
	}
	return &sound{Reader: head, Closer: body, size: size, contentType: contentType}, nil
}

func (h *Handlers) openAudio(ctx context.Context, j *job, a tasks.Audio) (io.ReadCloser, int64, error) {
	if a.Key == "" {
		return h.fetch(ctx, a.URL)
	}
	if !strings.HasPrefix(a.Key, j.task.Tenant+"/") {
		return nil, 0, &tasks.Failure{Code: "input_not_found", Message: "no audio at that key"}
	}
	info, err := h.cfg.Store.Head(ctx, a.Key)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return nil, 0, &tasks.Failure{Code: "input_not_found", Message: "no audio at that key"}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look for the audio: %w", err)
	}
	body, err := h.cfg.Store.Get(ctx, a.Key)
	if err != nil {
		return nil, 0, fmt.Errorf("open the audio: %w", err)
	}
	return body, info.Size, nil
}

// subtitles is the transcript as WebVTT: the model's own where it sent one.
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
