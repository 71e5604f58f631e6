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
	Language      string `json:"language,omitempty"` // ISO code; detected when empty
	Task          string `json:"task,omitempty"`     // transcribe (default) or translate, into English
	InitialPrompt string `json:"initial_prompt,omitempty"`
	VADFilter     *bool  `json:"vad_filter,omitempty"` // leave out what is not speech
}

// Audio says where the recording is. Exactly one field is set.
type Audio struct {
	Key  string `json:"key,omitempty"`  // an object of the tenant in the bucket
	URL  string `json:"url,omitempty"`  // https, at a public address
	Path string `json:"path,omitempty"` // a local file, for the command line alone, which uploads it
}

// Kind implements Payload.
func (Transcription) Kind() Kind { return KindTranscription }

// Validate implements Payload.
func (t Transcription) Validate() error {
	var p Problems
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

func (t Transcription) checkModel(m catalogue.Model) Problems {
	var p Problems
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

// checkURL refuses at the door what can be seen there; the address that a name leads
// to is judged when it is dialled.
func checkURL(p *Problems, field, raw string) {
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

// publicName tells names from addresses in any notation: one whose last part is a
// number is an address to many resolvers.
func publicName(host string) bool {
	_, notLiteral := netip.ParseAddr(host)
	dot := strings.LastIndexByte(host, '.')
	last := host[dot+1:]
	_, notHex := strconv.ParseUint(last, 0, 64)
	return notLiteral != nil && notHex != nil && strings.Trim(last, "0123456789") != "" && dot > 0 && !strings.HasSuffix(host, ".localhost")
}
