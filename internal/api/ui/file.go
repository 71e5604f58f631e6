package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// serveFile serves a file of a result. Pictures and recordings are shown; everything else is
// a download, so that no file of a user runs as a page of this server.
func (u *UI) serveFile(w http.ResponseWriter, r *http.Request, c Caller) {
	id, err := idOf(r)
	if err != nil {
		u.fail(w, r, c, err)
		return
	}
	result, err := u.cfg.Client(c.Tenant).Result(r.Context(), id)
	if err != nil {
		u.fail(w, r, c, err)
		return
	}
	for _, a := range result.Artefacts {
		if path.Base(a.Key) == r.PathValue("name") {
			u.writeFile(w, r, c, a, result)
			return
		}
	}
	u.fail(w, r, c, errNotFound)
}

func (u *UI) writeFile(w http.ResponseWriter, r *http.Request, c Caller, a tasks.Artefact, result *tasks.Result) {
	if _, err := u.cfg.Store.Head(r.Context(), a.Key); err != nil {
		u.fail(w, r, c, fmt.Errorf("look for a file of the result: %w", err))
		return
	}
	content := &object{ctx: r.Context(), store: u.cfg.Store, key: a.Key, size: a.Bytes}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("ETag", `"`+strings.Trim(a.SHA256, `"`)+`"`)
	h.Set("Cache-Control", "private, no-cache") // it never changes, but a key may be revoked
	name := path.Base(a.Key)
	if inline(a.ContentType) {
		h.Set("Content-Type", a.ContentType)
	} else {
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	}
	http.ServeContent(w, r, "", result.FinishedAt, content)
}

// object reads an object of the bucket from any position. It opens the object at the first
// read, and again after a seek.
type object struct {
	ctx   context.Context //nolint:containedctx // io.ReadSeeker has none
	store storage.Store
	key   string
	size  int64

	at   int64 // where the next read begins
	body io.ReadCloser
	read int64 // position of body
}

// Seek sets the position of the next read.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	o.at = offset
	return offset, nil
}

// Read reads on.
func (o *object) Read(p []byte) (int, error) {
	if o.body != nil && o.read != o.at {
		o.Close()
	}
	if o.body == nil {
		body, err := o.store.Get(o.ctx, o.key)
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(io.Discard, body, o.at); err != nil {
			body.Close()
			return 0, err
		}
		o.body, o.read = body, o.at
	}
	n, err := o.body.Read(p)
	o.read += int64(n)
	o.at = o.read
	return n, err
}

// Close closes the object; it can be read again.
func (o *object) Close() {
	if o.body != nil {
		o.body.Close()
		o.body = nil
	}
}
