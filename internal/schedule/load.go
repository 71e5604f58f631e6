package schedule

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/neuronmill/neuronmill/tasks"
)

// file is the format of schedules.yaml.
type file struct {
	Schedules []Definition `yaml:"schedules"`
}

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
	for i, d := range f.Schedules {
		e, err := d.Check()
		invalid, _ := errors.AsType[tasks.ValidationError](err)
		if seen[d.Name] {
			invalid = append(invalid, tasks.Problem{Field: "name", Message: "stands twice"})
		}
		seen[d.Name] = true
		for _, p := range invalid {
			errs = append(errs, fmt.Errorf("schedules[%d] %s: %s: %s", i, d.Name, p.Field, p.Message))
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}
