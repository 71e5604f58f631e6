package history

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// The bounds of a tenant's log of actions.
const (
	MostActions = 500
	ActionsFor  = 90 * 24 * time.Hour
)

// Action is something that a person did in the dashboard.
type Action struct {
	At    time.Time `json:"at"`
	Key   string    `json:"key,omitempty"` // id of the API key; empty on an open server
	Did   string    `json:"did"`           // "retry", "gate set"
	About string    `json:"about"`         // a task, a gate or a filter
	Count int       `json:"count"`         // things that it changed
}

func actionsKey(tenant string) string { return "neuronmill:actions:{" + tenant + "}" }

// mostAbout is the bound of Action.About in bytes.
const mostAbout = 300

// Log adds an action to the log of a tenant.
func (h *History) Log(ctx context.Context, tenant string, a Action) error {
	a.About = a.About[:min(len(a.About), mostAbout)]
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode an action: %w", err)
	}
	pipe := h.Redis.Pipeline()
	pipe.LPush(ctx, actionsKey(tenant), text)
	pipe.LTrim(ctx, actionsKey(tenant), 0, MostActions-1)
	pipe.Expire(ctx, actionsKey(tenant), ActionsFor)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("log an action: %w", err)
	}
	return nil
}

// Actions returns the latest actions of a tenant, the latest first.
func (h *History) Actions(ctx context.Context, tenant string, limit int) ([]Action, error) {
	texts, err := h.Redis.LRange(ctx, actionsKey(tenant), 0, int64(limit)-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read the log of actions: %w", err)
	}
	actions := make([]Action, 0, len(texts))
	for _, text := range texts {
		var a Action
		if json.Unmarshal([]byte(text), &a) == nil {
			actions = append(actions, a)
		}
	}
	return actions, nil
}
