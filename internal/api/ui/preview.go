package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"path"
	"sync"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/tasks"
)

// preview is a result in a few words or a picture.
type preview struct {
	ID       string
	Kind     tasks.Kind
	Model    string
	Text     string // first words, or what there is to know
	File     string // name of an image of the result; empty if it has none
	Width    int
	Height   int
	Strip    template.HTML // of a vector
	Neurons  float64
	Attempts int
	Failed   bool
}

// mostPreviews bounds the memory: a preview has at most some kilobytes.
const mostPreviews = 512

// previews keeps the previews of results, which never change. A missing result is kept too,
// since the objects of ended batches are deleted.
type previews struct {
	mu    sync.Mutex
	known map[string]*preview // by tenant and id; nil is a result that is not there
}

func newPreviews() *previews { return &previews{known: map[string]*preview{}} }

func (p *previews) get(tenant, id string) (*preview, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.known[tenant+"/"+id]
	return found, ok
}

func (p *previews) put(tenant, id string, v *preview) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= mostPreviews {
		clear(p.known)
	}
	p.known[tenant+"/"+id] = v
}

// previewReaders is how many results are read from the bucket at a time.
const previewReaders = 8

// previewsOf returns the previews of entries in their order. Entries without a result are
// left out.
func (u *UI) previewsOf(ctx context.Context, tenant string, entries []index.Entry) []preview {
	found := make([]*preview, len(entries))
	slots := make(chan struct{}, previewReaders)
	var all sync.WaitGroup
	for i, e := range entries {
		if known, ok := u.previews.get(tenant, e.ID); ok {
			found[i] = known
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r, err := u.cfg.Client(tenant).Result(ctx, e.ID)
			if err != nil && ctx.Err() != nil {
				return
			}
			if err == nil {
				found[i] = previewOf(r)
			}
			u.previews.put(tenant, e.ID, found[i])
		})
	}
	all.Wait()
	list := make([]preview, 0, len(found))
	for _, p := range found {
		if p != nil {
			list = append(list, *p)
		}
	}
	return list
}

func previewOf(r *tasks.Result) *preview {
	p := &preview{ID: r.ID, Kind: r.Kind, Model: r.Model, Neurons: r.Usage.Neurons, Attempts: r.Attempts, Failed: r.Status == tasks.Failed}
	if p.Failed {
		if r.Error != nil {
			p.Text = cut(160, r.Error.Message)
		}
		return p
	}
	switch r.Kind {
	case tasks.KindImage:
		var o tasks.ImageOutput
		_ = json.Unmarshal(r.Output, &o) // without it the picture has no size
		p.Width, p.Height, p.Text = o.Width, o.Height, fmt.Sprintf("%d × %d", o.Width, o.Height)
		if len(r.Artefacts) > 0 && inline(r.Artefacts[0].ContentType) {
			p.File = path.Base(r.Artefacts[0].Key)
		}
	case tasks.KindEmbedding:
		var o tasks.EmbeddingOutput
		if json.Unmarshal(r.Output, &o) == nil && len(o.Vectors) > 0 {
			p.Strip = strip(o.Vectors[0])
			p.Text = fmt.Sprintf("%d × %d", len(o.Vectors), o.Dimensions)
		}
	default:
		var o struct {
			Text           string           `json:"text"`
			TranslatedText string           `json:"translated_text"`
			ToolCalls      []tasks.ToolCall `json:"tool_calls"`
		}
		_ = json.Unmarshal(r.Output, &o) // an output of another form has no words
		p.Text = cut(160, o.Text+o.TranslatedText)
		if p.Text == "" && len(o.ToolCalls) > 0 {
			p.Text = cut(160, o.ToolCalls[0].Name+" "+string(o.ToolCalls[0].Arguments))
		}
	}
	return p
}

// inline reports whether browsers may show files of a type. All others are downloads: HTML
// and SVG could run scripts.
func inline(contentType string) bool {
	switch contentType {
	case "image/png", "image/jpeg", "image/webp", "image/gif", "audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/mp4", "audio/webm":
		return true
	}
	return false
}
