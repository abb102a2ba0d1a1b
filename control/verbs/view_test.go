package verbs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// waits are packages and functions that a callback of View may not call: what they do takes
// as long as a disk, another host or another lock does.
var waits = map[string]bool{"os": true, "net": true, "http": true, "backing": true, "time.Sleep": true,
	"time.After": true}

// TestViewsDoNotWait: a callback of View runs under the lock that the journal's own work
// takes, so that one that waits holds up every host's writes. It takes what it needs of the
// state; who gave it asks the agent, the disk and the rest after it.
func TestViewsDoNotWait(t *testing.T) {
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	views := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			receiver := ""
			if f.Recv != nil && len(f.Recv.List[0].Names) > 0 {
				receiver = f.Recv.List[0].Names[0].Name
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || !calls(call, "View") || len(call.Args) != 1 {
					return true
				}
				views++
				for _, bad := range waiting(call.Args[0], receiver) {
					t.Errorf("%v: under View, %s calls %s", set.Position(bad.Pos()), f.Name.Name, path(bad.Fun))
				}
				return true
			})
		}
	}
	if views < 20 {
		t.Errorf("only %d calls of View were found", views)
	}
}

func calls(c *ast.CallExpr, method string) bool {
	s, ok := c.Fun.(*ast.SelectorExpr)
	return ok && s.Sel.Name == method
}

// waiting finds the calls in a callback that could wait: those of anything that belongs to
// the caller's receiver, and those in waits.
func waiting(callback ast.Node, receiver string) (bad []*ast.CallExpr) {
	ast.Inspect(callback, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := path(c.Fun)
		root, _, selected := strings.Cut(name, ".")
		if selected && (root == receiver || waits[root] || waits[name]) {
			bad = append(bad, c)
		}
		return true
	})
	return bad
}

// path writes a.b.c for what is called so; "" for anything else.
func path(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		if p := path(x.X); p != "" {
			return p + "." + x.Sel.Name
		}
	}
	return ""
}
