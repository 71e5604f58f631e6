package ui

import (
	"fmt"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/neuronmill/neuronmill/internal/objects"
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
	content := objects.NewSeeker(r.Context(), u.cfg.Store, a.Key, a.Bytes)
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
