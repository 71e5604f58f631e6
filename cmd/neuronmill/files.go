package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// located returns where people find an object: its path if the bucket is a folder,
// otherwise its key.
func located(settings app.Settings, key string) string {
	if dir, ok := strings.CutPrefix(settings.Store(), "file:"); ok {
		return filepath.Join(strings.TrimPrefix(dir, "//"), filepath.FromSlash(key))
	}
	return key
}

// saver copies the files of results out of the bucket. The zero value copies nothing.
type saver struct {
	file string // receives the one file with the matching extension
	dir  string // receives all files, each under its own name
	pipe bool   // stdout receives the first file
}

// newSaver parses an -o flag: a folder, a file, or - for stdout. It checks that files can
// be written there before any paid call.
func newSaver(output string, several bool) (saver, error) {
	info, err := os.Stat(output)
	isDir := err == nil && info.IsDir()
	switch {
	case output == "":
		return saver{}, nil
	case output == "-" && several:
		return saver{}, errors.New("-o - takes the file of one result: name a folder for several")
	case output == "-":
		return saver{pipe: true}, nil
	case isDir:
		return saver{dir: output}, writable(output)
	case several || strings.HasSuffix(output, "/"):
		return saver{dir: output}, os.MkdirAll(output, 0o755) //nolint:gosec // for files that people share
	}
	return saver{file: output}, writable(filepath.Dir(output))
}

func writable(dir string) error {
	probe, err := os.CreateTemp(dir, ".neuronmill-*")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("-o: there is no folder %s", dir)
	}
	if err != nil {
		return fmt.Errorf("-o: no file can be made in %s: %w", dir, err)
	}
	probe.Close()
	return os.Remove(probe.Name())
}

// stdout reports whether a file goes to stdout. Then nothing else may be printed there.
func (s saver) stdout() bool { return s.pipe }

// save copies the files of a completed result and returns their paths. The note is a
// warning about a file.
func (s saver) save(ctx context.Context, from storage.Store, r *tasks.Result, key string, stdout io.Writer) (paths []string, note string, err error) {
	if s == (saver{}) || r.Status != tasks.Completed {
		return nil, "", nil
	}
	if len(r.Artefacts) == 0 {
		return nil, "", errors.New("its result has no files; neuronmill task result prints it")
	}
	switch {
	case s.pipe:
		return nil, "", copyTo(ctx, from, r.Artefacts[0].Key, stdout)
	case s.file != "":
		a, err := fitting(r.Artefacts, s.file)
		if err != nil {
			return nil, "", err
		}
		return []string{s.file}, misnamed(s.file, a), copyFile(ctx, from, a.Key, s.file)
	}
	for _, a := range r.Artefacts {
		file := filepath.Join(s.dir, fileName(r, key)+"-"+path.Base(a.Key))
		if err := copyFile(ctx, from, a.Key, file); err != nil {
			return paths, "", err
		}
		paths = append(paths, file)
	}
	return paths, "", nil
}

// fileName returns the prefix of a result's file names in a folder: the key of its row if
// it is a valid name, otherwise its id.
func fileName(r *tasks.Result, key string) string {
	if key == "" || len(key) > 100 || key[0] == '.' || strings.ContainsAny(key, `/\:*?"<>|`) {
		return r.ID
	}
	return key
}

// fitting selects the file whose extension matches the name. The only file of a result
// matches any name.
func fitting(artefacts []tasks.Artefact, name string) (tasks.Artefact, error) {
	wanted := strings.ToLower(filepath.Ext(name))
	var names []string
	for _, a := range artefacts {
		if path.Ext(a.Key) == wanted {
			return a, nil
		}
		names = append(names, path.Base(a.Key))
	}
	if len(artefacts) == 1 {
		return artefacts[0], nil
	}
	return tasks.Artefact{}, fmt.Errorf("%s fits none of its files (%s)", name, strings.Join(names, ", "))
}

// misnamed returns a warning if a file's extension belongs to another type, such as a
// JPEG in mill.png.
func misnamed(file string, a tasks.Artefact) string {
	byName, _, _ := mime.ParseMediaType(mime.TypeByExtension(strings.ToLower(filepath.Ext(file))))
	is, _, _ := mime.ParseMediaType(a.ContentType)
	if byName == "" || byName == is {
		return ""
	}
	return fmt.Sprintf("%s holds %s", file, is)
}

func copyTo(ctx context.Context, from storage.Store, key string, w io.Writer) error {
	body, err := from.Get(ctx, key)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("copy %s: %w", key, err)
	}
	return nil
}

// copyFile writes a file as a whole or not at all. An existing file stays until the new
// one is complete.
func copyFile(ctx context.Context, from storage.Store, key, file string) (err error) {
	part, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(part.Name())
	err = errors.Join(copyTo(ctx, from, key, part), part.Chmod(0o644), part.Close()) //nolint:gosec // as other files of the user
	if err != nil {
		return err
	}
	return os.Rename(part.Name(), file)
}
