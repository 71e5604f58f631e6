package ui

import (
	"bytes"
	"cmp"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
)

// views are the templates of a page: the frame with its parts, and the page's own.
type views struct{ *template.Template }

// parse reads the templates of a page. They are part of the program, so a fault panics.
func parse(name string) views {
	t := template.New("frame.html").Funcs(functions)
	return views{template.Must(t.ParseFS(files, "templates/frame.html", "templates/parts.html", "templates/"+name+".html"))}
}

// frame is what each template gets.
type frame struct {
	Base, Nav, Title, Version string
	Caller                    Caller
	Done                      string // sentence about the last action
	Live                      string // address of the live part; empty if there is none
	Path                      string // of this page with its query, below Base
	Data                      any
}

// Can reports whether the caller has a scope.
func (f frame) Can(scope string) bool { return f.Caller.Allows(keys.Scope(scope)) }

// Of returns the frame of a part with other data.
func (f frame) Of(data any) frame {
	f.Data = data
	return f
}

func (u *UI) frame(r *http.Request, c Caller, p *page, data any) frame {
	f := frame{Base: u.cfg.Base, Nav: p.nav, Title: p.title, Version: u.cfg.Version, Caller: c, Data: data}
	f.Path = strings.TrimPrefix(r.URL.RequestURI(), u.cfg.Base)
	f.Done = doneText(r.URL.Query())
	if titled, ok := data.(interface{ PageTitle() string }); ok {
		f.Title = titled.PageTitle()
	}
	if p.live {
		q := r.URL.Query()
		q.Del("done")
		q.Del("n")
		q.Set("live", "1")
		f.Live = r.URL.EscapedPath() + "?" + q.Encode()
	}
	return f
}

// write renders a whole page, and sends it only if that succeeds.
func (u *UI) write(w http.ResponseWriter, r *http.Request, c Caller, p *page, status int, data any) {
	var b bytes.Buffer
	if err := p.views.Execute(&b, u.frame(r, c, p, data)); err != nil {
		u.cfg.Log.Error("template failed", "page", p.name, "error", err)
		http.Error(w, "the page could not be made; the server's log has the reason", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// staticRoutes serves the style sheet and the scripts. Their addresses have the version, so
// browsers keep them until the next one.
func (u *UI) staticRoutes() {
	u.mux.HandleFunc("GET "+u.cfg.Base+"/static/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		body, ok := static()[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=3600")
		http.ServeContent(w, r, name, started, bytes.NewReader(body))
	})
}

// static has the files that browsers load, without the comments and spaces of our own ones.
var static = sync.OnceValue(func() map[string][]byte {
	all := map[string][]byte{}
	entries, err := fs.ReadDir(files, "static")
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".txt") { // a licence, which comes with the source
			continue
		}
		body, readErr := fs.ReadFile(files, "static/"+e.Name())
		err = errors.Join(err, readErr)
		if strings.HasPrefix(e.Name(), "app.") {
			body = compact(body, strings.HasSuffix(e.Name(), ".css"))
		}
		all[e.Name()] = body
	}
	if err != nil {
		panic("the files of the dashboard: " + err.Error()) // they are part of the program
	}
	return all
})

// compact removes comments of their own lines and indentation; of a style sheet also the
// spaces between declarations.
func compact(body []byte, css bool) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") || strings.HasPrefix(line, "/*") && strings.HasSuffix(line, "*/") {
			continue
		}
		if css {
			line = strings.NewReplacer(" { ", "{", "; }", "}", "; ", ";", ": ", ":", " {", "{", ", ", ",", " > ", ">").Replace(line)
			line = strings.ReplaceAll(line, ";}", "}")
		}
		b.WriteString(line)
		if !css { // a line of a script may end a statement
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// started makes the times of embedded files, which have none.
var started = time.Now()

func queryEscape(s string) string { return url.QueryEscape(s) }

// link returns an address below base with a query; empty values are left out.
func link(base, path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return base + path
	}
	return base + path + "?" + q.Encode()
}

// doneText is the sentence about the action that led to a page. Only its number comes from
// the address.
func doneText(q url.Values) string {
	text := map[string]string{
		"retried": "Runs again as this new task.", "cancelled": "Cancelled. A running task ends before its next call.", "created": "Accepted.",
		"opened": "The gate is open.", "closed": "The gate is closed until you set its pace again.", "set": "The pace is set for the whole fleet.", "reset": "The pace is that of the catalogue or the settings again.",
		"group": "tasks were changed.", "batch_cancelled": "The batch ends within seconds; its finished lines stay.", "batch_retried": "The failed lines run again.", "replayed": "The webhook is sent again.",
		"paused": "Paused. Runs that have begun go on.", "resumed": "It fires again from its next slot on.", "fired": "Fired. Its run is below.", "not_fired": "The run was left out; the list below says why.",
	}[q.Get("done")]
	if n := q.Get("n"); text != "" && n != "" && len(n) < 8 && strings.Trim(n, "0123456789") == "" {
		text = cmp.Or(n, "0") + " " + text
	}
	return text
}
