package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// upload puts the local file of a transcription into the bucket, and names it there.
// Other payloads stay as they are. What is no audio is refused before.
func upload(ctx context.Context, s storage.Store, p tasks.Payload) (tasks.Payload, error) {
	t, ok := p.(tasks.Transcription)
	if !ok || t.Audio.Path == "" {
		return p, nil
	}
	file, err := os.Open(t.Audio.Path)
	if err != nil {
		return nil, tasks.Problems{{Field: "audio", Message: "cannot be read: " + err.Error()}}
	}
	defer file.Close()
	start := make([]byte, media.SniffLen)
	n, err := io.ReadFull(file, start)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, tasks.Problems{{Field: "audio", Message: "cannot be read: " + err.Error()}}
	}
	contentType, ok := media.Audio(start[:n])
	switch {
	case n == 0:
		return nil, tasks.Problems{{Field: "audio", Message: t.Audio.Path + " is empty"}}
	case !ok:
		return nil, tasks.Problems{{Field: "audio", Message: t.Audio.Path + " is not audio: wav, mp3, flac, ogg, m4a and webm are understood"}}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Audio.Path, err)
	}
	key := "default/files/" + uuid.Must(uuid.NewV7()).String() + extension(t.Audio.Path)
	if err := s.Put(ctx, key, file, contentType); err != nil {
		return nil, fmt.Errorf("upload %s: %w", t.Audio.Path, err)
	}
	t.Audio = tasks.Audio{Key: key}
	return t, nil
}

var safeExtension = regexp.MustCompile(`^\.[a-z0-9]{1,8}$`)

func extension(path string) string {
	if e := strings.ToLower(filepath.Ext(path)); safeExtension.MatchString(e) {
		return e
	}
	return ""
}
