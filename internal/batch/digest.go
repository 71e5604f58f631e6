package batch

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// digest identifies the content of a line: a part of a SHA-256, long enough that two
// contents never share one.
type digest [16]byte

// digestVersion changes when equal content gets another digest.
const digestVersion = "1"

// contentOf returns the digest of kind, model and canonical payload. Lines with the same one
// ask for the same: the order of fields and the blanks between them do not matter.
func contentOf(kind tasks.Kind, model string, p tasks.Payload) (digest, error) {
	all := make([]byte, 0, 512)
	add := func(text string) {
		all = append(binary.LittleEndian.AppendUint64(all, uint64(len(text))), text...)
	}
	add(digestVersion)
	add(string(kind))
	add(model)
	if e, ok := p.(tasks.Embedding); ok {
		add(e.Pooling)
		for _, text := range e.Texts {
			add(text)
		}
		return shorten(sha256.Sum256(all)), nil
	}
	encoded, err := json.Marshal(p)
	if err != nil {
		return digest{}, fmt.Errorf("encode the payload: %w", err)
	}
	value := jsontext.Value(encoded)
	if err := value.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		return digest{}, fmt.Errorf("order the fields of the payload: %w", err)
	}
	add(string(value))
	return shorten(sha256.Sum256(all)), nil
}

func shorten(sum [sha256.Size]byte) digest { return digest(sum[:len(digest{})]) }

// MarshalText implements encoding.TextMarshaler.
func (d digest) MarshalText() ([]byte, error) {
	return base64.RawStdEncoding.AppendEncode(nil, d[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *digest) UnmarshalText(text []byte) error {
	decoded, err := base64.RawStdEncoding.DecodeString(string(text))
	if err != nil || len(decoded) != len(d) {
		return fmt.Errorf("%q is not a digest", text)
	}
	copy(d[:], decoded)
	return nil
}

// place is where a line is in a batch.
type place struct {
	Segment  int `json:"s"`
	Position int `json:"p"` // among the lines of the segment, from 0
}

// repeatWindow is how many different lines a repeated one may be apart from its first. Twice as
// many are remembered at most, in about 30 MB.
const repeatWindow = 1 << 18

// firstLines finds the lines of a file that equal an earlier one. Its memory is bounded: it
// remembers the last repeatWindow different lines at least. The zero value is empty.
type firstLines struct{ recent, older map[digest]place }

// find returns the place of the first line with a content. Without one, the line at this
// place becomes it.
func (f *firstLines) find(content digest, at place) (first place, repeated bool) {
	if first, repeated = f.recent[content]; repeated {
		return first, true
	}
	if first, repeated = f.older[content]; repeated {
		at = first
	}
	if f.recent == nil || len(f.recent) == repeatWindow {
		f.recent, f.older = map[digest]place{}, f.recent
	}
	f.recent[content] = at
	return first, repeated
}

// reusable reports whether the result of a line may be taken from another batch. A
// recording, or a picture at a URL, may have changed since; within one batch it has not.
func reusable(kind tasks.Kind, input []byte) bool {
	picture := kind == tasks.KindText && bytes.Contains(input, []byte(`"image_url"`))
	return kind != tasks.KindTranscription && !picture
}
