package batch

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// The keys in Redis. Their number and size do not depend on the size of a batch.
const (
	activeKey = "neuronmill:batches"        // set: tenant/id of the batches that workers drive
	listedKey = "neuronmill:batches:listed" // expires when the bucket is to be listed again
)

// leaseKey and progressKey share a slot of a cluster. The progress is a hash: completed,
// failed, neurons, cached, lost, at (Unix milliseconds), and cancel, the request to cancel.
func leaseKey(tenant, id string) string    { return "neuronmill:batch:{" + tenant + "/" + id + "}:lease" }
func progressKey(tenant, id string) string { return "neuronmill:batch:{" + tenant + "/" + id + "}" }

const (
	leaseFor   = 10 * time.Second
	leaseRenew = 2 * time.Second
	// A driver that could not renew its lease stops leaseSlack before it expires.
	leaseSlack = 2 * time.Second
)

var (
	//go:embed lease.lua
	leaseLua string
	//go:embed release_lease.lua
	releaseLeaseLua string

	lease        = redis.NewScript(leaseLua)
	releaseLease = redis.NewScript(releaseLeaseLua)
)

// ErrDriven: another process drives the batch.
var ErrDriven = errors.New("another process drives this batch")

var errLeaseLost = errors.New("another process may drive this batch now")

// tryLease acquires or renews the lease of a batch.
func (b *Batches) tryLease(ctx context.Context, id, owner string) (mine, cancel bool, err error) {
	ctx, done := context.WithTimeout(ctx, leaseRenew)
	defer done()
	reply, err := lease.Run(ctx, b.Redis, []string{leaseKey(b.Tenant, id), progressKey(b.Tenant, id)}, owner, leaseFor.Milliseconds()).Int64Slice()
	if err != nil {
		return false, false, fmt.Errorf("take the lease of the batch: %w", err)
	}
	return reply[0] == 1, reply[1] == 1, nil
}

// holdLease renews the lease until ctx ends, and then releases it. It calls lost before
// another process can have the lease, and cancel when a cancellation was requested.
func (b *Batches) holdLease(ctx context.Context, id, owner string, lost, cancel func()) {
	defer func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = releaseLease.Run(ctx, b.Redis, []string{leaseKey(b.Tenant, id)}, owner).Err() // it expires
	}()
	fence := time.AfterFunc(leaseFor-leaseSlack, lost)
	defer fence.Stop()
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		mine, cancelled, err := b.tryLease(ctx, id, owner)
		if err != nil {
			continue // the fence ends the work when it lasts
		}
		if cancelled {
			cancel()
		}
		if !mine {
			lost()
			return
		}
		fence.Reset(time.Until(asked.Add(leaseFor - leaseSlack)))
	}
}
