// Package budget caps what calls may cost in a day, in UTC: all calls of the account, those
// of a tenant, of an API key, or of bulk tasks. A call reserves its highest price before it
// is sent and settles its true price afterwards, so that a cap is never exceeded, however
// many workers share it. The reservations of a killed worker stay.
//
// A Purse caps work that one process at a time drives: a batch.
//
// The bucket keeps the caps; a hash in Redis has them for the workers, and is filled again
// after a loss. The sums of a day are in Redis alone.
package budget

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// Scope is whose calls a cap is for.
type Scope string

// The scopes. Bulk caps what the calls of bulk tasks may add to those of all others: at the
// free allocation of 10,000 neurons, bulk uses what interactive tasks leave of it. Free does
// the same for the tasks that may spend the free allocation only; they have it also where no
// cap is set.
const (
	Account Scope = "account"
	Bulk    Scope = "bulk"
	Tenant  Scope = "tenant"
	Key     Scope = "key"
	Free    Scope = "free"
)

// FreePerDay is the account's free allocation, in neurons. The next one begins at 00:00 UTC.
const FreePerDay = 10_000

// FreeCap is the cap of the tasks that may spend the free allocation only, unless another one
// of the scope is set.
var FreeCap = Cap{Scope: Free, Neurons: FreePerDay, Over: Wait}

// Over says what happens to tasks over a cap.
type Over string

// What happens to tasks over a cap.
const (
	Wait Over = "wait" // until 00:00 UTC, or until the cap is raised
	Fail Over = "fail" // with budget_exceeded
)

// MostCaps is how many caps there may be.
const MostCaps = 1000

// Cap is a limit for a day.
type Cap struct {
	Scope   Scope   `json:"scope" enum:"account,bulk,tenant,key,free" doc:"Whose calls."`
	Name    string  `json:"name,omitempty" doc:"Of the tenant, or the id of the key."`
	Neurons float64 `json:"neurons" doc:"Most neurons of a day, in UTC."`
	Over    Over    `json:"over" enum:"wait,fail" doc:"Tasks over the cap wait until 00:00 UTC, or fail with budget_exceeded."`
}

// String names a cap: "account", "tenant acme".
func (c Cap) String() string { return strings.TrimSpace(string(c.Scope) + " " + c.Name) }

var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ErrNotFound: there is no such cap.
var ErrNotFound = errors.New("there is no such cap")

// Validate reports the faults of a cap.
func (c Cap) Validate() error {
	named := c.Scope == Tenant || c.Scope == Key
	switch {
	case c.Scope != Account && c.Scope != Bulk && c.Scope != Free && !named:
		return fmt.Errorf("scope: %q is none of account, bulk, tenant, key, free", c.Scope)
	case named && !validName.MatchString(c.Name):
		return fmt.Errorf("name: a cap of a %s wants a name of letters, digits, - and _", c.Scope)
	case !named && c.Name != "":
		return fmt.Errorf("name: a cap of %s has none", c.Scope)
	case !(c.Neurons >= 0 && c.Neurons <= 1e9):
		return fmt.Errorf("neurons: %v is out of range, 0 to 1e9", c.Neurons)
	case c.Over != Wait && c.Over != Fail:
		return fmt.Errorf("over: %q is neither wait nor fail", c.Over)
	case c.Scope == Free && c.Over != Wait:
		return errors.New("over: tasks that spend the free allocation wait")
	}
	return nil
}

// sum is the name of the sum that a cap limits. Bulk and Free are limited by what all calls
// cost.
func (c Cap) sum() string {
	if c.Scope == Bulk || c.Scope == Free {
		return string(Account)
	}
	return c.String()
}

// capsKey is a hash in Redis: each cap as JSON under its name. The field loaded shows that
// the hash was filled from the bucket.
const (
	capsKey = "neuronmill:budgets"
	loaded  = "(loaded)"
)

// prefix is the folder of the caps. It begins with a character that no tenant's name does.
const prefix = "_neuronmill/budgets/"

func (c Cap) object() string { return prefix + strings.ReplaceAll(c.String(), " ", "/") + ".json" }

// Caps reads and changes the caps. The caller closes both.
type Caps struct {
	Redis redis.UniversalClient
	Store storage.Store
}

// List returns all caps in order of their names. It costs one command of Redis, unless Redis
// has lost them.
func (c *Caps) List(ctx context.Context) ([]Cap, error) {
	fields, err := c.Redis.HGetAll(ctx, capsKey).Result()
	if err != nil {
		return nil, fmt.Errorf("read the caps: %w", err)
	}
	if _, ok := fields[loaded]; ok {
		return capsOf(fields)
	}
	return c.load(ctx)
}

func capsOf(fields map[string]string) ([]Cap, error) {
	var all []Cap
	for name, text := range fields {
		if name == loaded {
			continue
		}
		var one Cap
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			return nil, fmt.Errorf("decode the cap of %s: %w", name, err)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Cap) int { return strings.Compare(a.String(), b.String()) })
	return all, nil
}

// load fills the hash in Redis from the bucket.
func (c *Caps) load(ctx context.Context) ([]Cap, error) {
	fields := map[string]string{loaded: "1"}
	for info, err := range c.Store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the caps: %w", err)
		}
		document, err := objects.Read(ctx, c.Store, info.Key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		var one Cap
		if err == nil {
			err = json.Unmarshal(document, &one)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", info.Key, err)
		}
		fields[one.String()] = string(document)
	}
	if err := c.Redis.HSet(ctx, capsKey, fields).Err(); err != nil {
		return nil, fmt.Errorf("write the caps: %w", err)
	}
	return capsOf(fields)
}

// Set adds or changes a cap. Workers follow within seconds.
func (c *Caps) Set(ctx context.Context, one Cap) error {
	if err := one.Validate(); err != nil {
		return err
	}
	all, err := c.List(ctx)
	if err != nil {
		return err
	}
	if len(all) >= MostCaps && !slices.ContainsFunc(all, func(o Cap) bool { return o.String() == one.String() }) {
		return fmt.Errorf("there are %d caps, and no more are taken: remove one first", MostCaps)
	}
	document, err := json.Marshal(one)
	if err != nil {
		return fmt.Errorf("encode the cap: %w", err)
	}
	if err := c.Store.Put(ctx, one.object(), bytes.NewReader(document), "application/json"); err != nil {
		return fmt.Errorf("put %s: %w", one.object(), err)
	}
	if err := c.Redis.HSet(ctx, capsKey, one.String(), document).Err(); err != nil {
		return fmt.Errorf("write the cap: %w", err)
	}
	return nil
}

// Remove removes a cap, or returns ErrNotFound.
func (c *Caps) Remove(ctx context.Context, scope Scope, name string) error {
	one := Cap{Scope: scope, Name: name}
	all, err := c.List(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(o Cap) bool { return o.String() == one.String() }) {
		return ErrNotFound
	}
	if err := c.Store.Delete(ctx, one.object()); err != nil {
		return fmt.Errorf("delete %s: %w", one.object(), err)
	}
	if err := c.Redis.HDel(ctx, capsKey, one.String()).Err(); err != nil {
		return fmt.Errorf("remove the cap: %w", err)
	}
	return nil
}
