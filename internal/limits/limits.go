// Package limits holds the account's limits of requests a minute, by kind or model.
package limits

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
)

// Limits are requests a minute by name: a kind, a model id, or KIND:total for the ceiling
// over all models of a kind. They have precedence over the catalogue.
type Limits map[string]int

const (
	lowest = 20        // limit of a model that neither settings nor catalogue know
	most   = 1_000_000 // largest limit
)

// UnmarshalText reads "embedding=3000,@cf/baai/bge-m3=600".
func (l *Limits) UnmarshalText(text []byte) error {
	*l = Limits{}
	for part := range strings.SplitSeq(string(text), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, figure, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(figure)
		if !ok || err != nil {
			return fmt.Errorf("limits: %q is not NAME=REQUESTS_A_MINUTE", part)
		}
		if err := check(name, n); err != nil {
			return err
		}
		(*l)[name] = n
	}
	return nil
}

// Validate reports all names that are neither a kind, KIND:total nor a model, and all
// limits out of range.
func (l Limits) Validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l)) {
		errs = append(errs, check(name, l[name]))
	}
	return errors.Join(errs...)
}

func check(name string, n int) error {
	if n < 0 || n > most {
		return fmt.Errorf("limits: %s=%d is out of range, 0 to %d", name, n, most)
	}
	kind := strings.TrimSuffix(name, gate.TotalOf(""))
	if _, model := catalogue.Find(name); !model && catalogue.Default(kind).ID == "" && !strings.HasPrefix(name, "@") {
		return fmt.Errorf("limits: %q is neither a kind, KIND:total nor a model", name)
	}
	return nil
}

// Pace returns the pace of a model: the limit of the model, else of its kind, else of the
// catalogue, else 20, the lowest. An empty kind means the catalogue's kind.
func (l Limits) Pace(model, kind string) gate.Pace {
	if m, ok := catalogue.Find(model); ok && kind == "" {
		kind = m.Kind
	}
	for _, name := range []string{model, kind} {
		if n, ok := l[name]; ok {
			return gate.Pace{PerMinute: n, Source: "settings"}
		}
	}
	if m, ok := catalogue.Find(model); ok && m.PerMinute > 0 {
		return gate.Pace{PerMinute: m.PerMinute, Source: "catalogue"}
	}
	return gate.Pace{PerMinute: lowest, Source: "catalogue"}
}

// Total returns the limit over all models of a kind; 0 means none.
func (l Limits) Total(kind string) int { return l[gate.TotalOf(kind)] }
