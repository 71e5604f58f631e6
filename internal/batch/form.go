package batch

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/tasks"
)

// Form says how the lines of a file become payloads. The zero value is for native lines.
type Form struct {
	Template        // of plain lines and CSV; its kind is empty for native lines
	Column   string // of a CSV file with a header: the column with the input
	IDColumn string // of a CSV file: the column with the ids; empty means the numbers of the lines
}

// Format returns the format of a file by its name, which may end in .gz or .zst. Its error
// is a tasks.ValidationError with the fields kind, column and id_column.
func (f Form) Format(name string) (Format, error) {
	name = strings.ToLower(name)
	for _, suffix := range []string{".gz", ".zst"} {
		name = strings.TrimSuffix(name, suffix)
	}
	ext := path.Ext(name)
	tabular := f.Column != "" || ext == ".csv" || ext == ".tsv"
	invalid := func(field, format string, args ...any) error {
		return tasks.ValidationError{{Field: field, Message: fmt.Sprintf(format, args...)}}
	}
	switch {
	case f.Kind == "" && (f.Column != "" || f.IDColumn != "" || f.Model != "" || len(f.Fields) > 0):
		return nil, invalid("kind", "is missing: columns, a model and fields are for plain lines and CSV")
	case f.Kind == "" && tabular:
		return nil, invalid("kind", "is missing: the file is CSV, so give the kind of its lines and the column with their input")
	case f.Kind == "":
		return Native, nil
	case !slices.ContainsFunc(tasks.Specs, func(s tasks.Spec) bool { return s.Kind == f.Kind }):
		return nil, invalid("kind", "is none of the kinds: there is no kind %q", f.Kind)
	case tabular && f.Column == "":
		return nil, invalid("column", "is missing: the file is CSV, so give the column with the input")
	case f.IDColumn != "" && !tabular:
		return nil, invalid("id_column", "is for CSV: give the column with the input too")
	case !tabular:
		return f.Text(), nil
	case ext == ".tsv":
		return f.CSV(f.Column, f.IDColumn, '\t'), nil
	}
	return f.CSV(f.Column, f.IDColumn, ','), nil
}
