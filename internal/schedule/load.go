package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/robfig/cron/v3"
)

// file is the format of schedules.yaml.
type file struct {
	Schedules []struct {
		Name     string            `yaml:"name"`
		Cron     string            `yaml:"cron"`      // five fields, or a descriptor such as @daily
		TimeZone string            `yaml:"time_zone"` // IANA name; UTC when empty
		Kind     tasks.Kind        `yaml:"kind"`
		Payload  map[string]any    `yaml:"payload"`
		Lane     tasks.Lane        `yaml:"lane"` // bulk when empty
		Model    string            `yaml:"model"`
		Deadline string            `yaml:"deadline"` // a duration after the slot, such as 6h
		Metadata map[string]string `yaml:"metadata"`
	} `yaml:"schedules"`
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Load reads schedules.yaml and reports all its errors at once.
func Load(r io.Reader) ([]Entry, error) {
	var f file
	decoder := yaml.NewDecoder(r, yaml.Strict())
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("schedules: %s", strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("schedules: the file holds more than one YAML document; put all schedules into one list")
	}
	var (
		entries []Entry
		errs    []error
		seen    = map[string]bool{}
	)
	if len(f.Schedules) == 0 {
		errs = append(errs, errors.New("schedules: the list is empty"))
	}
	for i, s := range f.Schedules {
		fault := func(field string, err error) {
			errs = append(errs, fmt.Errorf("schedules[%d] %s: %s: %w", i, s.Name, field, err))
		}
		if !goodName.MatchString(s.Name) {
			fault("name", errors.New("wants 1 to 64 letters, digits and _.-"))
		}
		if seen[s.Name] {
			fault("name", errors.New("stands twice"))
		}
		seen[s.Name] = true
		e := Entry{Name: s.Name}
		var err error
		if e.zone, err = zone(s.TimeZone); err != nil {
			fault("time_zone", err)
			e.zone = time.UTC
		}
		if e.slots, err = slots(s.Cron, e.zone); err != nil {
			fault("cron", err)
		}
		if s.Deadline != "" {
			if e.ttl, err = time.ParseDuration(s.Deadline); err != nil || e.ttl <= 0 {
				fault("deadline", errors.New("is no duration like 6h"))
			}
		}
		if s.Lane == "" {
			s.Lane = tasks.Bulk
		}
		if s.Lane != tasks.Bulk && s.Lane != tasks.Interactive {
			fault("lane", errors.New("is neither interactive nor bulk"))
		}
		encoded, err := json.Marshal(s.Payload)
		if err == nil {
			e.payload, err = tasks.Parse(s.Kind, encoded)
		}
		if err != nil {
			fault("payload", err)
		}
		e.options = []tasks.Option{tasks.WithLane(s.Lane), tasks.WithModel(s.Model), tasks.WithMetadata(s.Metadata)}
		if e.payload != nil {
			if err := tasks.Check(e.payload, e.options...); err != nil {
				fault("task", err)
			}
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}

// zone finds a time zone by its name; a path is refused.
func zone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" || strings.Contains(name, "..") {
		return nil, fmt.Errorf("there is no time zone %q", name)
	}
	return z, nil
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

func slots(spec string, z *time.Location) (cron.Schedule, error) {
	if strings.HasPrefix(strings.TrimSpace(spec), "@every") || strings.Contains(spec, "TZ=") {
		return nil, errors.New("takes five fields or @daily and its like; a time zone goes into time_zone")
	}
	s, err := parser.Parse(spec)
	if err != nil {
		return nil, err
	}
	if s.Next(time.Now().In(z)).IsZero() {
		return nil, errors.New("never comes")
	}
	return s, nil
}
