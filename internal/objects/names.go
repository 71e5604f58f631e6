package objects

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
)

// DefaultTenant is the tenant of a client whose settings name none. A tenant is the first
// segment of the keys of its objects.
const DefaultTenant = storage.DefaultTenant

// ResultKey returns the object key of a task's result.
func ResultKey(tenant, id string) string { return ArtefactKey(tenant, id, "result.json") }

// ArtefactKey returns the object key of a file beside the result: "transcript.vtt".
func ArtefactKey(tenant, id, name string) string { return tenant + "/tasks/" + id + "/" + name }

// FailedTaskKey returns the object key of the copy of a failed task beside its result. A
// retry reads it.
func FailedTaskKey(tenant, id string) string { return ArtefactKey(tenant, id, "task.json") }

// PendingPrefix begins the keys of a tenant's pending records. PendingKey returns that of
// one task.
func PendingPrefix(tenant string) string  { return tenant + "/pending/" }
func PendingKey(tenant, id string) string { return PendingPrefix(tenant) + id + ".json" }

// DeadPrefix begins the keys of a tenant's dead-letter entries. DeadKey returns that of
// one task.
func DeadPrefix(tenant string) string  { return tenant + "/dead/" }
func DeadKey(tenant, id string) string { return DeadPrefix(tenant) + id + ".json" }

// Tenants lists the tenants that have objects in a bucket, with one listing request per
// tenant.
func Tenants(ctx context.Context, s storage.Store) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for after := ""; ; {
			tenant := ""
			for info, err := range s.List(ctx, "", after) {
				if err != nil {
					yield("", fmt.Errorf("list the tenants: %w", err))
					return
				}
				tenant, _, _ = strings.Cut(info.Key, "/")
				break
			}
			if tenant == "" || !yield(tenant, nil) {
				return
			}
			after = tenant + "0" // the byte after "/": skips all objects of the tenant
		}
	}
}
