// Package mergepatch applies JSON merge patches (RFC 7396).
package mergepatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// deepest bounds the objects within objects of a patch: each level copies all that is
// below it.
const deepest = 64

// Apply returns a JSON document with a merge patch applied to it: members of the patch
// replace those of the document, null removes one, objects are merged. All else stays byte
// by byte. Its error says what is wrong with the patch, such as "must be a JSON object", and
// repeats nothing of it.
func Apply(document, patch []byte) ([]byte, error) {
	return below(document, patch, deepest)
}

func below(document, patch []byte, levels int) ([]byte, error) {
	if levels == 0 {
		return nil, fmt.Errorf("must not have more than %d objects within each other", deepest)
	}
	var changes map[string]json.RawMessage
	if err := json.Unmarshal(patch, &changes); err != nil || changes == nil {
		return nil, errors.New("must be a JSON object")
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(document, &members) != nil || members == nil {
		members = map[string]json.RawMessage{}
	}
	for name, change := range changes {
		switch text := strings.TrimSpace(string(change)); {
		case text == "null":
			delete(members, name)
		case strings.HasPrefix(text, "{"):
			merged, err := below(members[name], change, levels-1)
			if err != nil {
				return nil, err
			}
			members[name] = merged
		default:
			members[name] = change
		}
	}
	return json.Marshal(members)
}
