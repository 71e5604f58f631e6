package ui

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"path"

	"github.com/neuronmill/neuronmill/tasks"
)

// resultView is a result by its kind. Only the fields of one kind are set.
type resultView struct {
	Kind tasks.Kind

	Image         *imageView
	Transcript    *transcriptView
	Translation   *translationView
	Text          *textView
	Vectors       []vectorView
	Dimensions    int
	OtherVectors  int // vectors that are not shown
	NothingStored bool
}

type imageView struct {
	File          string
	Width, Height int
	Prompt        string
}

type transcriptView struct {
	Text, Language string
	Duration       float64
	Segments       []tasks.Segment
	More           int    // segments that are not shown
	Audio          string // name of the recording among the files; empty if it is none of them
}

type translationView struct {
	Source, Target string // texts; Source is empty when it is not kept
	From, To       string // languages; empty when not known
}

type textView struct {
	Text, Reasoning, Refusal, Finish string
	Cut                              bool
	In, Out                          int // tokens
	Tools                            []toolView
}

type toolView struct{ Name, Arguments string }

type vectorView struct {
	Label string
	Strip template.HTML
	Norm  string
}

const (
	mostSegments = 200
	mostVectors  = 12
	mostTools    = 20
)

// viewOf decodes the output of a completed task. payload may be nil.
func viewOf(r *tasks.Result, payload []byte) resultView {
	v := resultView{Kind: r.Kind}
	if r.Status != tasks.Completed {
		return resultView{}
	}
	switch r.Kind {
	case tasks.KindImage:
		v.Image = imageOf(r, payload)
	case tasks.KindTranscription:
		v.Transcript = transcriptOf(r)
	case tasks.KindTranslation:
		var in tasks.Translation
		var out tasks.TranslationOutput
		_, _ = json.Unmarshal(payload, &in), json.Unmarshal(r.Output, &out) // a missing field stays empty
		v.Translation = &translationView{Source: cut(shown/2, in.Text), Target: cut(shown/2, out.TranslatedText), From: cut(12, in.SourceLang), To: cut(12, in.TargetLang)}
	case tasks.KindEmbedding:
		v.vectors(r, payload)
	default:
		v.Text = textOf(r)
	}
	return v
}

func imageOf(r *tasks.Result, payload []byte) *imageView {
	var in tasks.Image
	var out tasks.ImageOutput
	_, _ = json.Unmarshal(payload, &in), json.Unmarshal(r.Output, &out) // a missing field stays empty
	view := &imageView{Width: out.Width, Height: out.Height, Prompt: cut(600, in.Prompt)}
	if len(r.Artefacts) > 0 && inline(r.Artefacts[0].ContentType) {
		view.File = path.Base(r.Artefacts[0].Key)
	}
	return view
}

func transcriptOf(r *tasks.Result) *transcriptView {
	var out tasks.TranscriptionOutput
	_ = json.Unmarshal(r.Output, &out) // a missing field stays empty
	view := &transcriptView{Text: cut(shown, out.Text), Language: cut(20, out.Language), Duration: out.Duration}
	for i, s := range out.Segments {
		if i == mostSegments {
			view.More = len(out.Segments) - i
			break
		}
		s.Text = cut(600, s.Text)
		view.Segments = append(view.Segments, s)
	}
	for _, a := range r.Artefacts {
		if inline(a.ContentType) {
			view.Audio = path.Base(a.Key)
		}
	}
	return view
}

func textOf(r *tasks.Result) *textView {
	var out tasks.TextOutput
	_ = json.Unmarshal(r.Output, &out) // a missing field stays empty
	view := &textView{
		Text: cut(shown, out.Text), Reasoning: cut(shown/4, out.Reasoning), Refusal: cut(600, out.Refusal), Finish: cut(30, out.FinishReason),
		Cut: len(out.Text) > shown, In: out.InputTokens, Out: out.OutputTokens,
	}
	for _, c := range out.ToolCalls[:min(len(out.ToolCalls), mostTools)] {
		text, _ := indented(c.Arguments)
		view.Tools = append(view.Tools, toolView{cut(100, c.Name), cut(4000, text)})
	}
	return view
}

func (v *resultView) vectors(r *tasks.Result, payload []byte) {
	var in tasks.Embedding
	var out tasks.EmbeddingOutput
	_, _ = json.Unmarshal(payload, &in), json.Unmarshal(r.Output, &out) // a missing field stays empty
	v.Dimensions, v.OtherVectors = out.Dimensions, max(len(out.Vectors)-mostVectors, 0)
	for i, vector := range out.Vectors[:min(len(out.Vectors), mostVectors)] {
		sum := 0.0
		for _, x := range vector {
			sum += float64(x) * float64(x)
		}
		label := fmt.Sprintf("text %d", i+1)
		if i < len(in.Texts) {
			label = cut(80, in.Texts[i])
		}
		v.Vectors = append(v.Vectors, vectorView{label, strip(vector), fmt.Sprintf("%.3f", math.Sqrt(sum))})
	}
}

// Clock writes seconds as minutes and seconds.
func (transcriptView) Clock(seconds float64) string {
	return fmt.Sprintf("%d:%02d", int(seconds)/60, int(seconds)%60)
}
