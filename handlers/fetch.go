package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/tasks"
)

// Audio at a URL is downloaded into the bucket, as an object of the task, before the task
// waits for a permit and pays for a call. The copy is checked and sent like any other
// recording, and a later run does not download it again.

// audioName names a task's copy of audio at a URL.
const audioName = "input-audio"

// audio reads recordings at URLs and in the bucket.
type audio struct{ fetch *fetch.Client }

// download copies audio at a URL into the bucket, unless an earlier run has done so, and
// returns the key of the copy.
func (a audio) download(ctx context.Context, c *engine.Call, url string) (key string, err error) {
	key = c.Key(audioName)
	switch stored, err := c.Stored(ctx, audioName); {
	case err != nil:
		return "", fmt.Errorf("look for the downloaded audio: %w", err)
	case stored:
		return key, nil
	}
	ctx, stop := c.Cancellable(ctx)
	defer stop()
	body, err := a.fetch.Open(ctx, url)
	if err != nil {
		return "", audioError(err)
	}
	defer body.Close()
	from := &input{Reader: body}
	head := bufio.NewReaderSize(from, media.SniffLen)
	start, _ := head.Peek(media.SniffLen) // errors of short or truncated files are handled below
	contentType, known := media.Audio(start)
	if !known && from.failure() == nil {
		return "", &tasks.TaskError{Code: tasks.CodeUnsupportedMedia, Message: "the audio is empty or of no known audio format"}
	}
	err = c.Put(ctx, audioName, head, contentType)
	if failed := from.failure(); failed != nil {
		return "", audioError(failed)
	}
	if err != nil {
		return "", fmt.Errorf("store the downloaded audio: %w", err)
	}
	return key, nil
}

// audioError maps the error of a failed download to the task's error.
func audioError(err error) error {
	switch message := "the audio cannot be downloaded: " + err.Error(); {
	case errors.As(err, new(*fetch.UnreachableError)):
		return &engine.AttemptError{Code: tasks.CodeAudioUnreachable, Err: fmt.Errorf("the server of the audio cannot be used: %w", err)}
	case errors.Is(err, fetch.ErrNotAllowed):
		return &tasks.TaskError{Code: tasks.CodeURLNotAllowed, Message: message}
	case errors.Is(err, fetch.ErrRefused):
		return &tasks.TaskError{Code: tasks.CodeFetchFailed, Message: message}
	case errors.Is(err, fetch.ErrTooLarge):
		return &tasks.TaskError{Code: tasks.CodeInputTooLarge, Message: message}
	}
	return err // the cause that ended the context
}

// copies returns the name of a task's copy of audio, if it may have one.
func copies(t tasks.Task) []string {
	var payload struct {
		Audio tasks.Audio `json:"audio"`
	}
	if t.InputKey != "" || json.Unmarshal(t.Payload, &payload) == nil && payload.Audio.URL != "" {
		return []string{audioName}
	}
	return nil
}

// input is a stream that keeps its read error apart from the errors of its consumer.
type input struct {
	io.Reader
	failed atomic.Pointer[error]
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is a failure
		i.failed.Store(&err)
	}
	return n, err
}

// failure returns the read error of the stream; nil when there was none.
func (i *input) failure() error {
	if err := i.failed.Load(); err != nil {
		return *err
	}
	return nil
}
