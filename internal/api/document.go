package api

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
)

// registerAliases tells the document how types appear in JSON that it would misread.
func registerAliases(r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[jsontext.Value](), reflect.TypeFor[json.RawMessage]())
}

func (s *Server) documentRoutes() {
	s.handle(route{method: http.MethodGet, path: "/openapi.json"}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(s.document())
	})
	s.handle(route{method: http.MethodGet, path: "/openapi-3.0.json"}, func(w http.ResponseWriter, _ *http.Request) {
		document, err := s.downgraded()
		if err != nil {
			s.problem(context.Background(), "document", err).write(w)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.0")
		_, _ = w.Write(document)
	})
	s.handle(route{method: http.MethodGet, path: "/docs"}, s.page(docsPage, func() any { return s.operations() }))
	s.handle(route{method: http.MethodGet, path: "/docs/errors"}, s.page(errorsPage, func() any {
		return slices.SortedFunc(maps.Values(Codes), func(a, b CodeInfo) int { return strings.Compare(a.Code, b.Code) })
	}))
}

// makeDocument encodes the OpenAPI document of all routes.
func (s *Server) makeDocument() []byte {
	document, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		panic("the OpenAPI document cannot be encoded: " + err.Error())
	}
	return document
}

// makeDowngraded encodes the document in the form of OpenAPI 3.0, which more generators of
// clients read.
func (s *Server) makeDowngraded() ([]byte, error) {
	document, err := s.api.OpenAPI().Downgrade()
	if err != nil {
		return nil, fmt.Errorf("encode the document as OpenAPI 3.0: %w", err)
	}
	return document, nil
}

// operation is a row of the page of all routes.
type operation struct {
	Method, Path, Summary, Description string
}

func (s *Server) operations() []operation {
	var all []operation
	paths := s.api.OpenAPI().Paths
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				all = append(all, operation{op.Method, path, op.Summary, op.Description})
			}
		}
	}
	return all
}

// page serves a page that loads nothing from elsewhere.
func (s *Server) page(t *template.Template, data func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		if err := t.Execute(w, data()); err != nil {
			s.log.Debug("page not written", "error", err)
		}
	}
}

const pageHead = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>neuronmill</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
code{font:13px ui-monospace,monospace}table{border-collapse:collapse}td,th{padding:.35rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid #8884}</style>
`

var docsPage = template.Must(template.New("docs").Parse(pageHead + `<h1>neuronmill</h1>
<p>The HTTP interface. <a href="/openapi.json">openapi.json</a> has every field (<a href="/openapi-3.0.json">in the form of OpenAPI 3.0</a>); <a href="/docs/errors">errors</a> explains the codes.</p>
<table><tr><th>route<th>what it does
{{range .}}<tr><td><code>{{.Method}} {{.Path}}</code><td>{{.Summary}}{{if .Description}}<br><small>{{.Description}}</small>{{end}}
{{end}}</table>`))

var errorsPage = template.Must(template.New("errors").Parse(pageHead + `<h1>Codes of errors</h1>
<table><tr><th>code<th>status<th>meaning<th>what to do
{{range .}}<tr id="{{.Code}}"><td><code>{{.Code}}</code><td>{{.Status}}<td>{{.Meaning}}<td>{{.Advice}}
{{end}}</table>`))
