package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// upload copies the local file of a transcription to the bucket and sets the payload's
// key. It first refuses a file that is not audio. It returns other payloads unchanged.
func upload(ctx context.Context, s storage.Store, p tasks.Payload) (tasks.Payload, error) {
	t, ok := p.(tasks.Transcription)
	if !ok || t.Audio.Path == "" {
		return p, nil
	}
	file, err := openRegular(t.Audio.Path)
	if err != nil {
		return nil, tasks.ValidationError{{Field: "audio", Message: "cannot be read: " + err.Error()}}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, tasks.ValidationError{{Field: "audio", Message: "cannot be read: " + err.Error()}}
	}
	contentType, err := media.CheckAudio(file, info.Size())
	if refused, ok := errors.AsType[*media.RefusedError](err); ok {
		return nil, tasks.ValidationError{{Field: "audio", Message: t.Audio.Path + " " + refused.Reason}}
	}
	if err != nil {
		return nil, tasks.ValidationError{{Field: "audio", Message: "cannot be read: " + err.Error()}}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Audio.Path, err)
	}
	key := objects.NewUploadKey(objects.DefaultTenant, extension(t.Audio.Path))
	if err := objects.MarkUpload(ctx, s, key); err != nil {
		return nil, err
	}
	if err := s.Put(ctx, key, file, contentType); err != nil {
		return nil, fmt.Errorf("upload %s: %w", t.Audio.Path, err)
	}
	t.Audio = tasks.Audio{Key: key}
	return t, nil
}

// openRegular opens a regular file. A named pipe or a terminal would block the command,
// and a device might never end.
func openRegular(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe without a writer would block
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is %s; save the recording to a file first", name, nature(info.Mode()))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// nature returns the type of a file that is not regular.
func nature(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

var safeExtension = regexp.MustCompile(`^\.[a-z0-9]{1,8}$`)

func extension(path string) string {
	if e := strings.ToLower(filepath.Ext(path)); safeExtension.MatchString(e) {
		return e
	}
	return ""
}
