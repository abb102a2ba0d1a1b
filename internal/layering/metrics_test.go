package layering

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metric is what a metric's declaration, or its row in docs/metrics.md, says.
type metric struct {
	kind   string
	labels string // sorted, with commas between
}

// TestDocumentedMetrics holds the table of docs/metrics.md against the metrics that the
// daemons declare: a row for each, with its kind and its labels.
func TestDocumentedMetrics(t *testing.T) {
	declared, documented := declaredMetrics(t), documentedMetrics(t)
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		switch said, ok := documented[name]; {
		case !ok:
			t.Errorf("docs/metrics.md has no row for %s", name)
		case said != declared[name]:
			t.Errorf("docs/metrics.md says that %s is %+v; it is %+v", name, said, declared[name])
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has a row for %s, which nothing declares", name)
	}
	if len(declared) < 20 {
		t.Errorf("only %d metrics were found", len(declared))
	}
}

func documentedMetrics(t *testing.T) map[string]metric {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]metric{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(pollux_\\w+)` \\| (\\w+) \\|([^|]*)\\|").
		FindAllStringSubmatch(string(page), -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("docs/metrics.md has two rows for %s", m[1])
		}
		out[m[1]] = metric{m[2], labels(strings.FieldsFunc(m[3], func(r rune) bool {
			return r == ',' || r == ' ' || r == '`'
		}))}
	}
	return out
}

func labels(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// declaredMetrics reads the declarations from the source: calls of adminhttp.Desc, and of
// Prometheus's constructors.
func declaredMetrics(t *testing.T) map[string]metric {
	out := map[string]metric{}
	note := func(at, name string, m metric) {
		if other, twice := out[name]; twice && other != m {
			t.Errorf("%s: %s is %+v, and elsewhere %+v", at, name, m, other)
		}
		out[name] = m
	}
	for _, path := range sources(t, ".go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "prometheus/client_golang/prometheus\"") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, b, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			switch fn := called(call); {
			case fn == "Desc":
				if name := text(call.Args[0]); name != "" {
					kind := "gauge"
					if strings.HasSuffix(name, "_total") {
						kind = "counter"
					}
					note(path, "pollux_"+name, metric{kind, labels(texts(call.Args[2:]))})
				}
			case constructor.MatchString(fn):
				opts, _ := call.Args[0].(*ast.CompositeLit)
				if opts == nil {
					return true
				}
				m, name := metric{kind: strings.ToLower(constructor.FindStringSubmatch(fn)[1])}, ""
				names := labelsOf(call.Args[1:])
				for _, e := range opts.Elts {
					switch kv := e.(*ast.KeyValueExpr); kv.Key.(*ast.Ident).Name {
					case "Name":
						name = text(kv.Value)
					case "ConstLabels":
						for _, l := range kv.Value.(*ast.CompositeLit).Elts {
							names = append(names, text(l.(*ast.KeyValueExpr).Key))
						}
					}
				}
				m.labels = labels(names)
				note(path, name, m)
			}
			return true
		})
	}
	return out
}

var constructor = regexp.MustCompile(`^New(Counter|Gauge|Histogram|Summary)(?:Vec|Func)?$`)

func called(call *ast.CallExpr) string {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		return fn.Sel.Name
	}
	return ""
}

func text(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value)
	return s
}

func texts(all []ast.Expr) (out []string) {
	for _, e := range all {
		out = append(out, text(e))
	}
	return out
}

func labelsOf(args []ast.Expr) (out []string) {
	for _, a := range args {
		if list, ok := a.(*ast.CompositeLit); ok {
			out = append(out, texts(list.Elts)...)
		}
	}
	return out
}
