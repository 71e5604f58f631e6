package openai

import (
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

func (r *Request) images(f *fields) {
	p := tasks.Image{
		Prompt: f.text("prompt"), NegativePrompt: f.text("negative_prompt"), Steps: pointer[int](f, "steps", "a whole number"),
		Guidance: pointer[float64](f, "guidance", "a number"), Seed: pointer[int64](f, "seed", "a whole number"),
	}
	if !f.has("prompt") {
		f.fail("prompt", "is missing")
	}
	size(f, &p)
	if n := pointer[int](f, "n", "a whole number"); n != nil && *n != 1 {
		f.fail("n", "must be 1: send the request again for another image")
	}
	f.only("response_format", "must be b64_json: images are sent, not linked", "b64_json")
	f.only("quality", "is not supported: set steps instead", "auto", "standard", "medium")
	f.only("background", "is not supported: models draw opaque pictures", "auto", "opaque")
	f.refuse("style", "say it in the prompt")
	f.refuse("output_format", "the model decides the format, and the response names it")
	f.refuse("output_compression", "the model decides the format, and the response names it")
	f.refuse("stream", "an image comes whole")
	f.refuse("partial_images", "an image comes whole")
	r.Payload = p
}

// size reads WIDTHxHEIGHT. A size that the model makes anyway is not sent: some models
// refuse the fields.
func size(f *fields, p *tasks.Image) {
	given := f.text("size")
	if given == "" || given == "auto" || f.err != nil {
		return
	}
	w, h, _ := strings.Cut(given, "x")
	width, err1 := strconv.Atoi(w)
	height, err2 := strconv.Atoi(h)
	if err1 != nil || err2 != nil || width < 1 || height < 1 {
		f.fail("size", "must be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto")
		return
	}
	m, _ := find(f.text("model"))
	if float64(width) == m.Width.Default && float64(height) == m.Height.Default {
		return
	}
	if m.ID != "" && m.Width.Max == 0 {
		f.fail("size", "%s always draws %vx%v", m.ID, m.Width.Default, m.Height.Default)
		return
	}
	p.Width, p.Height = width, height
}

// Opener opens an object of the bucket, such as an artefact of a result.
type Opener func(key string) (io.ReadCloser, error)

// imageMost is the most bytes of an image in a response.
const imageMost = 32 << 20

// imageResponse writes the picture of a result as base64.
func (r *Request) imageResponse(result *tasks.Result, open Opener) ([]byte, error) {
	out, err := tasks.OutputOf[tasks.ImageOutput](result)
	if err != nil {
		return nil, err
	}
	picture, err := readAll(open, out.Image, imageMost)
	if err != nil {
		return nil, err
	}
	dst := fmt.Appendf(nil, `{"created":%d,"data":[{"b64_json":"`, result.FinishedAt.Unix())
	dst = base64.StdEncoding.AppendEncode(dst, picture)
	dst = append(dst, `"}]`...)
	width, height := out.Width, out.Height
	if m, _ := catalogue.Find(r.Model); width == 0 || height == 0 {
		width, height = int(m.Width.Default), int(m.Height.Default)
	}
	if width > 0 && height > 0 {
		dst = fmt.Appendf(dst, `,"size":"%dx%d"`, width, height)
	}
	if _, format, ok := strings.Cut(out.ContentType, "image/"); ok {
		dst = append(dst, `,"output_format":`...)
		dst = strconv.AppendQuote(dst, format)
	}
	return append(dst, '}'), nil
}

// readAll reads an object of at most this many bytes.
func readAll(open Opener, key string, most int64) ([]byte, error) {
	body, err := open(key)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", key, err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("read %s: it has more than %d bytes", key, most)
	}
	return data, nil
}
