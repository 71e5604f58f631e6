package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
)

// followed is a stored schedule that this process knows.
type followed struct {
	tenant  string
	version string // ETags of its objects
	stop    context.CancelFunc
	ended   <-chan struct{} // nil while it is paused, or when it cannot run
}

// follow runs the stored schedules until ctx ends. One command a poll asks Redis which
// tenants have changed; the bucket is listed for those, and for all every listEvery.
func (s *Scheduler) follow(ctx context.Context) {
	defer func() {
		for _, f := range s.stored {
			f.stop()
		}
	}()
	var listed time.Time // zero: not yet
	failing := false
	for {
		var err error
		if s.cfg.Now().Sub(listed).Abs() >= max(listEvery, s.cfg.Poll) {
			if err = s.refreshAll(ctx); err == nil {
				listed = s.cfg.Now()
			}
		} else {
			err = s.refreshChanged(ctx)
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.cfg.Log.Warn("cannot look for changes of the schedules; it is tried again", "error", err, "every", s.cfg.Poll)
		}
		failing = err != nil
		if !sleep(ctx, s.cfg.Poll) {
			return
		}
	}
}

// refreshChanged reads the schedules of the tenants whose version has changed.
func (s *Scheduler) refreshChanged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	versions, err := s.cfg.Redis.HGetAll(ctx, versionsKey).Result()
	if err != nil {
		return fmt.Errorf("read the versions of the schedules: %w", err)
	}
	for tenant, version := range versions {
		if s.seen[tenant] == version {
			continue
		}
		if err := s.refresh(ctx, tenant); err != nil {
			return err
		}
		s.seen[tenant] = version
	}
	return nil
}

// refreshAll reads the schedules of all tenants in the bucket, and of those that are known.
// It needs no Redis. The versions are read first, so that a change meanwhile is noticed.
func (s *Scheduler) refreshAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	versions, _ := s.cfg.Redis.HGetAll(ctx, versionsKey).Result() // they change nothing when they are missing
	all := map[string]bool{}
	for _, f := range s.stored {
		all[f.tenant] = true
	}
	for tenant, err := range objects.Tenants(ctx, s.cfg.Store) {
		if err != nil {
			return err
		}
		all[tenant] = true
	}
	for tenant := range all {
		if err := s.refresh(ctx, tenant); err != nil {
			return err
		}
	}
	maps.Copy(s.seen, versions)
	return nil
}

// refresh starts and stops the runners of a tenant as its stored schedules say.
func (s *Scheduler) refresh(ctx context.Context, tenant string) error {
	found := map[string]string{} // the version of each schedule
	states := map[string]string{}
	prefix := storedPrefix(tenant)
	for info, err := range s.cfg.Store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list the schedules: %w", err)
		}
		file := strings.TrimPrefix(info.Key, prefix)
		if name, ok := strings.CutSuffix(file, documentSuffix); ok {
			found[name] = versionOf(info)
		} else if name, ok := strings.CutSuffix(file, stateSuffix); ok {
			states[name] = versionOf(info)
		}
	}
	for id, f := range s.stored {
		name := strings.TrimPrefix(id, tenant+"/")
		if f.tenant != tenant || f.version == found[name]+" "+states[name] {
			continue
		}
		f.stop()
		if f.ended != nil {
			<-f.ended // the next runner of the schedule must not meet this one
		}
		delete(s.stored, id)
	}
	for name, version := range found {
		if s.stored[tenant+"/"+name] != nil {
			continue
		}
		if err := s.start(ctx, tenant, name, version+" "+states[name]); err != nil {
			return err
		}
	}
	return nil
}

// versionOf identifies the content of an object.
func versionOf(i storage.Info) string {
	return fmt.Sprintf("%s/%d/%d", i.ETag, i.Size, i.Modified.UnixNano())
}

// start reads a stored schedule and starts its runner unless it is paused.
func (s *Scheduler) start(ctx context.Context, tenant, name, version string) error {
	of := NewStored(StoredConfig{Store: s.cfg.Store, Redis: s.cfg.Redis, Tenant: tenant, Log: s.cfg.Log})
	d, now, err := of.read(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	f := &followed{tenant: tenant, version: version, stop: func() {}}
	s.stored[tenant+"/"+name] = f
	e, err := d.Check()
	switch {
	case err != nil:
		s.cfg.Log.Error("a stored schedule cannot run; remove it and add it again", "tenant", tenant, "schedule", name, "error", err)
		return nil
	case now.Paused:
		return nil
	case tenant == objects.DefaultTenant && s.inFile(name):
		s.cfg.Log.Warn("a schedule of the file has the name of a stored one, which does not run here", "schedule", name)
		return nil
	}
	if e.Missed == "" {
		e.Missed = MissedOnce
	}
	e.since = d.CreatedAt
	if now.Since.After(e.since) {
		e.since = now.Since
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	f.ended = s.begin(running, tenant, e)
	return nil
}

// inFile reports whether the file has a schedule of the name.
func (s *Scheduler) inFile(name string) bool {
	for _, e := range s.cfg.Entries {
		if e.Name == name {
			return true
		}
	}
	return false
}
