package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Ids are long, so people type or copy their beginnings. Ids of one process differ within
// 18 characters, since they begin with the time in steps of 250 ns.

// shortID is how many characters of an id a narrow terminal shows.
const shortID = 18

// leastID is the minimum length of an abbreviated id.
const leastID = 6

var (
	wholeID   = regexp.MustCompile(`^t_([0-9a-f]{32}|[a-z2-7]{26})$`)
	partialID = regexp.MustCompile(`^t_[0-9a-z]+$`)
)

// shortIDs truncates ids as far as they stay unique within the table.
func shortIDs(cells []string) {
	for size := shortID; ; size++ {
		seen, whole, clash := map[string]string{}, true, false
		for _, id := range cells {
			start := id[:min(size, len(id))]
			whole = whole && len(start) == len(id)
			clash = clash || seen[start] != "" && seen[start] != id
			seen[start] = id
		}
		if clash && !whole {
			continue
		}
		for i, id := range cells {
			cells[i] = id[:min(size, len(id))]
		}
		return
	}
}

// resolve returns the full id for an abbreviated one. It returns any other text
// unchanged: the task lookup then reports that it does not exist.
func resolve(ctx context.Context, stack *app.Stack, typed string) (string, error) {
	if wholeID.MatchString(typed) || !partialID.MatchString(typed) || len(typed) < leastID {
		return typed, nil
	}
	found, err := stored(ctx, stack, typed)
	if err == nil && len(found) == 0 {
		found, err = queued(ctx, stack, typed)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("look for %s: %w", typed, err)
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("%s is the beginning of several ids (%s, ...): give more of it", typed, strings.Join(found, ", "))
	}
	return "", fmt.Errorf("%s: %w", typed, tasks.ErrNotFound)
}

// enough is the number of matches that makes a beginning ambiguous, so that the search
// can stop.
const enough = 2

// inShared finds ids in the names of shared pending records by their beginning.
func inShared(ctx context.Context, stack *app.Stack, start string) ([]string, error) {
	var found []string
	prefix := objects.SharedPrefix(objects.DefaultTenant)
	for info, err := range stack.Store.List(ctx, prefix, objects.SharedBefore(objects.DefaultTenant, start)) {
		if err != nil {
			return nil, err
		}
		if info.Key > prefix+start+"~" || len(found) >= enough {
			break // past all records whose first id is not greater
		}
		if record, ok := objects.ParseSharedKey(objects.DefaultTenant, info.Key); ok {
			for _, id := range record.IDs() {
				if strings.HasPrefix(id, start) && len(found) < enough {
					found = append(found, id)
				}
			}
		}
	}
	return found, nil
}

// stored finds ids in the bucket by their beginning.
func stored(ctx context.Context, stack *app.Stack, start string) ([]string, error) {
	found, err := inShared(ctx, stack, start)
	if err != nil || len(found) >= enough {
		return found, err
	}
	for _, prefix := range []string{objects.PendingKey(objects.DefaultTenant, start), objects.ResultKey(objects.DefaultTenant, start)} {
		prefix = prefix[:strings.Index(prefix, start)+len(start)]
		below := prefix[:len(prefix)-len(start)]
		for info, err := range stack.Store.List(ctx, prefix, "") {
			if err != nil {
				return nil, err
			}
			id, _, _ := strings.Cut(strings.TrimPrefix(info.Key, below), "/")
			id = strings.TrimSuffix(id, path.Ext(id))
			if !slices.Contains(found, id) {
				found = append(found, id)
			}
			if len(found) >= enough {
				return found, nil
			}
		}
	}
	return found, nil
}

// queued finds ids of tasks without a pending record in the bucket.
func queued(ctx context.Context, stack *app.Stack, start string) ([]string, error) {
	var found []string
	for _, name := range tasks.Queues() {
		ids := stack.Redis.ZScan(ctx, queue.DeadlinesKey(name), 0, start+"*", 10_000).Iterator()
		for score := false; ids.Next(ctx); score = !score {
			if !score && !slices.Contains(found, ids.Val()) {
				found = append(found, ids.Val())
			}
		}
		if err := ids.Err(); err != nil {
			return nil, err
		}
		if len(found) >= enough {
			return found, nil
		}
	}
	return found, nil
}

// notFound returns an error that names the missing id once.
func notFound(id string, err error) error {
	if err != nil && errors.Is(err, tasks.ErrNotFound) && strings.HasPrefix(err.Error(), id) {
		return err
	}
	return fmt.Errorf("%s: %w", id, err)
}
