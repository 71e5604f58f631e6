package tasks_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func known() map[string]tasks.CodeInfo {
	all := map[string]tasks.CodeInfo{}
	for _, c := range tasks.Codes {
		all[c.Code] = c
	}
	return all
}

// docs/errors.md is generated: go test ./tasks -run Codes -update
func TestTheDocumentOfCodesIsTheTable(t *testing.T) {
	require.Len(t, known(), len(tasks.Codes), "each code once")
	require.True(t, slices.IsSortedFunc(tasks.Codes, func(a, b tasks.CodeInfo) int { return strings.Compare(a.Code, b.Code) }))
	var b strings.Builder
	b.WriteString("# Error codes\n\nGenerated from `tasks.Codes`: change them there, then `go test ./tasks -run Codes -update`.\n\n")
	section := func(title, text string, ofCall bool) {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| code | meaning | what to do |\n| --- | --- | --- |\n", title, text)
		for _, c := range tasks.Codes {
			if c.OfCall == ofCall {
				require.True(t, strings.HasSuffix(c.Meaning, ".") && strings.HasSuffix(c.Advice, "."), c.Code)
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Code, c.Meaning, c.Advice)
			}
		}
	}
	section("Failures of tasks", "`error.code` in `result.json` and in dead letters; `neuronmill dead retry` retries a failed task.", false)
	b.WriteString("\n")
	section("Errors of calls", "What a call of the Go client comes to, by `tasks.CodeOf`. A refused payload has `payload_invalid` or the code of its problem.", true)
	file := filepath.Join("..", "docs", "errors.md")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(got))
}

// Every code in use must be explained.
func TestEveryCodeThatIsUsedIsInTheTable(t *testing.T) {
	found := map[string]string{}
	for _, dir := range []string{".", "../handlers", "../workersai", "../cmd/neuronmill"} {
		maps.Copy(found, codesIn(t, dir))
	}
	inner, err := filepath.Glob("../internal/*")
	require.NoError(t, err)
	for _, dir := range inner {
		if filepath.Base(dir) == "openai" { // it answers with OpenAI's codes
			continue
		}
		maps.Copy(found, codesIn(t, dir))
	}
	require.NotEmpty(t, found, "the search finds what there is")
	for code, where := range found {
		if _, ok := known()[code]; !ok {
			t.Errorf("%s uses the code %q, which tasks.Codes does not explain", where, code)
		}
	}
}

// ours matches the form of our codes; those of S3 differ.
var ours = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

// codesIn finds string literals that are codes in the Go files of a folder: values of a
// field or variable "code", arguments of a parameter "code", return values of functions
// named ...Code, and constants of a type Reason.
func codesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	set, found := token.NewFileSet(), map[string]string{}
	var parsed []*ast.File
	parameter := map[string]int{} // position of the parameter "code", by function
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		require.NoError(t, err)
		parsed = append(parsed, f)
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			i := 0
			for _, p := range fn.Type.Params.List {
				for _, n := range p.Names {
					if strings.EqualFold(n.Name, "code") {
						parameter[fn.Name.Name] = i
					}
					i++
				}
			}
		}
	}
	add := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if code, _ := strconv.Unquote(lit.Value); ours.MatchString(code) {
				found[code] = set.Position(lit.Pos()).String()
			}
		}
	}
	isCode := func(e ast.Expr) bool {
		switch x := e.(type) {
		case *ast.Ident:
			return strings.EqualFold(x.Name, "code")
		case *ast.SelectorExpr:
			return x.Sel.Name == "Code"
		}
		return false
	}
	for _, f := range parsed {
		inCode := false
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.FuncDecl:
				inCode = strings.HasSuffix(x.Name.Name, "Code") || strings.HasSuffix(x.Name.Name, "CodeOf")
			case *ast.KeyValueExpr:
				if isCode(x.Key) {
					add(x.Value)
				}
			case *ast.AssignStmt:
				for i := range min(len(x.Lhs), len(x.Rhs)) {
					if isCode(x.Lhs[i]) {
						add(x.Rhs[i])
					}
				}
			case *ast.BinaryExpr:
				if isCode(x.X) && (x.Op == token.EQL || x.Op == token.NEQ) {
					add(x.Y)
				}
			case *ast.ReturnStmt:
				for _, e := range x.Results {
					if inCode {
						add(e)
					}
				}
			case *ast.CallExpr:
				name := ""
				switch fun := x.Fun.(type) {
				case *ast.Ident:
					name = fun.Name
				case *ast.SelectorExpr:
					name = fun.Sel.Name
				}
				if i, ok := parameter[name]; ok && i < len(x.Args) {
					add(x.Args[i])
				}
			case *ast.ValueSpec:
				if id, ok := x.Type.(*ast.Ident); ok && id.Name == "Reason" {
					for _, v := range x.Values {
						add(v)
					}
				}
			}
			return true
		})
	}
	return found
}

func TestEveryErrorOfACallHasItsCode(t *testing.T) {
	for want, err := range map[string]error{
		tasks.CodeUnknownOutcome:      fmt.Errorf("enqueue: %w: %w", tasks.ErrUnknownOutcome, tasks.ErrNotFound),
		tasks.CodeIdempotencyMismatch: tasks.ErrIdempotencyMismatch,
		tasks.CodeResultInStore:       &tasks.ResultInStoreError{ID: "t_1"},
		tasks.CodeTaskEnded:           tasks.ErrEnded,
		tasks.CodeTaskNotFound:        fmt.Errorf("wait for t_1: %w", tasks.ErrNotFound),
		tasks.CodeTaskOverdue:         tasks.ErrOverdue,
		tasks.CodePayloadInvalid:      tasks.Text{}.Validate(),
		tasks.CodeSameLanguage:        tasks.Translation{Text: "a", TargetLang: "en"}.Validate(),
		tasks.CodeCancelled:           &tasks.TaskError{Code: "cancelled"},
		"":                            errors.New("dial tcp: refused"),
	} {
		require.Equal(t, want, tasks.CodeOf(err), "%v", err)
		if want != "" {
			require.Equal(t, want, known()[want].Code)
		}
	}
}
