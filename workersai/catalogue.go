package workersai

import (
	"context"
	"encoding/json"
	"net/http"
)

// RemoteModel is a model in the account's own catalogue.
type RemoteModel struct {
	ID          string
	Task        string // "Text Generation", "Text Embeddings", ...
	WithdrawnOn string // planned_deprecation_date; empty when none is planned
	Context     int    // tokens; 0 when not stated
}

// Catalogue lists the models that the API currently offers. It is free, and one page in
// practice.
func (c *Client) Catalogue(ctx context.Context) ([]RemoteModel, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.account()+"/ai/models/search?per_page=1000", nil)
	if err != nil {
		_, err := c.unmade(err)
		return nil, err
	}
	answer, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer answer.close()
	var rows []struct {
		Name string `json:"name"`
		Task struct {
			Name string `json:"name"`
		} `json:"task"`
		Properties []struct {
			ID    string          `json:"property_id"`
			Value json.RawMessage `json:"value"`
		} `json:"properties"`
	}
	if err := answer.decodeResult(&rows); err != nil {
		return nil, err
	}
	models := make([]RemoteModel, len(rows))
	for i, r := range rows {
		models[i] = RemoteModel{ID: r.Name, Task: r.Task.Name}
		for _, p := range r.Properties {
			switch p.ID {
			case "planned_deprecation_date":
				models[i].WithdrawnOn = stringIn(p.Value)
			case "context_window":
				models[i].Context = countIn(p.Value)
			}
		}
	}
	return models, nil
}
