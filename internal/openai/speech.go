package openai

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// ParseForm reads the fields of a multipart request for speech, without its file. The
// error is an *Error for the client. The caller sets the recording with SetAudio.
func ParseForm(endpoint string, form map[string][]string) (*Request, error) {
	f := &fields{members: map[string]jsontext.Value{}}
	for name, given := range form {
		name, isList := strings.CutSuffix(name, "[]")
		switch {
		case isList || name == "timestamp_granularities" || name == "include":
			encoded, err := json.Marshal(given)
			if err != nil {
				return nil, invalid("", "the form is not valid UTF-8")
			}
			f.members[name] = encoded
		case len(given) > 1:
			return nil, invalid("", "a field is given twice")
		default:
			f.members[name] = formValue(name, given[0])
			if f.members[name] == nil {
				return nil, invalid("", "the form is not valid UTF-8")
			}
		}
	}
	r := &Request{Endpoint: endpoint}
	r.transcription(f)
	return r.finish(f)
}

// formValue returns a form's field as JSON: a number or a truth value where the field is
// one, otherwise a string. It returns nil for invalid UTF-8.
func formValue(name, text string) jsontext.Value {
	if (name == "temperature" || name == "stream") && jsontext.Value(text).IsValid() {
		return jsontext.Value(text)
	}
	encoded, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		return nil
	}
	return encoded
}

// speechFields reads a JSON body, which names its recording: a file's id or a URL.
func speechFields(f *fields) *fields {
	if f.text("file") == "" && f.text("file_id") == "" && f.text("url") == "" {
		f.fail("file", "is missing; give the id of an uploaded file, or url")
	}
	return f
}

func (r *Request) transcription(f *fields) {
	p := tasks.Transcription{
		Audio:    tasks.Audio{URL: f.text("url")},
		Language: f.text("language"), InitialPrompt: f.text("prompt"),
		VADFilter: pointer[bool](f, "vad_filter", "true or false"),
	}
	if r.Endpoint == Translations {
		p.Task = "translate"
	}
	r.FileID = f.text("file")
	if r.FileID == "" {
		r.FileID = f.text("file_id")
	}
	if r.FileID != "" && p.Audio.URL != "" {
		f.fail("url", "cannot be given together with file")
	}
	f.only("response_format", "must be json, text, srt, verbose_json or vtt", "json", "text", "srt", "verbose_json", "vtt")
	r.format = f.text("response_format")
	for _, g := range value[[]string](f, "timestamp_granularities", "a list of strings") {
		switch g {
		case "word":
			r.words = true
		case "segment":
		default:
			f.fail("timestamp_granularities", "must hold word or segment")
		}
	}
	if t := pointer[float64](f, "temperature", "a number"); t != nil && *t != 0 {
		f.fail("temperature", "is not supported; leave it out")
	}
	f.refuse("stream", "a transcript comes whole")
	f.refuse("include", "no model gives log probabilities")
	f.refuse("known_speaker_names", "no model here tells speakers apart")
	r.Payload = p
}

// transcriptMost is the most bytes of subtitles in a response.
const transcriptMost = 32 << 20

// speechResponse writes a transcript in the format of the request, and the format's
// content type.
func (r *Request) speechResponse(result *tasks.Result, open Opener) ([]byte, string, error) {
	out, err := tasks.OutputOf[tasks.TranscriptionOutput](result)
	if err != nil {
		return nil, "", err
	}
	const plain = "text/plain; charset=utf-8"
	switch r.format {
	case "text":
		return []byte(out.Text + "\n"), plain, nil
	case "vtt", "srt":
		key := subtitlesOf(result)
		vtt, err := readAll(open, key, transcriptMost)
		if err != nil || r.format == "vtt" {
			return vtt, "text/vtt; charset=utf-8", err
		}
		return []byte(srt(string(vtt))), plain, nil
	case "verbose_json":
		body, err := json.Marshal(r.verbose(out))
		return body, contentJSON, err
	}
	body, err := json.Marshal(brief{out.Text, durationUsage(out)})
	return body, contentJSON, err
}

func subtitlesOf(result *tasks.Result) string {
	for _, a := range result.Artefacts {
		if strings.HasSuffix(a.Key, "/transcript.vtt") {
			return a.Key
		}
	}
	return ""
}

type (
	brief struct {
		Text  string    `json:"text"`
		Usage *duration `json:"usage,omitzero"`
	}
	duration struct {
		Type    string  `json:"type"` // duration
		Seconds float64 `json:"seconds"`
	}
	verbose struct {
		Task     string       `json:"task"`
		Language string       `json:"language"`
		Duration float64      `json:"duration"`
		Text     string       `json:"text"`
		Segments []segment    `json:"segments"`
		Words    []tasks.Word `json:"words,omitzero"`
		Usage    *duration    `json:"usage,omitzero"`
	}
	segment struct {
		ID    int     `json:"id"`
		Start float64 `json:"start"`
		End   float64 `json:"end"`
		Text  string  `json:"text"`
	}
)

func durationUsage(out tasks.TranscriptionOutput) *duration {
	if out.Duration == 0 {
		return nil
	}
	return &duration{"duration", out.Duration}
}

func (r *Request) verbose(out tasks.TranscriptionOutput) verbose {
	v := verbose{Task: "transcribe", Language: out.Language, Duration: out.Duration, Text: out.Text, Segments: []segment{}, Usage: durationUsage(out)}
	if r.Endpoint == Translations {
		v.Task = "translate"
	}
	for i, s := range out.Segments {
		v.Segments = append(v.Segments, segment{i, s.Start, s.End, s.Text})
	}
	if r.words {
		v.Words = slices.Concat([]tasks.Word{}, out.Words)
	}
	return v
}

// srt converts WebVTT to SubRip: cues have numbers, and times have hours and a comma.
func srt(vtt string) string {
	var b strings.Builder
	n := 0
	for cue := range strings.SplitSeq(strings.ReplaceAll(vtt, "\r\n", "\n"), "\n\n") {
		lines := strings.Split(strings.Trim(cue, "\n"), "\n")
		at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "-->") })
		if at < 0 {
			continue
		}
		from, to, _ := strings.Cut(lines[at], "-->")
		n++
		b.WriteString(strconv.Itoa(n) + "\n" + srtTime(from) + " --> " + srtTime(to) + "\n")
		for _, line := range lines[at+1:] {
			b.WriteString(line + "\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// srtTime converts a time of WebVTT, which may lack hours and may be followed by settings.
func srtTime(text string) string {
	words := strings.Fields(text)
	if len(words) == 0 {
		return "00:00:00,000"
	}
	t := words[0]
	if strings.Count(t, ":") == 1 {
		t = "00:" + t
	}
	return strings.Replace(t, ".", ",", 1)
}
