package tasks

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/storage"
)

// Transcription turns speech into text.
type Transcription struct {
	Audio         Audio  `json:"audio"`
	Language      string `json:"language,omitempty" doc:"ISO code; detected when left out." placeholder:"CODE"`
	Task          string `json:"task,omitempty" doc:"transcribe, or translate into English." placeholder:"TASK"`
	InitialPrompt string `json:"initial_prompt,omitempty" doc:"Words that help the model."`
	VADFilter     *bool  `json:"vad_filter,omitempty" doc:"Leave out what is not speech."`
}

// Audio is the source of the recording. Exactly one field must be set.
type Audio struct {
	Key  string `json:"key,omitempty"`  // key of one of the tenant's objects in the bucket
	URL  string `json:"url,omitempty"`  // an https URL with a public address
	Path string `json:"path,omitempty"` // a local file; only the command line accepts it, and uploads it
}

// Kind implements Payload.
func (Transcription) Kind() Kind { return KindTranscription }

// Validate implements Payload.
func (t Transcription) Validate() error {
	p := textProblems(t)
	given := 0
	for _, s := range []string{t.Audio.Key, t.Audio.URL, t.Audio.Path} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		p.add("audio", "needs exactly one of key, url and path")
	}
	if t.Audio.URL != "" {
		checkURL(&p, "audio.url", t.Audio.URL)
	}
	if t.Audio.Key != "" {
		if err := storage.CheckKey(t.Audio.Key); err != nil {
			p.add("audio.key", "%v", err)
		}
	}
	if l := t.Language; l != "" && (len(l) > 8 || strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz-") != "") {
		p.add("language", "%s is no language code", quote(l))
	}
	oneOf(&p, "task", t.Task, "transcribe", "translate")
	return p.err()
}

func (t Transcription) checkModel(m catalogue.Model) ValidationError {
	var p ValidationError
	if m.Answer == catalogue.WhisperV3 {
		return nil
	}
	for field, given := range map[string]bool{
		"task": t.Task != "" && t.Task != "transcribe", "initial_prompt": t.InitialPrompt != "",
		"vad_filter": t.VADFilter != nil && *t.VADFilter, "language": t.Language != "",
	} {
		if given {
			p.add(field, "%s does not take it; @cf/openai/whisper-large-v3-turbo does", m.ID)
		}
	}
	return p
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// checkURL refuses a URL that is visibly invalid before the task is accepted. The worker
// checks the resolved address when it connects.
func checkURL(p *ValidationError, field, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > 8<<10:
		p.add(field, "is not a valid URL")
		return
	case u.Scheme != "https" || u.Hostname() == "":
		p.add(field, "must begin with https:// and a host")
		return
	}
	if u.User != nil {
		p.add(field, "must not hold a user name or password")
	}
	if u.Port() != "" && u.Port() != "443" {
		p.add(field, "must be at port 443")
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if !publicName(host) {
		p.add(field, "must name a public host, not an address")
	}
}

// publicName distinguishes names from IP addresses in any notation. Many resolvers treat
// a name whose last label is a number as an address.
func publicName(host string) bool {
	_, notLiteral := netip.ParseAddr(host)
	dot := strings.LastIndexByte(host, '.')
	last := host[dot+1:]
	_, notHex := strconv.ParseUint(last, 0, 64)
	return notLiteral != nil && notHex != nil && strings.Trim(last, "0123456789") != "" && dot > 0 && !strings.HasSuffix(host, ".localhost")
}
