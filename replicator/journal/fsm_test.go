package journal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// alterFSM changes a journal's FSM behind its back.
func alterFSM(j *Journal, fn func(f *fsm)) {
	j.fsm.mu.Lock()
	defer j.fsm.mu.Unlock()
	fn(j.fsm)
}

// peekFSM reads what no question of the package asks.
func peekFSM[T any](j *Journal, fn func(f *fsm) T) T {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return fn(j.fsm)
}

// TestFSMIsAsked: no file but fsm*.go touches what the FSM's lock guards, or the lock.
// Others have the FSM as a field named fsm, and only call its methods.
func TestFSMIsAsked(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	files := map[string]*ast.File{}
	for _, path := range paths {
		if files[path], err = parser.ParseFile(set, path, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	fields := fieldsOf(files["fsm.go"], "fsm")
	if !fields["mu"] || !fields["points"] {
		t.Fatalf("the FSM's fields are not in fsm.go: %v", fields)
	}
	for path, file := range files {
		if strings.HasPrefix(path, "fsm") {
			continue
		}
		if !strings.HasSuffix(path, "_test.go") {
			checkAsks(t, set, file, fields)
		} else {
			checkFields(t, set, file, fields)
		}
	}
}

// checkFields refuses x.fsm.field.
func checkFields(t *testing.T, set *token.FileSet, file *ast.File, fields map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && fields[s.Sel.Name] {
			if x, ok := s.X.(*ast.SelectorExpr); ok && x.Sel.Name == "fsm" {
				t.Errorf("%v: fsm.%s is read outside fsm*.go: ask by a method", set.Position(s.Pos()), s.Sel.Name)
			}
		}
		return true
	})
}

// checkAsks refuses a field of the FSM, and a function or variable of its type, in which
// a field would go unseen.
func checkAsks(t *testing.T, set *token.FileSet, file *ast.File, fields map[string]bool) {
	checkFields(t, set, file, fields)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv != nil && isFSM(n.Recv.List[0].Type) {
				t.Errorf("%v: a method of the FSM belongs into fsm*.go", set.Position(n.Pos()))
			}
			for _, p := range n.Type.Params.List {
				if isFSM(p.Type) {
					t.Errorf("%v: a function that takes the FSM belongs into fsm*.go", set.Position(n.Pos()))
				}
			}
		case *ast.AssignStmt:
			for _, x := range n.Rhs {
				if s, ok := x.(*ast.SelectorExpr); ok && s.Sel.Name == "fsm" {
					t.Errorf("%v: the FSM by another name", set.Position(n.Pos()))
				}
			}
		}
		return true
	})
}

// isFSM reports whether a type is the FSM or a view of it, or points to one.
func isFSM(x ast.Expr) bool {
	if p, ok := x.(*ast.StarExpr); ok {
		x = p.X
	}
	id, ok := x.(*ast.Ident)
	return ok && (id.Name == "fsm" || id.Name == "view")
}

// fieldsOf are the names of a struct's fields.
func fieldsOf(file *ast.File, name string) map[string]bool {
	fields := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != name {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				for _, id := range f.Names {
					fields[id.Name] = true
				}
			}
		}
		return false
	})
	return fields
}
