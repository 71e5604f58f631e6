package openai

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// modelsSince is the date of the table of models, 2026-09-17, in Unix seconds. The API does
// not say when a model was published.
const modelsSince = 1789603200

type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Kind    string `json:"kind"` // an extension: the kind of task
}

func objectOf(m catalogue.Model) modelObject {
	author, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(m.ID, "@cf/"), "@hf/"), "/")
	return modelObject{ID: m.ID, Object: "model", Created: modelsSince, OwnedBy: author, Kind: m.Kind}
}

// served reports whether a request may name a model at the time of now.
func served(m catalogue.Model, now time.Time) bool { return m.Kind != "" && !m.Withdrawn(now) }

// Models returns the list of the models that requests may name.
func Models() ([]byte, error) {
	list := struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{"list", []modelObject{}}
	for _, m := range catalogue.All() {
		if served(m, time.Now()) {
			list.Data = append(list.Data, objectOf(m))
		}
	}
	return json.Marshal(list)
}

// Model returns the description of one model. The error is an *Error for the client.
func Model(name string) ([]byte, error) {
	m, known := find(name)
	if !known || !served(m, time.Now()) {
		return nil, noModel("the model does not exist here; GET /v1/models lists the models")
	}
	return json.Marshal(objectOf(m))
}
