package golden

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Constants returns the names of the constants that the package under test declares in its
// source with a type, or with no type and names that begin with prefix, and their values.
// So a test finds the kinds that have no vector yet.
func Constants(t testing.TB, typ, prefix string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		src, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range src.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				constantsOf(t, g, typ, prefix, out)
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("no constants %s %s are declared here", typ, prefix)
	}
	return out
}

func constantsOf(t testing.TB, g *ast.GenDecl, typ, prefix string, out map[string]uint64) {
	t.Helper()
	for _, s := range g.Specs {
		v := s.(*ast.ValueSpec)
		id, typed := v.Type.(*ast.Ident)
		for i, name := range v.Names {
			if !(typed && id.Name == typ || v.Type == nil && prefix != "" && strings.HasPrefix(name.Name, prefix)) {
				continue
			}
			lit, ok := v.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s is no literal", name.Name)
			}
			n, err := valueOf(lit)
			if err != nil {
				t.Fatalf("%s: %v", name.Name, err)
			}
			out[name.Name] = n
		}
	}
}

func valueOf(lit *ast.BasicLit) (uint64, error) {
	if lit.Kind == token.CHAR {
		r, _, _, err := strconv.UnquoteChar(strings.Trim(lit.Value, "'"), '\'')
		return uint64(r), err
	}
	return strconv.ParseUint(lit.Value, 0, 64)
}
