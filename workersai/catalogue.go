package workersai

import (
	"context"
	"encoding/json"
	"net/http"
)

// RemoteModel is a model as the account's own catalogue has it.
type RemoteModel struct {
	ID          string
	Task        string // "Text Generation", "Text Embeddings", ...
	WithdrawnOn string // planned_deprecation_date; empty when none is planned
	Context     int    // tokens; 0 when it does not say
}

// Catalogue asks which models the API has now. It is free, and not paged in practice.
func (c *Client) Catalogue(ctx context.Context) ([]RemoteModel, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.account()+"/ai/models/search?per_page=1000", nil)
	if err != nil {
		return nil, &Error{Message: "the request cannot be made: check CLOUDFLARE_BASE_URL", Code: 7000, cause: err}
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
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
	if err := decodeResult(resp, &rows); err != nil {
		return nil, err
	}
	models := make([]RemoteModel, len(rows))
	for i, r := range rows {
		models[i] = RemoteModel{ID: r.Name, Task: r.Task.Name}
		for _, p := range r.Properties {
			switch p.ID {
			case "planned_deprecation_date":
				_ = json.Unmarshal(p.Value, &models[i].WithdrawnOn)
			case "context_window":
				_ = json.Unmarshal(p.Value, (*looseInt)(&models[i].Context))
			}
		}
	}
	return models, nil
}
