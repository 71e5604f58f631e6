package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/storage"
)

type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Make a key and print it, once."`
	List   keyListCmd   `cmd:"" help:"List the keys, without their secrets."`
	Revoke keyRevokeCmd `cmd:"" help:"End a key."`
}

// Help is shown by --help.
func (keyCmd) Help() string {
	return examples("neuronmill key create --scope tasks:read --scope tasks:write", "neuronmill key revoke 5e0a1c2b3d4f6a70") + `
Keys are kept in the bucket as hashes, so they survive the loss of Redis. Once the first is made, the HTTP interface answers nobody without one.`
}

type keyCreateCmd struct {
	Tenant  string        `default:"default" help:"Whose tasks the key reaches: letters, digits, - and _."`
	Scope   []keys.Scope  `default:"tasks:read,tasks:write" placeholder:"SCOPE" help:"tasks:read, tasks:write, gates:write, keys:write, usage:read, budgets:write; the first two by default."`
	Rate    int           `placeholder:"N" help:"Requests a minute that all servers together take; any number by default."`
	Name    string        `placeholder:"TEXT" help:"What it is for, shown by key list."`
	Expires time.Duration `placeholder:"720h" help:"How long it works; until it is revoked by default."`
	JSON    bool          `name:"json" help:"One JSON object."`
}

// Help is shown by --help.
func (keyCreateCmd) Help() string {
	return examples(
		"neuronmill key create",
		"neuronmill key create --tenant shop --scope tasks:read --rate 600",
		"neuronmill key create --name ci --expires 24h --json",
	) + `
The key is printed once and cannot be shown again. Callers send it as Authorization: Bearer KEY. The tenant comes from the key alone.`
}

// Run makes a key.
func (c *keyCreateCmd) Run(g *globals) error {
	k := keys.Key{Name: c.Name, Tenant: c.Tenant, Scopes: c.Scope, PerMinute: c.Rate}
	if c.Expires < 0 {
		return app.Usage(errors.New("--expires wants a positive duration"))
	}
	if c.Expires > 0 {
		at := time.Now().Add(c.Expires).UTC().Truncate(time.Second)
		k.ExpiresAt = &at
	}
	if err := k.Validate(); err != nil {
		return app.Usage(err)
	}
	store, _, err := app.OpenStore(g.ctx, g.settings)
	if err != nil {
		return app.Usage(err)
	}
	k, text, err := keys.Create(g.ctx, store, k)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(g.stdout).Encode(struct {
			keyJSON
			Key string `json:"key"`
		}{jsonOf(k), text})
	}
	fmt.Fprintln(g.stdout, text)
	fmt.Fprintf(g.stderr, "key %s of tenant %s; it is not shown again\n", k.ID, k.Tenant)
	return nil
}

// keyJSON is a key as --json prints it: without its hash.
type keyJSON struct {
	ID        string       `json:"id"`
	Name      string       `json:"name,omitempty"`
	Tenant    string       `json:"tenant"`
	Scopes    []keys.Scope `json:"scopes"`
	PerMinute int          `json:"per_minute,omitempty"`
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt *time.Time   `json:"expires_at,omitempty"`
	RevokedAt *time.Time   `json:"revoked_at,omitempty"`
}

func jsonOf(k keys.Key) keyJSON {
	return keyJSON{k.ID, k.Name, k.Tenant, k.Scopes, k.PerMinute, k.CreatedAt, k.ExpiresAt, k.RevokedAt}
}

type keyListCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown by --help.
func (keyListCmd) Help() string {
	return examples("neuronmill key list", "neuronmill key list --json") + `
Revoked and expired keys are listed too.`
}

// Run lists the keys.
func (c *keyListCmd) Run(g *globals) error {
	store, _, err := app.OpenStore(g.ctx, g.settings)
	if err != nil {
		return app.Usage(err)
	}
	all, err := keys.List(g.ctx, store)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(g.stdout)
		for _, k := range all {
			if err := encoder.Encode(jsonOf(k)); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(column{name: "ID"}, column{name: "TENANT", least: 8}, column{name: "STATE"}, column{name: "RATE"},
		column{name: "CREATED", shorten: shortTimes}, column{name: "SCOPES", least: 8}, column{name: "NAME", least: 4})
	for _, k := range all {
		scopes := make([]string, len(k.Scopes))
		for i, s := range k.Scopes {
			scopes[i] = string(s)
		}
		t.add(k.ID, k.Tenant, keyState(k), rateText(k.PerMinute), k.CreatedAt.Format(time.RFC3339), strings.Join(scopes, ","), k.Name)
	}
	return t.print(g.stdout)
}

func keyState(k keys.Key) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case !k.Usable(time.Now()):
		return "expired"
	}
	return "valid"
}

func rateText(perMinute int) string {
	if perMinute == 0 {
		return "any"
	}
	return fmt.Sprint(perMinute)
}

type keyRevokeCmd struct {
	ID string `arg:"" help:"As key list prints it."`
}

// Help is shown by --help.
func (keyRevokeCmd) Help() string {
	return examples("neuronmill key revoke 5e0a1c2b3d4f6a70") + `
Servers refuse it within ` + keys.CacheFor.String() + `. Revoking the last key does not open a server.`
}

// Run revokes a key.
func (c *keyRevokeCmd) Run(g *globals) error {
	store, _, err := app.OpenStore(g.ctx, g.settings)
	if err != nil {
		return app.Usage(err)
	}
	k, err := keys.Revoke(g.ctx, store, c.ID)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return app.Usage(errors.New("there is no such key: see neuronmill key list"))
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(g.stdout, "%s revoked; servers refuse it within %s\n", k.ID, keys.CacheFor)
	return nil
}
