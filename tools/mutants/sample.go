package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
)

// sample runs random mutants of packages against the packages' own tests. It prints the
// survivors and the score. Equivalent mutants, such as a changed log line, are included,
// so a score is meaningful only beside other scores.
func sample(ctx context.Context, o options, packages []string) error {
	for _, p := range packages {
		all, err := changesOf(p)
		if err != nil {
			return err
		}
		r := rand.New(rand.NewPCG(o.seed, 0))
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		some := all[:min(o.sample, len(all))]
		slices.SortFunc(some, func(a, b mutant) int { return cmp.Compare(a.Name, b.Name) })
		killed, ran := 0, 0
		judgeAll(ctx, o, some, func(m mutant, v verdict) {
			if strings.HasPrefix(v.why, "it does not build") {
				return
			}
			ran++
			if v.killed || strings.Contains(v.why, "does not end") || strings.Contains(v.why, "panics") {
				killed++
				return
			}
			fmt.Printf("survived  %s\n", m.Name)
		})
		fmt.Printf("%s: %d of %d killed, drawn from %d mutants\n", p, killed, ran, len(all))
	}
	return ctx.Err()
}

// changesOf returns every small change of the package's files.
func changesOf(dir string) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		count, err := changeFile(name, -1)
		if err != nil {
			return nil, err
		}
		for i := range count.n {
			changed, err := changeFile(name, i)
			if err != nil {
				return nil, err
			}
			all = append(all, mutant{
				Name: fmt.Sprintf("%s:%d %s", name, changed.line, changed.what), Edits: []edit{{File: name, New: string(changed.text)}}, Package: "./" + filepath.ToSlash(filepath.Clean(dir)),
			})
		}
	}
	return all, nil
}

// change is a file with its nth change applied, and the number of possible changes.
type change struct {
	n    int
	line int
	what string
	text []byte
}

// changeFile applies the nth change to a file; -1 applies none.
func changeFile(name string, nth int) (change, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
	if err != nil {
		return change{}, err
	}
	c := change{}
	try := func(at token.Pos, what string, do func()) {
		if c.n == nth {
			c.line, c.what = set.Position(at).Line, what
			do()
		}
		c.n++
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt:
			try(n.Pos(), "condition true", func() { n.Cond = &ast.BinaryExpr{X: paren(n.Cond), Op: token.LOR, Y: ast.NewIdent("true")} })
			try(n.Pos(), "condition false", func() { n.Cond = &ast.BinaryExpr{X: paren(n.Cond), Op: token.LAND, Y: ast.NewIdent("false")} })
		case *ast.BinaryExpr:
			if other, ok := swapped[n.Op]; ok {
				op := n.Op
				try(n.Pos(), op.String()+" to "+other.String(), func() { n.Op = other })
			}
		case *ast.BlockStmt:
			for i, s := range n.List {
				if _, ok := s.(*ast.ExprStmt); ok {
					try(s.Pos(), "call removed", func() { n.List[i] = &ast.EmptyStmt{Semicolon: s.Pos()} })
				}
				if d, ok := s.(*ast.DeferStmt); ok {
					try(d.Pos(), "defer removed", func() { n.List[i] = &ast.EmptyStmt{Semicolon: s.Pos()} })
				}
			}
		case *ast.BasicLit:
			if n.Kind == token.INT && n.Value != "0" {
				try(n.Pos(), n.Value+" plus one", func() { n.Value = "(" + n.Value + " + 1)" })
			}
		}
		return true
	})
	if nth < 0 {
		return c, nil
	}
	var out bytes.Buffer
	if err := format.Node(&out, set, file); err != nil {
		return change{}, fmt.Errorf("%s: %w", name, err)
	}
	c.text = out.Bytes()
	return c, nil
}

func paren(e ast.Expr) ast.Expr { return &ast.ParenExpr{X: e} }

// swapped maps each operator to its replacement.
var swapped = map[token.Token]token.Token{
	token.LAND: token.LOR, token.LOR: token.LAND, token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL,
}
